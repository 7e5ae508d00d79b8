"""The figures of the tunnels as one picture: bars beside each other, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.figure import Figure

PANELS = (
    ("tcp1_", "one TCP stream, Gbit/s", "more is better"),
    ("tcp4_", "four TCP streams, Gbit/s", "more is better"),
    ("tcp16_", "sixteen TCP streams, Gbit/s", "more is better"),
    ("cpu1_", "CPU of both ends, s/GB", "less is better"),
    ("udp64_", "UDP, 64-byte packets, 1,000/s", "more is better"),
    ("udp1280_", "UDP, 1,280-byte packets, 1,000/s", "more is better"),
    ("rtt_idle_p50_", "idle round trip, median, ms", "less is better"),
    ("rtt_load_p99_", "round trip under load, 99th percentile, ms", "less is better"),
    ("rss_", "resident memory of one end, MB", "less is better"),
)
_WIDTH, _LEFT, _BAR, _GAP = 720, 130, 15, 30


def draw(figures: Sequence[Figure], when: str) -> str:
    """Return an SVG: one panel a quantity, one bar a tunnel, whiskers from lowest to highest."""
    parts: list[str] = []
    y = 40
    for prefix, title, sense in PANELS:
        rows = [f for f in figures if f.name.startswith(prefix) and f.samples]
        if not rows:
            continue
        parts.append(f'<text x="10" y="{y}" class="t">{title} ({sense})</text>')
        most = max(max(figure.samples) for figure in rows) or 1.0
        scale = (_WIDTH - _LEFT - 90) / most
        for figure in rows:
            y += _BAR + 4
            parts.append(_bar(figure, y, scale))
        y += _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" '
        f'viewBox="0 0 {_WIDTH} {y}" font-family="sans-serif" font-size="12">'
        "<style>.t{font-weight:bold}.w{fill:#3b6fb6}.o{fill:#b8bcc4}line{stroke:#222}</style>"
        f'<rect width="{_WIDTH}" height="{y}" fill="#fff"/>'
        f'<text x="10" y="18">Warren beside others, one machine, one run, medians, {when}</text>'
    )
    return head + "".join(parts) + "</svg>\n"


def _bar(figure: Figure, y: int, scale: float) -> str:
    name = figure.what.partition(":")[0]
    end = _LEFT + figure.median * scale
    low, high = (_LEFT + scale * bound for bound in (min(figure.samples), max(figure.samples)))
    colour = "w" if name == "Warren" else "o"
    middle = y - _BAR / 2 + 3
    return (
        f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{_LEFT}" y="{y - _BAR + 3}" width="{max(1.0, end - _LEFT):.1f}" '
        f'height="{_BAR}" class="{colour}"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<text x="{max(end, high) + 6:.1f}" y="{y}">{figure.median:.3g}</text>'
    )
