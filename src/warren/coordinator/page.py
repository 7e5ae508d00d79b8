"""The frame around every page for people: plain HTML, no script, readable on a phone."""

from __future__ import annotations

from starlette.responses import HTMLResponse, Response

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;
color:#222;background:#fff}}pre{{background:#f0f0ee;padding:1rem;border-radius:6px;
overflow-x:auto}}form{{margin:1rem 0}}label{{display:block;margin:.6rem 0}}
input:not([type=hidden]),select{{display:block;box-sizing:border-box;width:100%;max-width:22rem;
font:inherit;padding:.5rem;border:1px solid #999;border-radius:6px;background:inherit;
color:inherit}}
button,a.button{{display:inline-block;font:inherit;padding:.6rem 1.2rem;margin:.3rem .3rem .3rem 0;
border:0;border-radius:6px;background:#1c5d99;color:#fff;text-decoration:none;cursor:pointer}}
button.second{{background:#ddd;color:#222}}.wrong{{border-left:4px solid #b3261e;
padding-left:.8rem}}
a{{color:#1c5d99}}@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#1b1b1b}}
pre{{background:#2a2a2a}}a:not(.button){{color:#8ec5ff}}}}</style>
<h1>{title}</h1>{body}</html>"""
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def page(title: str, body: str, status: int = 200) -> Response:
    """Return a page. Both texts are HTML: escape what came from outside."""
    return HTMLResponse(_PAGE.format(title=title, body=body), status, headers=_HEADERS)
