"""`warren relay`: builds a relay without a coordinator, wires it, and runs until told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
import uvloop

from warren.edge.certificates import Certificates
from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.edge.files import only_program, private_directory
from warren.edge.http import Door, Lobby, Routes
from warren.edge.keyfile import load_key
from warren.edge.listen import listen_tcp, raise_file_limit
from warren.edge.settings import parse_address
from warren.edge.splice import serve_behind
from warren.engine.relay import NativeRelay, RelayConfig
from warren.keys import NodePrivate, NodePublic
from warren.netmap.derpmap import DERPMap
from warren.relay import serve
from warren.relay.admission import Admission
from warren.relay.hub import Hub, RelayFailed
from warren.relay.settings import RelaySettings, admission_url, region_of
from warren.relay.stun_server import ANSWERED, DROPPED, open_stun

_log = structlog.get_logger("relay")

_RECONNECT_MS, _TRY_FOR_MS = 500, 30_000
_STOP_S = 0.1

Ready = Callable[[DERPMap], None]
"""Called once the relay listens, with its region as the coordinator is to tell it."""


def run(settings: RelaySettings, state: Path, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises AlreadyRunning, FileProblem, CertificateProblem and PortProblem, each with a sentence,
    before anything is served, and RelayFailed.
    """
    with only_program("relay", state, "relay.lock"):
        raise_file_limit()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, state, ready))


def check(settings: RelaySettings, state: Path) -> None:
    """Look whether a relay could serve: keys, certificate, and whether the coordinator answers.

    Nothing is written where there is nothing yet. Raises as `run` does, and RelayFailed.
    """
    if not state.exists():
        with TemporaryDirectory() as scratch:
            key = _check_keys(settings, Path(scratch))
    else:
        key = _check_keys(settings, state)
    if settings.server != "any":
        problem = asyncio.run(_ask_once(settings, key.public()))
        if problem:
            raise RelayFailed(problem)


def _check_keys(settings: RelaySettings, state: Path) -> NodePrivate:
    private_directory(state)
    key = load_key(state / "relay.key", NodePrivate, system_entropy)
    if settings.tls != "acme":
        hub = Hub(NativeRelay(RelayConfig(private_key=key.reveal())), lambda key: False)
        try:
            Certificates(
                settings, state, settings.host, key.public(), hub, SystemClock(), system_entropy
            ).load()
        finally:
            hub.close()
    return key


async def _ask_once(settings: RelaySettings, key: NodePublic) -> str:
    """Ask after a key that no machine has; return why there was no answer, or nothing."""
    admission = Admission(admission_url(settings), settings.fail_open)
    await admission.ask(key)
    admission.close()
    return admission.problem


async def _serve(settings: RelaySettings, state: Path, ready: Ready) -> None:
    loop, stopping, clock = asyncio.get_running_loop(), asyncio.Event(), SystemClock()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    key = load_key(state / "relay.key", NodePrivate, system_entropy)
    asked = settings.server != "any"
    admission = Admission(admission_url(settings), settings.fail_open) if asked else None
    lobby = Lobby()
    stun: Counter[str] = Counter({ANSWERED: 0, DROPPED: 0})

    async def receive(sock: socket.socket, source: tuple[str, int] | None) -> None:
        await serve_behind(make_door, sock, source)

    native = NativeRelay(RelayConfig(private_key=key.reveal()))
    hub = Hub(native, admission.admits if admission else lambda key: True, receive)
    make_door = partial(Door, Routes(answers=serve.answers(), takers=serve.takers(hub)), lobby)
    certificates = Certificates(
        settings, state, settings.host, key.public(), hub, clock, system_entropy
    )
    servers: list[asyncio.Server] = []
    datagrams: list[asyncio.DatagramTransport] = []
    try:
        certificates.load()
        for sock in listen_tcp(*parse_address("listen", settings.listen), "--listen"):
            hub.listen(sock)
        if settings.http:
            for sock in listen_tcp(*parse_address("http", settings.http), "--http"):
                servers.append(await loop.create_server(make_door, sock=sock))
        datagrams += await open_stun(settings.stun, clock.now, stun)
        if settings.metrics:
            # It brings prometheus_client, which nobody else needs.
            from warren.relay.watching import Watched, watch_answers

            watched = Watched(
                counters=lambda: hub.counters() | dict(stun),
                clients=lambda: len(hub),
                certificate_until=lambda: certificates.until,
                admission=lambda: admission.counts if admission else {},
                problem=lambda: admission.problem if admission else "",
                ready=lambda: admission is None or admission.ready(),
            )
            make_watch = partial(Door, Routes(answers=watch_answers(watched)), lobby)
            for sock in listen_tcp(*parse_address("metrics", settings.metrics), "--metrics"):
                servers.append(await loop.create_server(make_watch, sock=sock))
        ready(region_of(settings, certificates.pin))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(hub.run()), tasks.create_task(certificates.keep())]
            if admission is not None:
                running.append(tasks.create_task(admission.keep(hub.connected, hub.kick)))
            await stopping.wait()
            _log.info("stopping")
            hub.stop(_RECONNECT_MS, _TRY_FOR_MS)
            await asyncio.sleep(_STOP_S)  # farewells leave
            for task in running:
                task.cancel()
    except ExceptionGroup as failed:
        told = failed.subgroup(RelayFailed)
        raise (told.exceptions[0] if told else failed) from None
    finally:
        for server in servers:
            server.close()
        for transport in datagrams:
            transport.close()
        lobby.abort_all()
        if admission is not None:
            admission.close()
        hub.close()
