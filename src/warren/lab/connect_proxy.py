"""An HTTP proxy that knows CONNECT alone: the only way out of a network where nothing else passes.

Runs as a program of its own on a router of the lab: `python -m warren.lab.connect_proxy IP:PORT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

PORT = 3128
_HEAD_MAX_BYTES = 8192
_HEAD_S = 10.0
_CHUNK_BYTES = 65536


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read one request and join its two ends until either goes."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        try:
            async with asyncio.timeout(_HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b""
        target = target_untrusted(head)
        if target is None:
            writer.write(b"HTTP/1.1 405 CONNECT only\r\nContent-Length: 0\r\n\r\n")
        else:
            await _join(reader, writer, *target)
    writer.close()


def target_untrusted(head: bytes) -> tuple[str, int] | None:
    """Host and port that are asked for; None for any other request."""
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or words[0] != b"CONNECT":
        return None
    host, _, port = words[1].decode("ascii", "replace").rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and len(port) <= 5):
        return None
    if int(port) > 0xFFFF:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
) -> None:
    try:
        async with asyncio.timeout(_HEAD_S):
            far_reader, far_writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError, UnicodeError):
        writer.write(b"HTTP/1.1 502 It does not answer\r\nContent-Length: 0\r\n\r\n")
        return
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    async with asyncio.TaskGroup() as ways:
        ways.create_task(_copy(reader, far_writer))
        ways.create_task(_copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on until either end goes, then end the writing side: that ends the other way too."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _run(host: str, port: int) -> None:
    server = await asyncio.start_server(_serve, host, port, limit=_HEAD_MAX_BYTES)
    print(f"listening on {host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    place, _, number = sys.argv[1].rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(place.strip("[]"), int(number)))
