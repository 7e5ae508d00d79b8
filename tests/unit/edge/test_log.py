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
