from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from warren.edge.aside import run_aside
from warren.edge.files import (
    FileLock,
    FileProblem,
    private_directory,
    read_private,
    write_private,
)
from warren.edge.listen import PortProblem, listen_tcp, listen_udp, listen_unix
from warren.lab.ports import free_port


def test_written_files_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert read_private(path) == b"new" and path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["secret"], "nothing is left over"


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="cannot write"):
        write_private(tmp_path / "nowhere" / "x", b"")
    (tmp_path / "directory").mkdir()
    with pytest.raises(FileProblem):
        write_private(tmp_path / "directory", b"")
    assert [file.name for file in tmp_path.iterdir()] == ["directory"]


def test_reading(tmp_path: Path) -> None:
    assert read_private(tmp_path / "none") is None
    (tmp_path / "long").write_bytes(b"x" * 11)
    with pytest.raises(FileProblem, match="longer than 10 bytes"):
        read_private(tmp_path / "long", 10)
    with pytest.raises(FileProblem, match="cannot read"):
        read_private(tmp_path)


def test_directories(tmp_path: Path) -> None:
    made = private_directory(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o777)
    assert private_directory(made).stat().st_mode & 0o022 == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(FileProblem, match="cannot use the directory"):
        private_directory(tmp_path / "file")


def _hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    FileLock(path).acquire()
    ready.set()
    time.sleep(60)


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", ready))
    holder.start()
    assert ready.wait(30)
    lock = FileLock(tmp_path / "lock")
    assert not lock.acquire()
    holder.kill()
    holder.join()
    assert lock.acquire()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_ports(tmp_path: Path) -> None:
    (sock,) = listen_tcp("127.0.0.1", 0, "--listen")
    port = sock.getsockname()[1]
    with pytest.raises(PortProblem, match=f"port {port} is in use .* --listen"):
        listen_tcp("127.0.0.1", port, "--listen")
    sock.close()
    with pytest.raises(PortProblem, match=r"does not have the address 192\.0\.2\.1"):
        listen_udp("192.0.2.1", 0, "--stun")
    with pytest.raises(PortProblem, match="too long"):
        listen_unix(tmp_path / ("x" * 200))
    unix = listen_unix(tmp_path / "s")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    listen_unix(tmp_path / "s").close()
    unix.close()


def test_all_addresses_are_of_both_families() -> None:
    port = free_port()
    found = listen_tcp(None, port, "--listen")
    assert found[0].getsockname() == ("0.0.0.0", port)
    assert all(sock.getsockname()[1] == port for sock in found)
    for sock in found:
        sock.close()


async def test_run_aside() -> None:
    assert await run_aside(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await run_aside(lambda: 1 // 0)


def test_run_aside_does_not_hold_up_the_end() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await run_aside(lambda: time.sleep(5))

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 4
