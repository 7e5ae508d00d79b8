"""A hole in an IPv6 firewall, asked for by UPnP: what is asked, and what of the answers counts."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import pytest
from fake_router import PORT, entropy, soap, soap_fault

from warren.nat.mapping import Call, CallFailed, Datagram, Finding, MapProtocol, Reply
from warren.nat.portmap import Portmapper
from warren.nat.ssdp import MalformedSsdp, parse_location_untrusted
from warren.nat.upnp import FIREWALL_V6
from warren.netmap.endpoint import Endpoint

ROUTER, OWN = IPv6Address("fe80::1"), IPv6Address("2001:db8::5")
LAN_SIDE = "2001:db8::1"
DESCRIPTION = (
    '<root xmlns="urn:schemas-upnp-org:device-1-0"><device><modelName>six</modelName>'
    f"<serviceList><service><serviceType>{FIREWALL_V6}</serviceType>"
    "<controlURL>/ctl/6FC</controlURL></service></serviceList></device></root>"
).encode()


class Firewall:
    """A router whose UPnP opens holes, and a Portmapper that may ask it."""

    def __init__(self, location: str = f"http://[{LAN_SIDE}]:5000/d.xml") -> None:
        self.location = location
        self.faults: dict[str, int] = {}
        self.number = "7"
        self.asked: list[str] = []
        self.mapper = Portmapper(ROUTER, OWN, PORT, entropy, 0.0, [MapProtocol.PCP])

    def advance(self, now: float) -> None:
        """Let time pass, and answer what is asked."""
        self.mapper.handle_timeout(now)
        while (sent := self.mapper.poll_transmit(now)) is not None:
            if isinstance(sent, Call):
                self.mapper.receive_reply(sent.number, self._call(sent), now)
            elif b"InternetGatewayDevice:2" in sent.data:
                self._answer(sent, now)

    def _answer(self, sent: Datagram, now: float) -> None:
        assert sent.to == Endpoint(IPv6Address("ff02::c"), 1900)
        head = f"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: {self.location}\r\n\r\n".encode()
        self.mapper.receive(head, Endpoint(IPv6Address(LAN_SIDE), 1900), now)

    def _call(self, call: Call) -> Reply | CallFailed:
        if call.method == "GET":
            return Reply(200, DESCRIPTION)
        found = re.search(r"<u:(\w+) ", call.body.decode())
        assert found is not None and f'"{FIREWALL_V6}#{found[1]}"' in dict(call.headers).values()
        values = re.findall(r"<(\w+)>([^<]*)</\1>", call.body.decode())
        self.asked.append(" ".join([found[1], *(value for _, value in values if value)]))
        if found[1] in self.faults:
            return Reply(500, soap_fault(self.faults[found[1]]))
        inner = f"<UniqueID>{self.number}</UniqueID>" if found[1] == "AddPinhole" else ""
        return Reply(200, soap(f'<u:{found[1]}Response xmlns:u="x">{inner}</u:{found[1]}Response>'))

    def finding(self) -> Finding:
        return next(o.finding for o in self.mapper.outcomes if o.protocol is MapProtocol.UPNP)


def test_a_hole_is_opened_kept_open_and_closed() -> None:
    firewall = Firewall()
    firewall.advance(0.01)
    assert firewall.asked == [f"AddPinhole 0 {OWN} {PORT} 17 7200"]
    assert firewall.mapper.mapping is not None
    assert firewall.mapper.mapping.external == Endpoint(OWN, PORT)
    assert firewall.mapper.model == "six"
    firewall.advance(3601)
    assert firewall.asked[1:] == ["UpdatePinhole 7 7200"]
    assert firewall.mapper.mapping.since == 3601
    firewall.mapper.stop(3700)
    firewall.advance(3700)
    assert firewall.asked[2:] == ["DeletePinhole 7"]
    assert firewall.mapper.settled


def test_a_hole_that_the_router_forgot_is_opened_anew() -> None:
    firewall = Firewall()
    firewall.advance(0.01)
    firewall.faults, firewall.number = {"UpdatePinhole": 704}, "8"
    firewall.advance(3601)
    assert firewall.asked[1:] == ["UpdatePinhole 7 7200", f"AddPinhole 0 {OWN} {PORT} 17 7200"]
    firewall.mapper.stop(3700)
    firewall.advance(3700)
    assert firewall.asked[-1] == "DeletePinhole 8"


@pytest.mark.parametrize(
    ("fault", "finding", "words"),
    [(703, Finding.REFUSED, "opens no holes"), (606, Finding.REFUSED, "does not allow")],
)
def test_a_router_that_refuses_is_told_of(fault: int, finding: Finding, words: str) -> None:
    firewall = Firewall()
    firewall.faults = {"AddPinhole": fault}
    firewall.advance(0.01)
    assert firewall.mapper.mapping is None
    (told,) = [o for o in firewall.mapper.outcomes if o.protocol is MapProtocol.UPNP]
    assert told.finding is finding and words in told.detail


@pytest.mark.parametrize("number", ["", "-1", "65536", "999999999", "٣", "7.0"])
def test_a_number_that_is_none_is_no_hole(number: str) -> None:
    firewall = Firewall()
    firewall.number = number
    firewall.advance(0.01)
    assert firewall.mapper.mapping is None and firewall.finding() is Finding.BROKEN


@pytest.mark.parametrize(
    "location",
    [
        "http://[2001:db8:1::1]:5000/d.xml",  # another network
        f"http://[{OWN}]:5000/d.xml",  # ourselves
        "http://192.0.2.1:5000/d.xml",
    ],
)
def test_a_place_elsewhere_is_not_asked(location: str) -> None:
    firewall = Firewall(location)
    firewall.advance(0.01)
    assert firewall.asked == [] and firewall.mapper.model == ""
    assert firewall.mapper.drops["UPnP: names another machine"] == 1


@pytest.mark.parametrize("host", ["[::1", "[fe80::1%25eth0]", "[:::]", "[]", "::1"])
def test_hosts_that_are_no_addresses(host: str) -> None:
    with pytest.raises(MalformedSsdp):
        parse_location_untrusted(f"http://{host}/x")
