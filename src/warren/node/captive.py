"""Whether something between us and the internet answers in its stead (PROTOCOL §4.4).

A relay that serves port 80 answers 204 and gives a challenge back. A hotel's portal answers with
a page, or leads to one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import h11

from warren.edge.dial import write
from warren.edge.entropy import Entropy
from warren.netmap.endpoint import Endpoint

LIMIT_S = 2.0
_MAX_HEAD_BYTES = 16 * 1024
_READ_BYTES = 4096
_RELAYS_MAX = 3


async def find_portal(
    relays: Sequence[tuple[str, Endpoint]], entropy: Entropy, limit_s: float = LIMIT_S
) -> bool | None:
    """Ask relays, given as host name and address, all at once; True: a portal answered for one.

    None: nobody answered at all, or there is nobody to ask.
    """
    answers = await asyncio.gather(
        *(
            _ask(host, at, f"warren-{entropy(8).hex()}", limit_s)
            for host, at in relays[:_RELAYS_MAX]
        )
    )
    known = [answer for answer in answers if answer is not None]
    return any(known) if known else None


async def _ask(host: str, at: Endpoint, challenge: str, limit_s: float) -> bool | None:
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection(str(at.ip), at.port)
            try:
                return await _is_portal(reader, writer, host, challenge)
            finally:
                writer.close()
    except (OSError, TimeoutError, h11.LocalProtocolError):
        return None


async def _is_portal(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, challenge: str
) -> bool | None:
    question = PortalQuestion(host, challenge)
    write(writer, question.request())
    while not question.answered:
        question.receive_untrusted(await reader.read(_READ_BYTES))
    return question.portal


class PortalQuestion:
    """One request and what came of it: `portal`, once `answered`; None: it was no answer."""

    def __init__(self, host: str, challenge: str) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._host = f"[{host}]" if ":" in host else host
        self._challenge = challenge
        self.answered = False
        self.portal: bool | None = None

    def request(self) -> bytes:
        """Return what is sent first; it can be asked for once.

        Raises h11.LocalProtocolError for a host that is no name.
        """
        headers = [
            ("Host", self._host),
            ("X-Tailscale-Challenge", self._challenge),
            ("Connection", "close"),
        ]
        request = h11.Request(method="GET", target="/generate_204", headers=headers)
        sent = self._http.send(request), self._http.send(h11.EndOfMessage())
        return b"".join(part or b"" for part in sent)

    def receive_untrusted(self, data: bytes) -> None:
        """Take what came; empty at the end of the stream. Never raises."""
        try:
            self._http.receive_data(data)
            while not self.answered:
                event = self._http.next_event()
                if isinstance(event, h11.Response):
                    given = dict(event.headers).get(b"x-tailscale-response", b"")
                    right = given == f"response {self._challenge}".encode()
                    self.answered, self.portal = True, event.status_code != 204 or not right
                elif event is h11.NEED_DATA and data:
                    return
                elif not isinstance(event, h11.InformationalResponse):
                    self.answered = True
        except h11.ProtocolError:
            self.answered = True
