"""`warren lab grid --stock`: stock clients in the grid, and why their pairs are not direct."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

COMMAND = [sys.executable, "-m", "warren", "lab", "grid", "--json", "--timeout", "8"]


def grid(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["failed"] == {}
    assert report["stock_version"].startswith("1.")
    for pair in report["pairs"]:
        assert pair["surprise"] == "", pair
        assert pair["first_seconds"] is not None, pair
    return report


def test_two_stock_clients_and_what_keeps_them_apart(stock_client: None) -> None:
    """Also through an HTTP proxy that knows CONNECT alone, as their own service is reached."""
    pairs = "port-restricted:public,symmetric:port-restricted,public:http-proxy,ipv6-only:symmetric"
    found = {pair["b"]: pair for pair in grid("--stock", "both", "--pairs", pairs)["pairs"]}
    assert found["public"]["outcome"] == "direct"
    causes = {b: (p["outcome"], p["cause"], p["told_by"]) for b, p in found.items()}
    assert causes["port-restricted"] == ("relayed", "hard", "kinds")
    assert causes["http-proxy"] == ("relayed", "peer-no-udp", "kinds")
    assert causes["symmetric"] == ("relayed", "no-common-family", "kinds")
    assert "would have to be guessed" in found["port-restricted"]["why"][0]


def test_a_node_tells_why_a_stock_client_is_relayed(stock_client: None) -> None:
    """It knows nothing of the kinds: the two agree."""
    report = grid("--stock", "one", "--pairs", "symmetric:symmetric,public:http-proxy")
    found = {pair["b"]: pair for pair in report["pairs"]}
    causes = {b: (p["outcome"], p["cause"], p["told_by"]) for b, p in found.items()}
    assert causes["symmetric"] == ("relayed", "hard-hard", "warren why")
    assert causes["http-proxy"] == ("relayed", "peer-no-udp", "warren why")
