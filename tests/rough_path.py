"""A path that loses, doubles and reorders what one host of the lab sends to another.

Nobody on it knows: in the midst of the lab's internet a rule leads those packets into a TUN device,
and what comes out there goes on by a raw socket, or does not. So it serves every program, whoever
wrote it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

from warren.lab.layout import INTERNET

if TYPE_CHECKING:
    from warren.lab.world import Part, World

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_TABLES = itertools.count(7000)


class Rough:
    """IPv4 packets from `one` to `other`, one way; use it as a context manager.

    Of a hundred `lost` are dropped, `doubled` come twice and `late` wait behind up to three others;
    by one seed. counts: how many of each there were.
    """

    def __init__(
        self, world: World, one: Part, other: Part, lost: int = 0, doubled: int = 5, late: int = 10
    ) -> None:
        self.lost, self.doubled, self.late = lost, doubled, late
        self.counts = {"sent": 0, "lost": 0, "doubled": 0, "late": 0}
        self._middle, self._one, self._to = world[INTERNET], one, str(other.address)
        self._table = next(_TABLES)
        self._device = f"rough{self._table}"
        self._noise = random.Random(7)
        self._held: list[bytes] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Rough:
        self._tun = self._middle.inside(self._open)
        self._raw = self._middle.inside(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        )
        self._ip(f"link set {self._device} up")
        self._ip(f"route add {self._to}/32 dev {self._device} table {self._table}")
        self._ip(f"rule add {self._rule()}")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ip(f"rule del {self._rule()}")
        self._over.set()
        self._thread.join()
        os.close(self._tun)  # its table's route goes with it
        self._raw.close()

    def _open(self) -> int:
        tun = os.open("/dev/net/tun", os.O_RDWR)
        name = self._device.encode()
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name, _IFF_TUN | _IFF_NO_PI))
        return tun

    def _rule(self) -> str:
        # By where they came in, so that what is sent on from here goes the usual way.
        port = self._ip(f"route get {self._one.address}").split(" dev ")[1].split()[0]
        return f"iif {port} to {self._to} lookup {self._table}"

    def _ip(self, line: str) -> str:
        return self._middle.run(["ip", *line.split()])

    def _run(self) -> None:
        while not self._over.is_set():
            if not select.select([self._tun], [], [], 0.02)[0]:
                self._release()
                continue
            packet = os.read(self._tun, 1 << 16)
            if packet[0] >> 4 == 4:
                self._take(packet)

    def _take(self, packet: bytes) -> None:
        fate = self._noise.randrange(100)
        if fate < self.lost:
            self.counts["lost"] += 1
            return
        fate -= self.lost
        if fate < self.late:
            self.counts["late"] += 1
            self._held.append(packet)
        else:
            self._send(packet)
            if fate < self.late + self.doubled:
                self.counts["doubled"] += 1
                self._send(packet)
        if len(self._held) > 3:
            self._release()

    def _release(self) -> None:
        self._noise.shuffle(self._held)
        for packet in self._held:
            self._send(packet)
        self._held.clear()

    def _send(self, packet: bytes) -> None:
        self.counts["sent"] += 1
        self._raw.sendto(packet, (self._to, 0))


def fragments(part: Part) -> int:
    """How many IPv4 fragments the kernel has made (RFC 4293, OutFragCreates)."""
    names, values = (line.split() for line in part.run(["cat", "/proc/net/snmp"]).splitlines()[:2])
    return int(values[names.index("FragCreates")])
