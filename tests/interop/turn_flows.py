"""Our TURN client, our TURN server and coturn over real sockets, all on loopback."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import uvloop

from warren.edge.listen import listen_tcp, listen_udp
from warren.edge.tls import load_certificate, make_self_signed, server_context
from warren.lab.ports import free_port
from warren.nat.turn.allocation import TurnCounters, TurnSettings
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import Accounts, Credentials
from warren.nat.turn.events import Event
from warren.nat.turn.reach import Reach
from warren.nat.turn.server import TurnServer
from warren.netmap.endpoint import Endpoint
from warren.relay.turn_doors import TurnDoors
from warren.relay.turn_server import RelayAddress, TurnService

USER = Credentials("alice", "wonderland")
REALM = "example.org"
WAIT_S = 10.0


class Flow:
    """One client and its socket to the server."""

    def __init__(
        self,
        transport: str,
        host: str,
        port: int,
        credentials: Credentials = USER,
        family: int = 4,
        socket_: socket.socket | None = None,
    ) -> None:
        self.socket = socket_ or connect(transport, host, port)
        self.reliable = transport != "udp"
        self.events: list[Event] = []
        self.skew_s = 0.0
        """How far the client's clock is ahead: renewals come without waiting for them."""
        self.client = TurnClient(
            credentials, os.urandom, self.now(), reliable=self.reliable, family=family
        )
        self.flush()

    def now(self) -> float:
        """Return the client's time."""
        return time.monotonic() + self.skew_s

    def flush(self) -> None:
        """Send what the client wants sent; collect what it tells."""
        while (data := self.client.poll_transmit()) is not None:
            self.socket.sendall(data)
        while (event := self.client.poll_event()) is not None:
            self.events.append(event)

    def run_until(self, done: Callable[[], object], wait_s: float = WAIT_S) -> None:
        """Serve the client until something holds."""
        end = self.now() + wait_s
        self.flush()
        while not done():
            now = self.now()
            assert now < end, f"{self.events} {self.client.counters}"
            due = self.client.next_timeout()
            until = min(end, due if due is not None else end)
            pending = isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()
            if pending or select.select([self.socket], [], [], max(0, min(0.1, until - now)))[0]:
                with suppress(ssl.SSLWantReadError, BlockingIOError, ConnectionRefusedError):
                    data = self.socket.recv(1 << 16)
                    self.client.receive(data, self.now())
            self.client.handle_timeout(self.now())
            self.flush()

    def wait(self, kind: type[Event], wait_s: float = WAIT_S) -> Event:
        """Serve the client until it tells an event of a kind; return and forget that one."""
        self.run_until(lambda: any(isinstance(event, kind) for event in self.events), wait_s)
        found = next(event for event in self.events if isinstance(event, kind))
        self.events.remove(found)
        return found

    def do(self, action: Callable[[TurnClient, float], object]) -> object:
        """Have the client do something."""
        result = action(self.client, self.now())
        self.flush()
        return result

    def close(self) -> None:
        """Leave without a word."""
        self.socket.close()


def connect(transport: str, host: str, port: int) -> socket.socket:
    """Return a socket that speaks to the server."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    sock = socket.socket(family, kind)
    sock.settimeout(WAIT_S)
    sock.connect((host, port))
    if transport == "tls":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    return sock


class Peer:
    """Somebody with a UDP socket, who knows nothing of TURN."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(WAIT_S)
        self.endpoint = Endpoint.parse(
            f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        )

    @property
    def port(self) -> int:
        """The port."""
        return int(self.socket.getsockname()[1])

    def receive(self) -> tuple[bytes, Endpoint]:
        """Return the next datagram and whence it came."""
        data, (host, port, *_) = self.socket.recvfrom(1 << 16)
        return data, Endpoint.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def send(self, data: bytes, to: Endpoint) -> None:
        """Send a datagram."""
        self.socket.sendto(data, (str(to.ip), to.port))


@contextmanager
def coturn(
    scratch: Path, arguments: Sequence[str] = (), host: str = "127.0.0.1"
) -> Iterator[tuple[int, Path]]:
    """Run coturn; give its port (for UDP, TCP and TLS alike) and its log."""
    program = shutil.which("turnserver")
    assert program is not None
    port, log = free_port(), scratch / "turnserver.log"
    command = [
        *(program, "-n", "-v", "--no-cli", "-L", host, "-E", host, "-p", str(port)),
        *("--allow-loopback-peers", "--realm", REALM, "--log-file", "stdout"),
        *("--pidfile", str(scratch / "turnserver.pid"), "-m", "1", "--no-dtls"),
        *("--db", str(scratch / "turn.sqlite"), *arguments),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=scratch)
    try:
        end = time.monotonic() + WAIT_S
        while True:
            with suppress(OSError):
                socket.create_connection((host, port), 1).close()
                break
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield port, log
    finally:
        process.terminate()
        process.wait(WAIT_S)


class OurServer:
    """Our TURN server on loopback, with its own event loop in a thread."""

    def __init__(
        self,
        scratch: Path,
        accounts: Accounts,
        host: str = "127.0.0.1",
        reach: Reach | None = None,
        **settings: object,
    ) -> None:
        self.host = host
        self._accounts = accounts
        self._reach = reach or Reach(allow=[ip_network("127.0.0.0/8"), ip_network("::1")])
        ips = [ip_address("127.0.0.1"), ip_address("::1")]
        self._settings = TurnSettings(realm=REALM, relay_ips=frozenset(ips), **settings)  # type: ignore[arg-type]
        self._relays = {ip.version: RelayAddress(ip, ip) for ip in ips}
        self._context = server_context()
        load_certificate(self._context, *make_self_signed(host, datetime.now(UTC)), scratch)
        self.port = free_port()
        """For UDP, TCP and TLS."""
        self.service: TurnService | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> OurServer:
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        return self

    def __exit__(self, *rest: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)

    @property
    def counters(self) -> TurnCounters:
        """What it did."""
        assert self.service is not None
        return self.service.machine.counters

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        machine = TurnServer(self._settings, self._accounts, self._reach, os.urandom, loop.time())
        self.service = service = TurnService(machine, self._relays, os.urandom)
        for sock in listen_udp(self.host, self.port, "--turn"):
            service.serve_datagrams(sock)
        doors = TurnDoors(service, listen_tcp(self.host, self.port, "--turn"), self._context)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(doors.run())
            self._ready.set()
            await self._stop.wait()
            serving.cancel()
        service.close()
