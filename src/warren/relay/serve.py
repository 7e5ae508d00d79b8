"""How a connection at the front door becomes a client of the relay (PROTOCOL §4.1, §4.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from warren.derp.upgrade import PATH, WEBSOCKET_SUBPROTOCOL, parse_upgrade_untrusted
from warren.edge.http import Answer, Answerer, Arrival, Head, Taker, hand_over
from warren.edge.websocket import accept_websocket, is_websocket
from warren.relay.hub import Hub

_CHALLENGE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def takers(hub: Hub) -> Mapping[str, Taker]:
    """Return what takes over connections, by path.

    Upgrades on a TLS port are seen by the native relay and do not come here; plain HTTP and
    WebSocket do.
    """

    def derp(arrival: Arrival) -> Answer | None:
        if is_websocket(arrival.head):
            return accept_websocket(arrival, WEBSOCKET_SUBPROTOCOL, hub.pump())
        wish = parse_upgrade_untrusted(arrival.head.headers)
        # Go clients ask with GET, the Rust client with POST.
        if wish is None or arrival.head.method not in ("GET", "POST"):
            return Answer(
                426, b"this is a DERP relay; it needs an upgrade\n", headers=(("upgrade", "DERP"),)
            )
        if not hub.adopt(arrival.transport, arrival.rest, wish.fast_start):
            pump = hub.pump(arrival.rest, wish.fast_start)
            hand_over(arrival.transport, pump, b"")
        return None

    return {PATH: derp}


def answers() -> Mapping[str, Answerer]:
    """Return what clients probe a relay with, by path."""
    return {
        "/derp/probe": _probe,
        "/derp/latency-check": _probe,
        "/generate_204": _generate_204,
    }


def _probe(head: Head) -> Answer:
    return Answer(200, headers=(("access-control-allow-origin", "*"),))


def _generate_204(head: Head) -> Answer:
    headers = [("cache-control", "no-cache, no-store, must-revalidate")]
    challenge = head.header("x-tailscale-challenge")
    if _CHALLENGE.fullmatch(challenge):
        headers.append(("x-tailscale-response", f"response {challenge}"))
    return Answer(204, headers=tuple(headers))
