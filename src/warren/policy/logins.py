"""When two log-in names, or two domains, are the same: by case, and by IDNA (RFC 5891, UTS #46)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_MAX_DOMAIN: Final = 253
_PUNYCODE: Final = "xn--"


def domain_key(text: str) -> str:
    """Return what is equal for domains that DNS takes for the same: Bücher.de, xn--bcher-kva.de.

    That is the domain in lower case, in Punycode where it needs that. What is no domain by IDNA is
    equal to itself alone, whatever its case.
    """
    lower = text.lower()
    if lower.isascii() and _PUNYCODE not in lower:
        return lower
    return _by_idna(lower)


def login_key(text: str) -> str:
    """Return what is equal for log-in names, or groups with a domain, of the same person or group.

    Before the @ only case does not matter.
    """
    local, at, domain = text.rpartition("@")
    return f"{local.lower()}@{domain_key(domain)}" if at else text.lower()


@lru_cache(maxsize=1024)
def _by_idna(text: str) -> str:
    import idna  # its tables are large, and few networks need them

    if len(text) > _MAX_DOMAIN:
        return text
    try:
        return idna.encode(text, uts46=True).decode("ascii").lower()
    except UnicodeError:
        return text
