"""What answers in a relay's stead when a portal is looked for."""

from __future__ import annotations

from warren.node.captive import PortalQuestion

_RIGHT = b"HTTP/1.1 204 No Content\r\nX-Tailscale-Response: response warren-07\r\n\r\n"


def entry(data: bytes) -> None:
    """Read it whole and in pieces: the same verdict, and the relay's only by the challenge."""
    verdicts = []
    for step in (len(data) or 1, 7 if len(data) < 4096 else 4096):
        question = PortalQuestion("relay.example", "warren-07")
        assert b"X-Tailscale-Challenge: warren-07\r\n" in question.request()
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        for piece in (*pieces, b""):
            if not question.answered:
                question.receive_untrusted(piece)
        assert question.answered, "the end of the stream is an answer as well"
        verdicts.append(question.portal)
    # A head that is too long is noticed by its length so far, and so by how it comes.
    assert verdicts[0] == verdicts[1] or len(data) > 16 * 1024
    assert verdicts[0] is not False or b"response warren-07" in data


def answers() -> list[bytes]:
    """A relay, portals, and what is neither."""
    return [
        _RIGHT,
        b"HTTP/1.1 100 Continue\r\n\r\n" + _RIGHT,
        _RIGHT.replace(b"07", b"08"),
        b"HTTP/1.0 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ]
