"""Texts that administrators and programs give the HTTP API, as one fuzz target: names of domains,
nameservers, addresses of webhooks."""

from __future__ import annotations

from warren.coordinator.dns import DnsChoice, Nameserver, checked, dns_config
from warren.coordinator.refusal import Refused
from warren.coordinator.webhooks.subscriptions import check_url
from warren.nat.turn.reach import Reach

_DOMAIN = "warren.internal"
_REACH = Reach()


def entry(data: bytes) -> None:
    """Each is refused in a sentence, or taken; what was taken is taken once more as it is."""
    text = data.decode("utf-8", "replace")
    servers = (Nameserver(text),)
    for choice in (
        DnsChoice(nameservers=servers),
        DnsChoice(search_paths=(text,)),
        DnsChoice(split={text: (Nameserver("9.9.9.9"),)}),
    ):
        try:
            taken = checked(choice, _DOMAIN)
        except Refused:
            continue
        assert checked(taken, _DOMAIN) == taken
        dns_config(_DOMAIN, taken)
    try:
        check_url(text, _REACH)
    except Refused:
        return
    assert text.lower().startswith("http") and text.isascii() and text.isprintable()


def texts() -> list[bytes]:
    """Good ones, to be damaged."""
    return [
        b"9.9.9.9",
        b"[2620:fe::fe]:53",
        b"https://dns.example.com/dns-query",
        b"corp.example.",
        b"xn--bcher-kva.example",
        b"https://hooks.example.com:8443/in?token=x",
        b"http://[2001:db8::1]/",
    ]
