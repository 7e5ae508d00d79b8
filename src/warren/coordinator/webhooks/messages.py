"""Events as they are sent: the service's JSON, or what a chat program reads; and the signature."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from warren.coordinator.webhooks.events import Event

SIGNATURE_HEADER = "Tailscale-Webhook-Signature"
PROVIDERS = ("", "slack", "mattermost", "googlechat", "discord")
_VERSION = 1
# What the chat programs take in one message, with room to spare.
_MAX_TEXT_CHARACTERS = 1900


def body(events: Sequence[Event], provider: str, domain: str, url: str) -> bytes:
    """Return the request's body. domain: the network's; url: its server's."""
    if not provider:
        return msgspec.json.encode([_told(event, domain, url) for event in events])
    text = "\n".join(f"{domain}: {event.message}" for event in events)
    if len(text) > _MAX_TEXT_CHARACTERS:
        text = text[: _MAX_TEXT_CHARACTERS - 1] + "…"
    return msgspec.json.encode({"content" if provider == "discord" else "text": text})


def signature(secret: str, wall: datetime, content: bytes) -> str:
    """Return the header's value: when it was signed, and HMAC-SHA256 over that and the body."""
    moment = int(wall.timestamp())
    mac = hmac.new(secret.encode(), f"{moment}.".encode() + content, hashlib.sha256)
    return f"t={moment},v1={mac.hexdigest()}"


def _told(event: Event, domain: str, url: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "timestamp": event.timestamp,
        "version": _VERSION,
        "type": event.type,
        "tailnet": domain,
        "message": event.message,
    }
    if event.data:
        told["data"] = {**event.data, "url": url}
    return told
