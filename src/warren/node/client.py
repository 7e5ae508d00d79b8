"""How programs on the same machine talk to the daemon: blocking calls over its Unix socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TypeVar

import h11
import msgspec

from warren.node.locate import Places
from warren.node.schema import (
    ApiError,
    Explanation,
    NetcheckReport,
    PingReply,
    PingRequest,
    Status,
    UpRequest,
    WhyRequest,
)

_PREFIX = "/warren/v0"
_ANSWER_TIMEOUT_S = 10.0
_ROOM_BYTES = 64 * 1024
"""With less a daemon can write neither its state nor why."""
_START_TIMEOUT_S = 15.0
_LOG_NAME = "daemon.log"
_READ_BYTES = 256 * 1024

_T = TypeVar("_T")


class NodeError(Exception):
    """The daemon said no, or cannot be asked. The text is one sentence for a person."""


class DaemonAbsent(NodeError):
    """No daemon listens on the socket."""


class NodeClient:
    """The daemon behind one socket. Every method raises NodeError."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def status(self, peers: bool = True) -> Status:
        """Return what the daemon knows now."""
        query = "" if peers else "?peers=false"
        return self._call("GET", f"/status{query}", None, Status)

    def watch(self, seq: int, wait_s: float) -> Status:
        """Return the status once something changed since `seq`, or after `wait_s`."""
        return self._call(
            "GET", f"/watch?seq={seq}&wait_s={wait_s:.3f}", None, Status, wait_s + _ANSWER_TIMEOUT_S
        )

    def up(self, request: UpRequest) -> Status:
        """Join, or change preferences; `watch` tells how it goes on."""
        return self._call("POST", "/up", request, Status)

    def down(self) -> Status:
        """Stop being a member; the log-in stays."""
        return self._call("POST", "/down", None, Status)

    def log_out(self) -> Status:
        """Expire this node's key."""
        return self._call("POST", "/logout", None, Status, 45)

    def ping(self, request: PingRequest) -> PingReply:
        """Ping a peer once."""
        timeout_s = request.timeout_s + _ANSWER_TIMEOUT_S
        return self._call("POST", "/ping", request, PingReply, timeout_s)

    def netcheck(self) -> NetcheckReport:
        """Measure the network."""
        return self._call("POST", "/netcheck", None, NetcheckReport, 30)

    def why(self, request: WhyRequest) -> Explanation:
        """Explain the path to a peer."""
        return self._call("POST", "/why", request, Explanation)

    def _call(
        self,
        method: str,
        path: str,
        body: msgspec.Struct | None,
        kind: type[_T],
        timeout_s: float = _ANSWER_TIMEOUT_S,
    ) -> _T:
        payload = b"" if body is None else msgspec.json.encode(body)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(self._path))
            status, data = _exchange(connection, method, _PREFIX + path, payload)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise DaemonAbsent(
                f"No warren daemon listens on {self._path}; `warren up` starts one."
            ) from error
        except PermissionError as error:
            raise NodeError(
                f"This user may not open {self._path}; try with sudo, or give --socket PATH."
            ) from error
        except TimeoutError as error:
            raise NodeError(f"The daemon on {self._path} did not answer in time.") from error
        except h11.RemoteProtocolError as error:
            raise NodeError(
                f"What listens on {self._path} gave no whole answer; is it a warren daemon, "
                "and did it stop just now?"
            ) from error
        except OSError as error:
            raise NodeError(f"The daemon on {self._path} cannot be asked: {error}.") from error
        finally:
            connection.close()
        try:
            if status != 200:
                raise NodeError(msgspec.json.decode(data, type=ApiError).error)
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NodeError(
                f"What listens on {self._path} is not a warren daemon of this version."
            ) from error


def _exchange(
    connection: socket.socket, method: str, target: str, payload: bytes
) -> tuple[int, bytes]:
    """Make one HTTP request; return the status and the body."""
    http = h11.Connection(h11.CLIENT)
    headers = [("Host", "local"), ("Content-Length", str(len(payload)))]
    request = h11.Request(method=method, target=target, headers=headers)
    out = (http.send(request) or b"") + (http.send(h11.Data(data=payload)) or b"")
    connection.sendall(out + (http.send(h11.EndOfMessage()) or b""))
    status, body = 0, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(connection.recv(_READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        else:
            raise h11.RemoteProtocolError("it closed the connection")


class DaemonOptions(NamedTuple):
    """How to start a daemon; None leaves the choice to it."""

    places: Places
    tun: str | None = None
    port: int | None = None


def start_daemon(options: DaemonOptions) -> int:
    """Start a daemon in the background and wait until it listens; return its process id.

    Its log goes to daemon.log in the state directory. Raises NodeError with the daemon's own
    last words if it does not come up.
    """
    state, socket_path = options.places
    command = [sys.executable, "-m", "warren", "daemon"]
    command += ["--state", str(state), "--socket", str(socket_path)]
    if options.tun is not None:
        command += ["--tun", options.tun]
    if options.port is not None:
        command += ["--port", str(options.port)]
    log_path = state / _LOG_NAME
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NodeError(
            f"Cannot write in {state} ({(error.strerror or '').lower()}); "
            "run with sudo, or set WARREN_STATE to a directory of yours."
        ) from error
    with os.fdopen(handle, "wb") as log_file:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            cwd="/",
        )
    _await_daemon(process, NodeClient(socket_path), log_path)
    return process.pid


def _await_daemon(process: subprocess.Popen[bytes], client: NodeClient, log_path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            client.status(peers=False)
            return
        except NodeError:
            if process.poll() is not None:
                raise NodeError(_last_words(log_path)) from None
        time.sleep(0.03)
    process.send_signal(signal.SIGTERM)
    raise NodeError(f"The daemon did not start within {_START_TIMEOUT_S:.0f} s; see {log_path}.")


def _last_words(log_path: Path) -> str:
    try:
        lines = log_path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    if not lines and _is_full(log_path.parent):
        return f"The disk that holds {log_path.parent} is full; make room there, and try again."
    if not lines:
        return f"The daemon ended at once; see {log_path}."
    return lines[-1].removeprefix("warren: ")


def _is_full(directory: Path) -> bool:
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _ROOM_BYTES
