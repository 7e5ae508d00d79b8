"""Which of many words mean an address, without looking at each of them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, summarize_address_range

from warren.policy.ranges import Span, parse_spans
from warren.policy.targets import Targets

_BITS = {4: 32, 6: 128}


class WordsAt:
    """Words by the networks that they stand for, and those by their length."""

    def __init__(self, words: Iterable[str], targets: Targets) -> None:
        self._spans: list[tuple[Span, str]] = []
        self._by_length: dict[tuple[int, int], dict[int, list[str]]] = {}
        for word in words:
            for form in targets.source(word):
                for span in parse_spans(form):
                    self._spans.append((span, word))
                    self._enter(span, word)

    def _enter(self, span: Span, word: str) -> None:
        kind = IPv4Address if span.family == 4 else IPv6Address
        for network in summarize_address_range(kind(span.first), kind(span.last)):
            spare = _BITS[span.family] - network.prefixlen
            networks = self._by_length.setdefault((span.family, spare), {})
            networks.setdefault(int(network.network_address) >> spare, []).append(word)

    def at(self, span: Span) -> set[str]:
        """Return the words of which an address is in a span."""
        if span.first != span.last:
            return {word for other, word in self._spans if other.overlaps(span)}
        return {
            word
            for (family, spare), networks in self._by_length.items()
            if family == span.family
            for word in networks.get(span.first >> spare, ())
        }
