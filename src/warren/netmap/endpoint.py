"""An IP address and a UDP port: where a datagram goes, or whence it came.

The wire has two text forms (`1.2.3.4:5`, `[2001:db8::1]:5`) and one binary form of 18 bytes
(IPv6 or IPv4-mapped address, then the port, big-endian; PROTOCOL §5.1). Neither carries a zone.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, Self

PACKED_BYTES = 18

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"


class MalformedEndpoint(ValueError):
    """Text or bytes are not an IP address and a port."""


class Endpoint(NamedTuple):
    """An address and a port; equal, ordered within a family, and usable as a dictionary key.

    The address is never an IPv4-mapped IPv6 one if it came from `parse`, `unpack` or `of`.
    """

    ip: IPv4Address | IPv6Address
    port: int

    @classmethod
    def of(cls, ip: IPv4Address | IPv6Address, port: int) -> Self:
        """Make an endpoint; an IPv4-mapped address becomes the IPv4 one that it means.

        Raises MalformedEndpoint for a port outside 0..65535 or an address with a zone.
        """
        if not 0 <= port <= 0xFFFF:
            raise MalformedEndpoint(f"{port} is not a port")
        if isinstance(ip, IPv6Address):
            if ip.scope_id is not None:
                raise MalformedEndpoint("an endpoint on the wire has no zone")
            ip = ip.ipv4_mapped or ip
        return cls(ip, port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `1.2.3.4:5` or `[2001:db8::1]:5`. Raises MalformedEndpoint."""
        host, colon, digits = text.rpartition(":")
        if not colon or not digits.isascii() or not digits.isdecimal() or len(digits) > 5:
            raise MalformedEndpoint(f"expected address:port, got {text[:64]!r}")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ip = ip_address(host[1:-1] if bracketed else host)
        except ValueError as error:
            raise MalformedEndpoint(f"expected address:port, got {text[:64]!r}") from error
        if bracketed is not (ip.version == 6):
            raise MalformedEndpoint(f"an IPv6 address, and only one, has brackets: {text[:64]!r}")
        return cls.of(ip, int(digits))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read the binary form, exactly 18 bytes. Raises MalformedEndpoint."""
        if len(data) != PACKED_BYTES:
            raise MalformedEndpoint(f"an endpoint has {PACKED_BYTES} bytes, not {len(data)}")
        return cls.of(IPv6Address(bytes(data[:16])), int.from_bytes(data[16:], "big"))

    def pack(self) -> bytes:
        """Return the binary form: 16 bytes of address (IPv4 mapped), 2 of port."""
        address = self.ip.packed
        if self.ip.version == 4:
            address = _MAPPED_PREFIX + address
        return address + self.port.to_bytes(2, "big")

    @property
    def is_v4(self) -> bool:
        """Whether the address is an IPv4 one."""
        return self.ip.version == 4

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}" if self.ip.version == 4 else f"[{self.ip}]:{self.port}"
