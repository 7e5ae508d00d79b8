"""Names of machines and users, fit for DNS and for people."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container

MAX_LABEL = 63
_UNFIT = re.compile(r"[^a-z0-9]+")
_USER = re.compile(r"[^\s\x00-\x1f\x7f/\\:?#<>\"']{1,254}")
_HOST_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_TAG = re.compile(r"tag:[a-zA-Z][a-zA-Z0-9-]{0,61}")


def dns_label(text: str) -> str:
    """Return the DNS label nearest to a host name: `Ann's MacBook.local` is `anns-macbook`.

    RFC 1035 §2.3.1 letters, digits and hyphens, at most 63; `node` where nothing is left.
    """
    first = text.strip().split(".", 1)[0]
    plain = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode()
    label = _UNFIT.sub("-", plain.lower().replace("'", ""))
    return label[:MAX_LABEL].strip("-") or "node"


def unique_label(label: str, taken: Container[str]) -> str:
    """Return `label`, or the first of `label-1`, `label-2`, … that is not taken."""
    if label not in taken:
        return label
    number = 1
    while True:
        suffix = f"-{number}"
        candidate = label[: MAX_LABEL - len(suffix)].rstrip("-") + suffix
        if candidate not in taken:
            return candidate
        number += 1


def is_user_name(text: str) -> bool:
    """Whether a user may be called so: an e-mail address or a plain name, without spaces.

    What cannot be seen, or turns text around, would make two names look alike.
    """
    return _USER.fullmatch(text) is not None and text.isprintable()


def is_host_name(text: str) -> bool:
    """Whether this is a name of a host (RFC 1123 §2.1), in its ASCII form."""
    return len(text) <= 253 and all(map(_HOST_LABEL.fullmatch, text.removesuffix(".").split(".")))


def is_tag(text: str) -> bool:
    """Whether this is a tag as policies write them: `tag:` and a name."""
    return _TAG.fullmatch(text) is not None
