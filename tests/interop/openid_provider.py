"""oidc-provider (npm), a certified OpenID provider, as a process of its own on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "coordinator"))

from web_browser import Browser, Page

from warren.lab.ports import free_port

SECRET = "s3cret/with+odd:chars"
_ENTRY = Path(__file__).parents[2] / ".build/oidc/node_modules/oidc-provider/lib/index.js"
_PROGRAM = Path(__file__).parent / "oidc" / "provider.mjs"


def node() -> str | None:
    """Return the program that runs it; None: it, or the provider, is not installed."""
    beside = Path(sys.executable).with_name("node")
    found = str(beside) if beside.exists() else shutil.which("node")
    return found if _ENTRY.exists() else None


class OpenIdProvider:
    """A running provider. It believes every password; what it says of whom is `accounts`."""

    def __init__(self, program: str, callbacks: list[str], accounts: dict[str, Any]) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._program, self._callbacks, self._accounts = program, callbacks, accounts
        self.start()

    def start(self) -> None:
        """Start it, again on the same port after `stop`."""
        self._process = subprocess.Popen(
            [self._program, str(_PROGRAM), str(_ENTRY)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.tell(port=self.port, callbacks=self._callbacks, accounts=self._accounts)

    def tell(self, **command: Any) -> None:
        """Have it do something; return once that is done."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline(), "the provider has ended"

    def stop(self) -> None:
        """End it: what it reads has an end. (A signal might only reach a wrapper of node.)"""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    async def log_in(
        self, browser: Browser, page: Page, login: str, *, follow: bool = True
    ) -> Page:
        """Log in on the provider's pages, and agree to what it asks."""
        for _ in range(5):
            if not page.url.startswith(self.issuer) or "/interaction/" not in page.url:
                return page
            ((action, fields),) = page.forms[:1]
            if "login" in fields:
                fields = {**fields, "login": login, "password": "any"}
            answer = await browser.post(urljoin(page.url, action), fields, follow=False)
            page = await _through(browser, answer, self.issuer, follow)
        raise AssertionError(f"the provider goes on asking: {page.text}")

    async def cancel(self, browser: Browser, page: Page) -> Page:
        """Stop the log-in on the provider's page."""
        (way,) = [link for link in page.links if link.endswith("/abort")]
        return await browser.get(way)


async def _through(browser: Browser, page: Page, issuer: str, follow: bool) -> Page:
    """Follow redirects; without `follow` only the provider's own."""
    while page.answer.has_redirect_location:
        url = urljoin(page.url, page.answer.headers["location"])
        if not follow and not url.startswith(issuer):
            return page
        page = await browser.get(url, follow=False)
    return page
