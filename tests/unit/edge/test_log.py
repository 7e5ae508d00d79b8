"""Logs for programs: each line of standard error is one JSON object, whoever wrote it."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging, structlog
from warren.edge.log import configure_logging
configure_logging("info", "json")
log = structlog.get_logger("server")
log.debug("not this one")
log.info("a machine joined", node="x", address="100.64.0.1")
log.warning("odd", name='a"b\\nc\\x1b[31m')
logging.getLogger("uvicorn.error").error("from a %s", "library")
logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
try:
    raise ValueError("bad")
except ValueError:
    log.exception("it broke")
"""


def test_a_line_is_an_object() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    joined, odd, library, broke = map(json.loads, run.stderr.splitlines())
    assert (joined["event"], joined["level"], joined["node"]) == ("a machine joined", "info", "x")
    assert joined["timestamp"].endswith("Z")
    assert odd["name"] == 'a"b\nc\x1b[31m'
    assert (library["event"], library["level"]) == ("from a library", "error")
    assert broke["exception"][0]["exc_type"] == "ValueError"


def test_text_is_a_line_in_plain_sight() -> None:
    script = SCRIPT.replace('"json"', '"text"').replace("log.debug", (
        r"""log.info("x", a="b\x1b[31m", b="c\u202ed", c="e\nf [info] no", d="\x9b")
log.debug"""
    ))  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    first, second, *rest = run.stderr.splitlines()
    for shown in ("b\\x1b[31m", "c\\u202ed", "\\x9b"):
        assert shown in first, first
    assert first.isprintable() and "a machine joined" in second
    assert any("Traceback" in line for line in rest), "it broke, over several lines"
