"""What a node needs of its TUN device, apart from packets; `routes` does it by netlink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol


class RouteProblem(Exception):
    """The kernel refused an address or a route. The text is one sentence."""


class DeviceRoutes(Protocol):
    """Addresses and routes of one device. Both calls block for some milliseconds."""

    def apply(self, addresses: Iterable[str], routes: Mapping[str, int]) -> None:
        """Give the device exactly these. routes: prefix → MTU in bytes. Raises RouteProblem."""
        ...

    def clear(self) -> None:
        """Take everything back. Raises RouteProblem."""
        ...
