"""What happens to a machine on the move: another network, a NAT that forgets, a call that goes on.

The network is `PLAN`: two homes and a hotel behind port-restricted NATs, and a server.
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from warren.lab import runs, sandbox
from warren.lab.joining import join
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import ProgramFailed
from warren.lab.world import Part, World

HOME_A, HOTEL = "203.0.113.10", "203.0.113.30"
PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address=HOME_A),
        Router("home-b", kind="port-restricted", address="203.0.113.20"),
        Router("hotel", kind="port-restricted", address=HOTEL, lan="10.7.0.0/24"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
    ),
)
_ECHO_PORT = 7000
_WORD_EVERY_S = 0.1
_PATIENCE_S = 20.0


class Pair:
    """A server, and alice and bob, who know each other."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = Server(world["server"], world.scratch / "server")
        self.server.start()
        self.server.create_user("tester")
        key = self.server.create_key("tester", "--reusable")
        self.alice, self.bob = (
            Node(world[name], name, world.scratch / name, tun=sandbox.tun_available())
            for name in ("alice", "bob")
        )
        failed = join([self.alice, self.bob], self.server, key)
        if failed:
            raise ProgramFailed("; ".join(failed.values()))

    def to_the_hotel(self) -> None:
        """Unplug alice at home and plug her in at the hotel."""
        unplug(self.world["alice"])
        plug_in(self.world["alice"], self.world["hotel"], "10.7.0.9/24", "10.7.0.1")

    def home(self) -> None:
        """Plug alice, who is unplugged, in at home."""
        plug_in(self.world["alice"], self.world["home-a"], "192.168.1.9/24", "192.168.1.1")


class Call:
    """One TCP connection through the mesh that goes on talking, ten words a second."""

    def __init__(self, caller: Node, address: str) -> None:
        """address: the other's in the mesh, where `echo` is up."""
        self._socket = caller.part.socket(socket.SOCK_STREAM)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.connect((address, _ECHO_PORT))
        self._ended = threading.Event()
        self.echoed_at: list[float] = []
        """When each word came back, by the monotonic clock."""
        self.failure = ""
        """Why it broke off; empty if it did not."""
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    @property
    def longest_silence_s(self) -> float:
        """The longest time between two words that came back."""
        times = self.echoed_at
        return max(after - before for before, after in itertools.pairwise(times))

    def end(self) -> None:
        """Stop talking. Raises OSError if the connection did not live until now."""
        self._ended.set()
        self._thread.join(_PATIENCE_S + 5)
        self._socket.close()
        if self.failure:
            raise OSError(self.failure)

    def _talk(self) -> None:
        number = 0
        try:
            while not self._ended.wait(_WORD_EVERY_S):
                number += 1
                word = number.to_bytes(8, "big")
                self._socket.sendall(word)
                if self._socket.recv(8, socket.MSG_WAITALL) != word:
                    raise OSError("another word came back")
                self.echoed_at.append(time.monotonic())
        except OSError as error:
            self.failure = str(error)


@contextmanager
def echo(part: Part, address: str) -> Iterator[None]:
    """Send back what comes to a host, on the TCP port that a Call calls."""
    listener = part.socket(socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, _ECHO_PORT))
    listener.listen()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def unplug(host: Part) -> None:
    """Take a host off its network."""
    runs.command(["ip", "-n", host.namespace, "link", "del", "wan"])


def plug_in(host: Part, router: Part, address: str, gateway: str) -> None:
    """Plug a host in behind a router. address: its own, with the prefix length."""
    runs.command(
        ["ip", "-n", router.namespace, "-batch", "-"],
        f"link add roam type veth peer name wan netns {host.namespace}\n"
        "link set roam master lan up\n",
    )
    runs.command(
        ["ip", "-n", host.namespace, "-batch", "-"],
        f"addr add {address} dev wan\nlink set wan up\nroute add default via {gateway} dev wan\n",
    )


def forget_flow(node: Node, router: Part) -> None:
    """Have a router drop, without a word, what belongs to a node's connection to the relay."""
    listed = node.part.run(["ss", "-Htn", "state", "established", "dport", "=", ":443"])
    port = listed.split()[2].rpartition(":")[2]
    router.nft(
        "table inet forget { chain forward { type filter hook forward priority -10; "
        f"tcp sport {port} drop; tcp dport {port} drop; }}; }};"
    )


def flush_nat(router: Part) -> None:
    """Have a router forget every connection, as one does that starts anew."""
    forget = "from pyroute2 import NFCTSocket\nwith NFCTSocket() as kernel: kernel.flush()"
    router.run([sys.executable, "-c", forget])
