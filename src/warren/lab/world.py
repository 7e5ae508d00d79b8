"""A plan come true: builds it, runs programs in its parts, and takes everything down again."""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from warren.lab import kinds, runs
from warren.lab.layout import Ip, Nft, Step, Sysctl, compile_layout, parts
from warren.lab.plan import Addressed, Plan, resolve
from warren.lab.program import Program, ProgramFailed, wait_until

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000

# Each program sees its own resolv.conf and hosts, so that a node that manages DNS cannot reach
# the machine's; and it dies with the lab, so that a crash leaves nothing running.
_INSIDE = """
mount -t sysfs lab /sys 2>/dev/null
mount --bind "$1/resolv.conf" /etc/resolv.conf 2>/dev/null
mount --bind "$1/hosts" /etc/hosts 2>/dev/null
shift
exec setpriv --pdeathsig KILL "$@"
"""
_NO_CAPABILITIES = ("--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs")

_PAUSE_S = 0.1
"""Between two looks at whether something holds. Who looks may ping by it, and a peer takes only so
many pings a second."""


def entering(
    namespace: str, etc: Path, argv: Sequence[str], unprivileged: bool = False
) -> list[str]:
    """The command that runs another one in a namespace, where names are known as in `etc`."""
    drop = _NO_CAPABILITIES if unprivileged else ()
    enter = ["nsenter", f"--net={runs.NETNS / namespace}", "unshare", "--mount"]
    return [*enter, "sh", "-c", _INSIDE, "lab", str(etc), *drop, "--", *argv]


class Part:
    """A host or a router of a built world."""

    def __init__(
        self,
        name: str,
        namespace: str,
        address: IPv4Address | None,
        world: World,
        address_v6: IPv6Address | None = None,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.address_v6 = address_v6
        """Its IPv6 address, where it has one; public also behind a router."""
        self._address = address
        self._world = world

    @property
    def address(self) -> IPv4Address:
        """Its IPv4 address: public for a part on the internet, else the one in its LAN."""
        if self._address is None:
            raise ValueError(f"{self.name} has no single address")
        return self._address

    def log_path(self, name: str) -> Path:
        """Where a program called `name` writes its output here."""
        return self._world.logs / f"{self.name}-{name}.log"

    def spawn(
        self,
        argv: Sequence[str],
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        unprivileged: bool = False,
    ) -> Program:
        """Start a program here; its output goes to a log file called after the part and `name`.

        To be called from the main thread: the program dies with the thread that started it.
        unprivileged: without any capability, whatever the user id.
        """
        log = self.log_path(name)
        with log.open("ab") as out:
            process = subprocess.Popen(  # noqa: S603
                self._argv(argv, unprivileged),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**runs.environment(), **(env or {})},
                start_new_session=True,
            )
        program = Program(f"{self.name}/{name}", process, log)
        self._world.programs.append(program)
        return program

    def run(
        self, argv: Sequence[str], timeout_s: float = 15.0, env: Mapping[str, str] | None = None
    ) -> str:
        """Run a program here to its end; its standard output. Raises ProgramFailed."""
        try:
            done = subprocess.run(  # noqa: S603
                self._argv(argv, unprivileged=False),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                env={**runs.environment(), **(env or {})},
                check=False,
            )
        except subprocess.TimeoutExpired:
            line = " ".join(argv)
            raise ProgramFailed(f"{self.name}: {line}: no end after {timeout_s:g} s") from None
        if done.returncode != 0:
            said = (done.stderr + done.stdout).strip()[-2000:]
            raise ProgramFailed(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {said}")
        return done.stdout

    def socket(self, kind: socket.SocketKind, family: int = socket.AF_INET) -> socket.socket:
        """A new socket that lives in this part's network, usable from any thread here."""
        return self.inside(lambda: socket.socket(family, kind))

    def inside(self, make: Callable[[], T]) -> T:
        """Call `make` in a thread whose network is this part's, and return what it returns."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                _set_network(self.namespace)
                results.append(make())
            except BaseException as error:  # handed to the caller's thread
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def wait(self, probe: Callable[[], T | None], deadline_s: float, what: str) -> T:
        """Like `World.wait`."""
        return self._world.wait(probe, deadline_s, what)

    def nft(self, rules: str) -> None:
        """Load nftables rules into this part on top of what is there."""
        runs.command(["nsenter", f"--net={runs.NETNS / self.namespace}", "nft", "-f", "-"], rules)

    def block_udp(self) -> None:
        """From now on this router forwards no UDP, in either direction."""
        self.nft(kinds.BLOCK_UDP)

    def allow_udp(self) -> None:
        """Take `block_udp` back."""
        self.nft("delete table inet blockudp")

    def _argv(self, argv: Sequence[str], unprivileged: bool) -> list[str]:
        return entering(self.namespace, self._world.etc / self.name, argv, unprivileged)


class World:
    """A built plan, as a context manager. `world["alice"]` is a part."""

    def __init__(self, plan: Plan, names: Mapping[str, Sequence[str]] | None = None) -> None:
        """names: further names of hosts that every part knows, with the addresses of each."""
        self._solved: Addressed = resolve(plan)
        self._names = names or {}
        self._run = secrets.token_hex(3)
        self.programs: list[Program] = []
        self._parts: dict[str, Part] = {}
        self._directory: runs.RunDirectory | None = None

    def __enter__(self) -> Self:
        runs.clean()
        self._directory = runs.RunDirectory(self._run)
        for path in (self.scratch, self.logs):
            path.mkdir()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def names(self) -> list[str]:
        """All parts, the internet first."""
        return list(self._parts)

    @property
    def etc(self) -> Path:
        """Directory with the parts' own resolv.conf and hosts."""
        return self._path("etc")

    @property
    def logs(self) -> Path:
        """Directory with what the programs print; it goes with the world."""
        return self._path("logs")

    @property
    def scratch(self) -> Path:
        """Directory for anything else that shall go with the world."""
        return self._path("scratch")

    def close(self) -> None:
        """Stop every program and remove every namespace and file. Idempotent."""
        if self._directory is None:
            return
        for program in reversed(self.programs):
            program.send_term()
        for program in reversed(self.programs):
            program.stop(grace_s=3.0)
        runs.remove_namespaces(self._run)
        self._directory.remove()
        self._directory = None

    def lan_gateway(self, router: str) -> IPv4Address | IPv6Address:
        """A router's address in its LAN: of IPv4, or of IPv6 where it has that alone."""
        solved = self._solved
        return solved.lan_gateway.get(router) or solved.lan_gateway_v6[router]

    def address_text(self, name: str) -> str:
        """A part's IPv4 address, empty where it has none."""
        return str(self._solved.address.get(name, ""))

    def keep_open(self) -> None:
        """Let `warren lab shell` find this network: somebody keeps it up for people."""
        self._path(runs.OPEN).touch()

    def tails(self, lines: int = 25) -> str:
        """The end of every program's output, for an error message."""
        return "\n".join(program.tail(lines) for program in self.programs)

    def wait(self, probe: Callable[[], T | None], deadline_s: float, what: str) -> T:
        """Like `wait_until`, a few times a second and with every program's log in the message."""
        return wait_until(probe, deadline_s, what, self.tails, _PAUSE_S)

    def _path(self, name: str) -> Path:
        if self._directory is None:
            raise RuntimeError("the world is not built")
        return self._directory.path / name

    def _build(self) -> None:
        namespace = {part: f"{runs.PREFIX}{self._run}-{part}" for part in parts(self._solved)}
        for part, name in namespace.items():
            runs.command(["ip", "netns", "add", name])
            address = self._solved.address.get(part)
            self._parts[part] = Part(part, name, address, self, self._solved.address_v6.get(part))
            etc = self.etc / part
            etc.mkdir(parents=True)
            (etc / "resolv.conf").write_text("")
            known = "".join(f"{ip} {name}\n" for name, ips in self._names.items() for ip in ips)
            (etc / "hosts").write_text(f"127.0.0.1 localhost {part}\n::1 localhost\n{known}")
        steps = compile_layout(self._solved, namespace)
        for (kind, part), group in itertools.groupby(steps, lambda s: (type(s), s.part)):
            self._apply(self._parts[part], list(group), kind)

    def _apply(self, part: Part, steps: list[Step], kind: type[Step]) -> None:
        if kind is Ip:
            lines = "\n".join(step.line for step in steps if isinstance(step, Ip))
            runs.command(["ip", "-n", part.namespace, "-batch", "-"], lines + "\n")
        for step in steps:
            if isinstance(step, Nft):
                part.nft(step.rules)
            elif isinstance(step, Sysctl):
                path = Path("/proc/sys") / step.path
                part.inside(partial(path.write_text, step.value))


def _set_network(namespace: str) -> None:
    """Move the calling thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(runs.NETNS / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), namespace)
    finally:
        os.close(handle)
