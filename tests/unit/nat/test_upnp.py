"""UPnP: answers to the search, descriptions, SOAP, and XML that means harm."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from ipaddress import IPv4Address

import pytest
from fake_router import IP_V1, IP_V2, description, soap, soap_fault

from warren.nat.routerxml import MAX_BYTES, MalformedXml, parse_xml_untrusted
from warren.nat.ssdp import (
    GATEWAY_V1,
    GROUP,
    Location,
    MalformedSsdp,
    parse_location_untrusted,
    parse_ssdp_answer_untrusted,
    parse_ssdp_notice_untrusted,
    search_request,
)
from warren.nat.upnp import (
    PPP_V1,
    MalformedUpnp,
    Service,
    SoapFault,
    add_mapping_soap,
    delete_mapping_soap,
    parse_description_untrusted,
    parse_external_ip_untrusted,
    parse_reserved_port_untrusted,
    parse_soap_reply_untrusted,
)
from warren.netmap.endpoint import Endpoint

ORIGIN = parse_location_untrusted("http://192.168.1.1:5000/dir/d.xml")
ANSWER = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: upnp:rootdevice\r\nEXT:\r\n"
    b"Server: Debian UPnP/1.1 MiniUPnPd/2.3.1\r\n"
    b"location:http://192.168.1.1:5000/rootDesc.xml\r\n\r\n"
)
BOMB = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY a "%s">
<!ENTITY b "%s"><!ENTITY c "%s">]><root>&c;</root>""" % (b"&lol;" * 99, b"&a;" * 99, b"&b;" * 99)


def test_search() -> None:
    text = search_request(GATEWAY_V1, Endpoint(GROUP, 1900)).decode()
    assert text.startswith("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n")
    assert 'MAN: "ssdp:discover"\r\n' in text and text.endswith("\r\n\r\n")


def test_answer() -> None:
    answer = parse_ssdp_answer_untrusted(ANSWER)
    assert answer.location == Location(Endpoint(IPv4Address("192.168.1.1"), 5000), "/rootDesc.xml")
    assert answer.target == "upnp:rootdevice" and "MiniUPnPd" in answer.server


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff" * 100,
        ANSWER.replace(b"200 OK", b"404 No"),
        ANSWER.replace(b"HTTP/1.1 200 OK", b"NOTIFY * HTTP/1.1"),
        ANSWER.replace(b"location", b"elsewhere"),
        ANSWER.replace(b"EXT:", b"EXT"),
        ANSWER + bytes(5000),
    ],
)
def test_bad_answers(bad: bytes) -> None:
    with pytest.raises(MalformedSsdp):
        parse_ssdp_answer_untrusted(bad)


def test_notice() -> None:
    notice = (
        b"NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nNTS: ssdp:alive\r\n"
        b"BOOTID.UPNP.ORG: 17\r\n\r\n"
    )
    assert parse_ssdp_notice_untrusted(notice) == (True, "17")
    assert parse_ssdp_notice_untrusted(notice.replace(b"alive", b"byebye")) == (False, "17")
    for bad in (b"", ANSWER, b"M-SEARCH * HTTP/1.1\r\n\r\n", notice + bytes(5000)):
        with pytest.raises(MalformedSsdp):
            parse_ssdp_notice_untrusted(bad)


@pytest.mark.parametrize(
    "url",
    [
        "https://192.168.1.1/x",
        "file:///etc/passwd",
        "http://router.example/x",
        "http://192.168.1.1:0/",
        "http://192.168.1.1:70000/",
        "http://192.168.1.300/",
        "http://user@192.168.1.1/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://192.168.1.1/a b",
        "http://192.168.1.1/a\r\nX: y",
        "http://192.168.1.1/" + "a" * 600,
        "http://0300.1.1.1/",
    ],
)
def test_places_that_are_not_asked(url: str) -> None:
    with pytest.raises(MalformedSsdp):
        parse_location_untrusted(url)


def test_description() -> None:
    found = parse_description_untrusted(description(PPP_V1, IP_V1, IP_V2, "urn:other"), ORIGIN)
    assert [service.kind for service in found.services] == [IP_V2, IP_V1, PPP_V1]
    assert str(found.services[0].control) == "http://192.168.1.1:5000/ctl"
    assert found.model == "Fake Router 1"


@pytest.mark.parametrize(
    ("control", "extra", "url"),
    [
        ("ctl/x", "", "http://192.168.1.1:5000/dir/ctl/x"),
        ("http://192.168.1.1:80/y", "", "http://192.168.1.1:80/y"),
        ("/z", "<URLBase>http://192.168.1.1:81/</URLBase>", "http://192.168.1.1:81/z"),
        ("/z", "<URLBase>nonsense</URLBase>", "http://192.168.1.1:5000/z"),
    ],
)
def test_control_places(control: str, extra: str, url: str) -> None:
    data = description(IP_V1, control=control, extra=extra)
    assert str(parse_description_untrusted(data, ORIGIN).services[0].control) == url


@pytest.mark.parametrize(
    ("control", "extra"),
    [
        ("http://192.168.1.66/x", ""),
        ("http://127.0.0.1:8080/x", ""),
        ("/x", "<URLBase>http://10.0.0.1/</URLBase>"),
        ("ftp://192.168.1.1/x", ""),
    ],
)
def test_services_elsewhere_are_left_out(control: str, extra: str) -> None:
    data = description(IP_V1, control=control, extra=extra)
    assert parse_description_untrusted(data, ORIGIN).services == ()


def test_soap_requests_are_xml() -> None:
    service = Service(IP_V2, ORIGIN)
    client = IPv4Address("192.168.1.2")
    request = add_mapping_soap(service, 41642, client, 41641, 7200, any_port=True)
    assert dict(request.headers)["soapaction"] == f'"{IP_V2}#AddAnyPortMapping"'
    action = ET.fromstring(request.body)[0][0]
    assert action.tag == f"{{{IP_V2}}}AddAnyPortMapping"
    assert {child.tag: child.text for child in action} == {
        "NewRemoteHost": None,
        "NewExternalPort": "41642",
        "NewProtocol": "UDP",
        "NewInternalPort": "41641",
        "NewInternalClient": "192.168.1.2",
        "NewEnabled": "1",
        "NewPortMappingDescription": "warren-portmap",
        "NewLeaseDuration": "7200",
    }
    assert b"DeletePortMapping" in delete_mapping_soap(service, 1).body


def test_soap_replies() -> None:
    body = soap('<u:XResponse xmlns:u="x"><NewReservedPort>5</NewReservedPort></u:XResponse>')
    arguments = parse_soap_reply_untrusted(200, body)
    assert arguments == {"NewReservedPort": "5"}
    assert parse_reserved_port_untrusted({"NewReservedPort": "5"}) == 5
    fault = parse_soap_reply_untrusted(500, soap_fault(718))
    assert isinstance(fault, SoapFault) and fault.code == 718 and "(718)" in str(fault)
    assert parse_soap_reply_untrusted(503, b"busy") == SoapFault(0, "HTTP status 503")
    assert parse_soap_reply_untrusted(500, body) == SoapFault(0, "HTTP status 500")
    for bad in (b"", b"<a/>", soap(""), soap("<x/>"), b"{}"):
        with pytest.raises(MalformedUpnp):
            parse_soap_reply_untrusted(200, bad)


def test_bad_arguments() -> None:
    for text in ("", "0", "65536", "-1", "1e3", "٣", "9" * 5000):
        with pytest.raises(MalformedUpnp):
            parse_reserved_port_untrusted({"NewReservedPort": text})
    for text in ("", "x", "::1", "1.2.3", "1.2.3.4.5"):
        with pytest.raises(MalformedUpnp):
            parse_external_ip_untrusted({"NewExternalIPAddress": text})


@pytest.mark.parametrize(
    "bad",
    [
        BOMB,
        b'<!DOCTYPE r SYSTEM "http://192.168.1.66/x.dtd"><root/>',
        b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><root>&x;</root>',
        b"<root>&undeclared;</root>",
        b"<root>" * 40 + b"</root>" * 40,
        b"<root>" + b"<a/>" * 5000 + b"</root>",
        b"<root>" + b"x" * MAX_BYTES + b"</root>",
        b"<root",
        b"",
        b"\x00" * 100,
        b'<?xml version="1.0" encoding="no-such"?><root/>',
        b'<?xml version="1.0" encoding="utf-7"?><root/>',
        "<?xml version='1.0' encoding='shift_jis'?><root>あ</root>".encode("shift_jis"),
    ],
    ids=lambda bad: repr(bad[:24]),
)
def test_harmful_xml(bad: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(MalformedXml):
        parse_xml_untrusted(bad)
    assert time.perf_counter() - began < 1
    with pytest.raises(MalformedUpnp):
        parse_description_untrusted(bad, ORIGIN)


def test_dirt_that_real_routers_send() -> None:
    data = b"\r\n" + description(IP_V1) + b"\x00\r\n"
    assert len(parse_description_untrusted(data, ORIGIN).services) == 1
