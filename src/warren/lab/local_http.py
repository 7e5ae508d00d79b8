"""What a lab asks Warren's programs over their Unix sockets, without starting a command for it.

A command of `warren` costs a fifth of a second of CPU time and more; whoever waits for something
asks often. The answers are those that the commands print with `--json`.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from warren.lab.program import ProgramFailed

_JSON = {"content-type": "application/json"}


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: Path, target: str, new: dict[str, Any] | None = None, timeout_s: float = 15.0) -> Any:
    """GET `target` from the program that listens at `path`, or POST `new` there as JSON.

    Return its answer's JSON. Raises ProgramFailed where nobody answers, or with another status
    than 2xx, and then with the answer's text.
    """
    connection = _OverSocket(path, timeout_s)
    try:
        if new is None:
            connection.request("GET", target)
        else:
            connection.request("POST", target, json.dumps(new), _JSON)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise ProgramFailed(f"{path}: {target}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise ProgramFailed(f"{path}: {target}: {answer.status}: {text[-2000:]}")
    return json.loads(text)
