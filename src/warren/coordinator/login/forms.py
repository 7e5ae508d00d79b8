"""What browsers send: small forms, and where a log-in leads afterwards."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request

from warren.coordinator.refusal import Refused

HOME: Final = "/account"
_MAX_BODY_BYTES = 16 << 10
_MAX_FIELDS = 20
# Pages of ours and nothing else: a log-in must not lead to somebody else's site.
_WAYS = re.compile(
    r"/(?:account|register/[0-9A-Za-z]{1,64}|invite/[0-9A-Za-z-]{1,80}|ssh/[0-9A-Za-z]{1,64})"
)


async def read_form(request: Request) -> dict[str, str]:
    """Return a form's fields. Raises Refused."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > _MAX_BODY_BYTES:
            raise Refused("the form is larger than 16 KiB")
    return fields_untrusted(bytes(data))


def fields_untrusted(data: bytes) -> dict[str, str]:
    """Read `application/x-www-form-urlencoded`, the last of equal names. Raises Refused."""
    try:
        found = parse_qs(
            data.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=_MAX_FIELDS,
            errors="strict",
        )
    except ValueError:
        raise Refused("the form cannot be read") from None
    return {name: values[-1] for name, values in found.items()}


def way_untrusted(text: str) -> str:
    """Return where to go after a log-in: a page of ours, whatever was asked for."""
    return text if _WAYS.fullmatch(text) else HOME
