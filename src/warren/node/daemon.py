"""The node's composition root: builds the parts, wires them, runs one TaskGroup."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.edge.linux.device import DeviceRoutes
from warren.edge.linux.local_socket import SocketProblem, listen_local
from warren.engine.protocol import Engine, EngineConfig
from warren.node.localapi import LocalApi
from warren.node.locate import Places
from warren.node.proxy import ProxyProblem, ProxyServer, listen_proxy
from warren.node.runtime import EngineStopped, Mode, Runtime
from warren.node.service import NodeService
from warren.node.state import NodeState
from warren.paths.mtu import BASE_MTU_BYTES, MTU_MAX_BYTES

DEFAULT_PORT = 41641
DEFAULT_TUN = "warren0"
DEFAULT_PROXY = "127.0.0.1:1055"
_NO_TUN = "none"


class DaemonProblem(Exception):
    """The daemon cannot run. The text is one sentence with the way out."""


def run_daemon(
    where: Places,
    *,
    tun: str | None = None,
    port: int | None = None,
    proxy: str | None = None,
    threads: int = 0,
) -> None:
    """Run a node until SIGTERM or SIGINT.

    tun: a device name, `none`, or None for the default (warren0 as root, else none).
    port: None takes 41641, or any if that is busy. proxy: `ip:port` or `none`.
    threads: for packets, each way; 0 takes what suits the machine.
    Raises DaemonProblem, StateProblem, SocketProblem, ProxyProblem.
    """
    _log_to_stderr()
    if tun is None:
        tun = DEFAULT_TUN if os.geteuid() == 0 else _NO_TUN
    device = None if tun in (_NO_TUN, "") else tun
    state = NodeState(where.state, system_entropy)
    try:
        owner_only = os.geteuid() != 0
        listener = listen_local(where.socket, mode=0o600 if owner_only else 0o666)
        try:
            engine, bound_port = _start_engine(device, port, threads)
            try:
                mode = Mode(device, bound_port)
                uvloop.run(_run(state, engine, mode, listener.detach(), proxy))
            finally:
                engine.close()
        finally:
            listener.close()
            where.socket.unlink(missing_ok=True)
    finally:
        state.close()


async def _run(
    state: NodeState, engine: Engine, mode: Mode, listener_fd: int, proxy: str | None
) -> None:
    import socket

    device = mode.tun
    runtime = Runtime(
        state,
        engine,
        mode,
        SystemClock(),
        system_entropy,
        make_routes=None if device is None else lambda: _device_routes(device),
    )
    service = NodeService(runtime)
    api = LocalApi(service, os.geteuid())
    log = structlog.get_logger("warren")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    proxy_listener = None
    if mode.tun is None and proxy != _NO_TUN:
        proxy_listener = listen_proxy(proxy or DEFAULT_PROXY, fall_back=proxy is None)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(service.run(), name="service"),
                tasks.create_task(api.run(socket.socket(fileno=listener_fd)), name="local-api"),
            ]
            if proxy_listener is not None:
                server = ProxyServer(proxy_listener, runtime.dialer, service.find_address)
                service.proxy = server
                running.append(tasks.create_task(server.run(), name="proxy"))
            log.info("node runs", tun=mode.tun or "userspace", state=str(state.directory))
            await stop.wait()
            for task in running:
                task.cancel()
    except* EngineStopped as group:
        raise DaemonProblem(str(group.exceptions[0])) from None
    log.info("node stopped")


def _device_routes(device: str) -> DeviceRoutes:
    from warren.edge.linux.routes import TunRoutes

    return TunRoutes(device, MTU_MAX_BYTES)


def _start_engine(tun: str | None, port: int | None, threads: int) -> tuple[Engine, int]:
    """Start the packet engine; a busy default port is no reason to fail."""
    if tun is not None and not Path("/dev/net/tun").exists():
        raise DaemonProblem(
            "/dev/net/tun is missing, so no TUN device can be made; "
            "load the kernel's tun module, or use userspace mode with --tun none."
        )
    try:
        from warren.engine.native import NativeEngine
    except ImportError as error:
        raise DaemonProblem(
            f"The packet engine is not built ({error}); run `make engine` in the source tree."
        ) from error
    wanted = DEFAULT_PORT if port is None else port
    # The device takes what any path may carry, and each peer's route says what its path does. The
    # userspace stack has one size for all.
    mtu_bytes = BASE_MTU_BYTES if tun is None else MTU_MAX_BYTES

    def start(port: int) -> Engine:
        return NativeEngine(EngineConfig(tun=tun, port=port, mtu_bytes=mtu_bytes, threads=threads))

    try:
        return start(wanted), wanted
    except OSError as error:
        if not _is_port_busy(error):
            raise DaemonProblem(_capital(error)) from error
        if port is not None:
            raise DaemonProblem(
                f"UDP port {port} is busy; choose another with --port N, or 0 for any."
            ) from error
    try:
        return start(0), 0
    except OSError as error:
        raise DaemonProblem(_capital(error)) from error


def _is_port_busy(error: OSError) -> bool:
    # A TUN device that another program has says that it is in use, too.
    return error.errno == errno.EADDRINUSE or ("UDP port" in str(error) and "in use" in str(error))


def _capital(error: OSError) -> str:
    text = (error.strerror or str(error)).strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


def _log_to_stderr() -> None:
    level = logging.DEBUG if os.environ.get("WARREN_DEBUG") else logging.INFO
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


__all__ = ["DaemonProblem", "ProxyProblem", "SocketProblem", "run_daemon"]
