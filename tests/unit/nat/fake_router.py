"""A router that speaks what a test wants it to, and a clock to move a Portmapper beside it."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from warren.nat.mapping import Call, CallFailed, Datagram, Finding, MapProtocol, Reply
from warren.nat.portmap import Portmapper
from warren.netmap.endpoint import Endpoint

ROUTER, LOCAL = IPv4Address("192.168.1.1"), IPv4Address("192.168.1.2")
WAN = IPv4Address("203.0.113.10")
PORT = 41641
IP_V1 = "urn:schemas-upnp-org:service:WANIPConnection:1"
IP_V2 = "urn:schemas-upnp-org:service:WANIPConnection:2"


def entropy(size: int) -> bytes:
    return bytes(range(100, 100 + size))


@dataclass
class FakeRouter:
    natpmp: bool = False
    pcp: bool = False
    upnp: bool = False
    wan: IPv4Address = WAN
    started: float = -1000.0
    lease_s: int = 7200
    delay_s: float = 0.001
    natpmp_result: int = 0
    pcp_result: int = 0
    service: str = IP_V1
    taken: set[int] = field(default_factory=set)
    """External UDP ports that other machines have."""
    faults: dict[str, int] = field(default_factory=dict)
    """UPnP error by action."""
    permanent_only: bool = False
    mapped: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """External port → client, internal port, lease."""
    asked: list[str] = field(default_factory=list)
    http_port: int = 5000

    def epoch(self, now: float) -> int:
        return int(now - self.started)

    def restart(self, now: float) -> None:
        self.started = now
        self.mapped.clear()

    def datagram(self, to: Endpoint, data: bytes, now: float) -> list[tuple[bytes, Endpoint]]:
        if to.port == 1900:
            return [(self._ssdp(), Endpoint(ROUTER, 1900))] if self.upnp else []
        assert to == Endpoint(ROUTER, 5351)
        here = Endpoint(ROUTER, 5351)
        if data[0] == 0 and self.natpmp:
            return [(self._natpmp(data, now), here)]
        if data[0] == 2 and self.pcp:
            return [(self._pcp(data, now), here)]
        return []

    def _natpmp(self, data: bytes, now: float) -> bytes:
        head = struct.pack("!BBHI", 0, 128 + data[1], self.natpmp_result, self.epoch(now))
        if data[1] == 0:
            self.asked.append("natpmp address")
            return head + self.wan.packed
        _, internal, external, lifetime = struct.unpack("!HHHI", data[2:])
        self.asked.append(f"natpmp map {internal} {external} {lifetime}")
        return head + struct.pack("!HHI", internal, *self._lease(internal, external, lifetime))

    def _pcp(self, data: bytes, now: float) -> bytes:
        assert IPv6Address(data[8:24]).ipv4_mapped == LOCAL
        lifetime = int.from_bytes(data[4:8], "big")
        if data[1] == 1:
            nonce, proto, internal, external, _ = struct.unpack("!12sB3xHH16s", data[24:])
            self.asked.append(f"pcp map {internal} {external} {lifetime}")
            port, lifetime = self._lease(internal, external, lifetime)
            address = bytes(10) + b"\xff\xff" + self.wan.packed
            body = struct.pack("!12sB3xHH16s", nonce, proto, internal, port, address)
        else:
            self.asked.append("pcp announce")
            body = b""
        result = self.pcp_result if data[1] == 1 else 0
        head = struct.pack("!BBBBII12x", 2, 128 + data[1], 0, result, lifetime, self.epoch(now))
        return head + body

    def _lease(self, internal: int, external: int, lifetime: int) -> tuple[int, int]:
        if not lifetime:
            self.mapped = {e: m for e, m in self.mapped.items() if m[1] != internal}
            return 0, 0
        while external in self.taken:
            external += 1
        self.mapped[external] = (str(LOCAL), internal, lifetime)
        return external, min(lifetime, self.lease_s)

    def _ssdp(self) -> bytes:
        self.asked.append("ssdp")
        return (
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: urn:x\r\nUSN: uuid:1::urn:x\r\n"
            f"EXT:\r\nSERVER: Fake/1 UPnP/1.1\r\nLOCATION: http://{ROUTER}:{self.http_port}/d.xml"
            "\r\n\r\n"
        ).encode()

    def call(self, call: Call) -> Reply | CallFailed:
        if call.to.server != Endpoint(ROUTER, self.http_port):
            return CallFailed("connection refused")
        if call.method == "GET":
            self.asked.append("description")
            return Reply(200, description(self.service))
        text = call.body.decode()
        found = re.search(r"<u:(\w+) ", text)
        assert found is not None
        action = found.group(1)
        arguments = dict(re.findall(r"<(New\w+)>([^<]*)</New\w+>", text))
        self.asked.append(f"{action} {arguments.get('NewExternalPort', '')}".strip())
        result = self._soap(action, arguments)
        if isinstance(result, int):
            return Reply(500, soap_fault(result))
        inner = "".join(f"<{k}>{v}</{k}>" for k, v in result.items())
        return Reply(200, soap(f'<u:{action}Response xmlns:u="x">{inner}</u:{action}Response>'))

    def _soap(self, action: str, arguments: dict[str, str]) -> dict[str, str] | int:
        if action in self.faults:
            return self.faults[action]
        if action == "GetExternalIPAddress":
            return {"NewExternalIPAddress": str(self.wan)}
        port = int(arguments["NewExternalPort"])
        assert arguments["NewProtocol"] == "UDP"
        if action == "GetSpecificPortMappingEntry":
            if port not in self.mapped:
                return 714
            client, internal, lease = self.mapped[port]
            return {
                "NewInternalPort": str(internal),
                "NewInternalClient": client,
                "NewLeaseDuration": str(lease),
            }
        if action == "DeletePortMapping":
            return {} if self.mapped.pop(port, None) else 714
        lease = int(arguments["NewLeaseDuration"])
        if self.permanent_only and lease:
            return 725
        entry = (arguments["NewInternalClient"], int(arguments["NewInternalPort"]), lease)
        if action == "AddAnyPortMapping" and self.service == IP_V2:
            while port in self.taken:
                port += 1
            self.mapped[port] = entry
            return {"NewReservedPort": str(port)}
        if action != "AddPortMapping":
            return 401
        if port in self.taken:
            return 718
        self.mapped[port] = entry
        return {}


def soap(inner: str) -> bytes:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<s:Body>{inner}</s:Body></s:Envelope>"
    ).encode()


def soap_fault(code: int) -> bytes:
    return soap(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
        '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0">'
        f"<errorCode>{code}</errorCode><errorDescription>No</errorDescription>"
        "</UPnPError></detail></s:Fault>"
    )


def description(*services: str, control: str = "/ctl", extra: str = "") -> bytes:
    listed = "".join(
        f"<service><serviceType>{kind}</serviceType><serviceId>x</serviceId>"
        f"<controlURL>{control}</controlURL></service>"
        for kind in services
    )
    return (
        '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">'
        f"{extra}<device><manufacturer>Fake</manufacturer><modelName>Router 1</modelName>"
        f"<deviceList><device><serviceList>{listed}</serviceList></device></deviceList>"
        "</device></root>"
    ).encode()


class Rig:
    """A Portmapper beside a router, on a clock of their own."""

    def __init__(self, router: FakeRouter, **options: object) -> None:
        self.router = router
        self.now = 100.0
        self.sent = 0
        self._coming: list[tuple[float, Callable[[], None]]] = []
        make: Callable[..., Portmapper] = Portmapper
        self.mapper = make(ROUTER, LOCAL, PORT, entropy, self.now, **options)
        self.pump()

    def pump(self) -> None:
        while (transmit := self.mapper.poll_transmit(self.now)) is not None:
            self.sent += 1
            at = self.now + self.router.delay_s
            if isinstance(transmit, Datagram):
                answers = self.router.datagram(transmit.to, transmit.data, self.now)
                for data, src in answers:
                    self._coming.append((at, self._receiver(data, src)))
            else:
                reply = self.router.call(transmit)
                self._coming.append((at, self._replier(transmit.number, reply)))

    def _receiver(self, data: bytes, src: Endpoint) -> Callable[[], None]:
        return lambda: (self.mapper.receive(data, src, self.now), None)[1]

    def _replier(self, number: int, reply: Reply | CallFailed) -> Callable[[], None]:
        return lambda: self.mapper.receive_reply(number, reply, self.now)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(100_000):
            due = self.mapper.next_timeout()
            times = [at for at, _ in self._coming] + ([due[0]] if due else [])
            soonest = min(times, default=end + 1)
            if soonest > end:
                self.now = end
                return
            self.now = max(self.now, soonest)
            arrived = [item for item in self._coming if item[0] <= self.now]
            self._coming = [item for item in self._coming if item[0] > self.now]
            for _, deliver in arrived:
                deliver()
            self.mapper.handle_timeout(self.now)
            self.pump()
        raise AssertionError("the machine never rests")

    def finding(self, protocol: MapProtocol) -> Finding:
        return next(o.finding for o in self.mapper.outcomes if o.protocol is protocol)

    def detail(self, protocol: MapProtocol) -> str:
        return next(o.detail for o in self.mapper.outcomes if o.protocol is protocol)

    @property
    def external(self) -> str | None:
        return str(self.mapper.mapping.external) if self.mapper.mapping else None
