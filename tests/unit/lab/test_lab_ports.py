"""Ports for programs that are started with them: outside the kernel's range, and nobody else's."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from warren.lab import ports
from warren.lab.ports import BLOCK_PORTS, FIRST_PORT, free_port
from warren.lab.sandbox import LabUnavailable

LOW, HIGH = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())


def test_it_is_never_one_that_the_kernel_gives_to_connections() -> None:
    found = [free_port() for _ in range(3 * BLOCK_PORTS)]
    assert len(set(found)) == len(found), "none twice"
    assert all(FIRST_PORT <= port <= 65535 for port in found)
    assert not any(LOW <= port <= HIGH for port in found)


def test_two_processes_never_get_the_same() -> None:
    code = (
        "from warren.lab.ports import free_port\nprint(*(free_port() for _ in range(150)))\ninput()"
    )
    argv = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    programs = [subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    found = [free_port() for _ in range(150)]
    for program in programs:
        assert program.stdout is not None
        found += map(int, program.stdout.readline().split())
    assert len(set(found)) == 4 * 150
    for program in programs:
        program.communicate("\n", timeout=20)


def test_nor_does_a_forked_child_or_another_thread() -> None:
    here = [free_port() for _ in range(5)]
    told: list[int] = []
    threads = [threading.Thread(target=lambda: told.append(free_port())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send([free_port() for _ in range(20)]))
    child.start()
    there = reader.recv()
    child.join()
    found = [*here, *told, *there, *(free_port() for _ in range(20))]
    assert len(set(found)) == 65


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_port_in_use_is_passed_over(
    family: socket.AddressFamily, address: str, kind: socket.SocketKind
) -> None:
    used = free_port() + 1
    if used % BLOCK_PORTS == FIRST_PORT % BLOCK_PORTS:
        used = free_port() + 1  # a block has just ended
    with socket.socket(family, kind) as busy:
        busy.bind((address, used))
        assert free_port() == used + 1


def test_no_room_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    everything = tmp_path / "range"
    everything.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_GIVEN_BY_KERNEL", everything)
    monkeypatch.setattr(ports, "_given", {})
    with pytest.raises(LabUnavailable, match=r"outside 1024 to 65535.*ip_local_port_range"):
        free_port()


def test_a_claim_ends_with_its_process() -> None:
    code = "from warren.lab import ports; print(ports._claim(1)); input()"
    argv = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as program:
        assert program.stdout is not None and program.stdout.readline() == "True\n"
        assert not ports._claim(1)
        program.kill()
    assert ports._claim(1)
    assert not os.get_inheritable(ports._claims[-1].fileno()), "a program started here has none"
