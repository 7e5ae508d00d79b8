"""A browser of our pages: keeps cookies, follows links and forms, knows nothing else."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx


class _Forms(HTMLParser):
    """Finds forms with their fields, and links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((found.get("action", ""), {}))
        elif tag == "a":
            self.links.append(found.get("href", ""))
        elif tag in ("input", "select", "button") and self.forms and "name" in found:
            self.forms[-1][1][found["name"]] = found.get("value", "")


class Page:
    """What came, where it came from, and what can be done with it."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer, self.status, self.text = answer, answer.status_code, answer.text
        self.url = str(answer.url)
        found = _Forms(answer.text)
        self.forms, self.links = found.forms, found.links

    def __contains__(self, text: str) -> bool:
        return text in unescape(re.sub(r"<[^>]+>", "", self.text))

    def fields(self, action: str) -> dict[str, str]:
        return next(fields for at, fields in self.forms if at == action)


class Browser:
    """One browser. client: with or without a socket."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, url: str, *, follow: bool = True) -> Page:
        return await self._go("GET", url, None, follow)

    async def post(self, url: str, fields: dict[str, str], *, follow: bool = True) -> Page:
        return await self._go("POST", url, fields, follow)

    async def submit(self, page: Page, action: str, *, follow: bool = True, **fields: Any) -> Page:
        """Fill a form in and send it."""
        return await self.post(
            urljoin(page.url, action), {**page.fields(action), **fields}, follow=follow
        )

    async def _go(self, method: str, url: str, fields: Any, follow: bool) -> Page:
        answer = await self.client.request(method, url, data=fields)
        for _ in range(10):
            if not follow or not answer.has_redirect_location:
                return Page(answer)
            url = urljoin(str(answer.url), answer.headers["location"])
            answer = await self.client.request("GET", url)
        raise AssertionError("it redirects for ever")
