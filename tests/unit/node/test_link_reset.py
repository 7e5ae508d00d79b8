"""A coordinator that dies in the middle of everything, on the event loop that daemons run on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest
import uvloop
from node_coordinator import FakeCoordinator

from warren.edge.dial import write
from warren.edge.entropy import system_entropy
from warren.keys import MachinePrivate
from warren.node.control_link import LinkLost, open_link


def on_uvloop(main: Coroutine[object, object, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def test_requests_on_a_connection_that_was_reset_fail_as_a_lost_link() -> None:
    async def main() -> None:
        machine = MachinePrivate.from_entropy(system_entropy(32))
        async with FakeCoordinator() as server:
            public = server.key.public()
            async with open_link(server.url, machine, public, system_entropy) as link:
                assert (await link.call("GET", "/machine/x")).status == 200
                # What a reset does to the transport, before its reader has heard of it.
                link._stream.writer.transport.abort()
                with pytest.raises(LinkLost):
                    await link.call("GET", "/machine/y", timeout_s=10)
                with pytest.raises(LinkLost):
                    async with link.stream("POST", "/machine/map", timeout_s=10):
                        raise AssertionError("it was opened")

    on_uvloop(main())


def test_writing_to_a_closed_connection_is_an_error_of_the_network() -> None:
    async def main() -> None:
        async with FakeCoordinator() as server:
            host, port = server.url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            write(writer, b"GET ")
            writer.transport.abort()
            with pytest.raises(ConnectionResetError):
                write(writer, b"/")

    on_uvloop(main())
