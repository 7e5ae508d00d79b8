"""Sources and destinations of the packet filter, as the coordinator writes them."""

from __future__ import annotations

from ipaddress import ip_address

from warren.node.filtering import MalformedFilter, parse_span_untrusted


def entry(data: bytes) -> None:
    """Read it; what is read is ranges of plain addresses, and means the same when read again."""
    try:
        spans = parse_span_untrusted(data.decode("utf-8", "replace"))
    except MalformedFilter as error:
        assert len(str(error)) < 1000, "what a person reads is short"
        return
    for span in spans:
        first, last = ip_address(span.first), ip_address(span.last)
        assert first.version == last.version and int(first) <= int(last)
        assert "%" not in span.first + span.last, "the engine knows no scopes"
        assert parse_span_untrusted(f"{span.first}-{span.last}") == (span,)


def texts() -> list[bytes]:
    """One of each form."""
    return [
        b"*",
        b"100.64.0.1",
        b"fd7a:115c:a1e0::1",
        b"10.0.0.0/8",
        b"10.0.0.0/255.0.0.0",
        b"2001:db8::/32",
        b"10.0.0.1-10.0.0.9",
        b"::1-::ffff:1.2.3.4",
        b"fe80::1%eth0",
        b"fe80::%a-b/64",
    ]
