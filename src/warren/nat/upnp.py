"""UPnP Internet Gateway Device, the client's half (IGD 1 and 2: WANIPConnection:1 and :2,
WANPPPConnection:1): the device's description, and SOAP requests as HTTP bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape  # xml.sax's would take urllib.request along, and 2 MB with it
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from warren.nat.routerxml import Element, MalformedXml, parse_xml_untrusted
from warren.nat.ssdp import Location, MalformedSsdp, parse_location_untrusted

DESCRIPTION = "warren-portmap"
"""What people read beside the mapping in their router's pages."""

IP_V2 = "urn:schemas-upnp-org:service:WANIPConnection:2"
IP_V1 = "urn:schemas-upnp-org:service:WANIPConnection:1"
PPP_V1 = "urn:schemas-upnp-org:service:WANPPPConnection:1"
MAPPING_KINDS = (IP_V2, IP_V1, PPP_V1)
"""Services that map ports, the best first."""
FIREWALL_V6 = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1"
"""The service that opens holes in an IPv6 firewall (IGD 2)."""

MAX_SERVICES = 8
_UDP = 17

# Error codes of the WANIPConnection services, those that lead to another attempt.
INVALID_ACTION = 401
INVALID_ARGUMENTS = 402
NO_SUCH_ENTRY = 714
CONFLICT = 718
SAME_PORT_REQUIRED = 724
ONLY_PERMANENT_LEASES = 725
CONFLICT_WITH_OTHER_MECHANISM = 729

_ERRORS = {
    401: "it does not know the action",
    402: "it does not take the arguments",
    501: "the action failed",
    600: "an argument is out of its range",
    602: "the action is optional and not there",
    605: "an argument is too long",
    606: "it does not allow this machine to ask",
    714: "there is no such mapping",
    715: "it wants a particular remote host",
    716: "it wants a particular external port",
    718: "another machine has this port",
    724: "it wants the same port inside and outside",
    725: "it only maps for good",
    726: "it maps for any remote host only",
    727: "it maps for any external port only",
    728: "it has no more mappings to give",
    729: "something else on the router has this port",
    732: "it wants a particular internal port",
    701: "it has no more holes to give",
    702: "its IPv6 firewall is off, and lets everything in",
    703: "it opens no holes for the machines behind it",
    704: "there is no such hole",
    733: "the port range is in conflict",
}


class MalformedUpnp(ValueError):
    """A description or a SOAP answer is not what it should be."""


class Service(NamedTuple):
    """A service that maps ports or opens holes; `kind` is its URN."""

    kind: str
    control: Location

    @property
    def is_v2(self) -> bool:
        """Whether it knows AddAnyPortMapping."""
        return self.kind == IP_V2


class Description(NamedTuple):
    """A router's description of itself. `services` are in the order in which to ask them."""

    model: str
    services: tuple[Service, ...]


class SoapRequest(NamedTuple):
    """An HTTP POST to a service's control URL."""

    to: Location
    headers: tuple[tuple[str, str], ...]
    body: bytes


class SoapFault(NamedTuple):
    """The router refused; `code` is UPnP's (0: it gave none)."""

    code: int
    text: str

    def __str__(self) -> str:
        known = _ERRORS.get(self.code) or self.text or "it gave no reason"
        return f"{known} ({self.code})" if self.code else known


def parse_description_untrusted(
    data: bytes, origin: Location, kinds: Sequence[str] = MAPPING_KINDS
) -> Description:
    """Read a device description that was fetched from `origin`. Raises MalformedUpnp.

    kinds: of the services that are wanted, the best first. Services elsewhere than on the router
    itself are left out.
    """
    try:
        root = parse_xml_untrusted(data)
    except MalformedXml as error:
        raise MalformedUpnp(f"the description: {error}") from error
    if root.name != "root":
        raise MalformedUpnp("the description is of something else")
    base = origin
    if text := root.child("URLBase"):
        try:
            base = parse_location_untrusted(text)
        except MalformedSsdp:
            base = origin
    model = ""
    for device in root.every("device"):
        named = " ".join(part for part in (device.child("manufacturer"), _name(device)) if part)
        model = _plain(named)
        break
    found = [
        service
        for element in root.every("service")
        if (service := _service(element, base, origin, kinds)) is not None
    ]
    found.sort(key=lambda service: kinds.index(service.kind))
    return Description(model, tuple(dict.fromkeys(found))[:MAX_SERVICES])


def external_address_soap(service: Service) -> SoapRequest:
    """Ask for the router's outside address."""
    return _soap(service, "GetExternalIPAddress", ())


def add_mapping_soap(
    service: Service,
    external_port: int,
    internal: IPv4Address | IPv6Address,
    internal_port: int,
    lease_s: int,
    *,
    any_port: bool = False,
) -> SoapRequest:
    """Ask for a UDP mapping, or renew one.

    lease_s: 0 is for good. any_port: AddAnyPortMapping (only :2): the router may choose another.
    """
    action = "AddAnyPortMapping" if any_port else "AddPortMapping"
    return _soap(
        service,
        action,
        (
            *_key(external_port),
            ("NewInternalPort", str(internal_port)),
            ("NewInternalClient", str(internal)),
            ("NewEnabled", "1"),
            ("NewPortMappingDescription", DESCRIPTION),
            ("NewLeaseDuration", str(lease_s)),
        ),
    )


def mapping_entry_soap(service: Service, external_port: int) -> SoapRequest:
    """Ask what a UDP port is mapped to."""
    return _soap(service, "GetSpecificPortMappingEntry", _key(external_port))


def delete_mapping_soap(service: Service, external_port: int) -> SoapRequest:
    """Ask to delete a UDP mapping."""
    return _soap(service, "DeletePortMapping", _key(external_port))


def add_pinhole_soap(
    service: Service, internal: IPv6Address, port: int, lease_s: int
) -> SoapRequest:
    """Ask for a hole for UDP from anybody to our own address and port (WANIPv6FirewallControl)."""
    return _soap(
        service,
        "AddPinhole",
        (
            ("RemoteHost", ""),
            ("RemotePort", "0"),
            ("InternalClient", str(internal)),
            ("InternalPort", str(port)),
            ("Protocol", str(_UDP)),
            ("LeaseTime", str(lease_s)),
        ),
    )


def update_pinhole_soap(service: Service, number: int, lease_s: int) -> SoapRequest:
    """Ask to keep a hole open."""
    arguments = (("UniqueID", str(number)), ("NewLeaseTime", str(lease_s)))
    return _soap(service, "UpdatePinhole", arguments)


def delete_pinhole_soap(service: Service, number: int) -> SoapRequest:
    """Ask to close a hole."""
    return _soap(service, "DeletePinhole", (("UniqueID", str(number)),))


def parse_soap_reply_untrusted(status: int, body: bytes) -> dict[str, str] | SoapFault:
    """Read what came back: the output arguments, or why not. Raises MalformedUpnp."""
    try:
        root = parse_xml_untrusted(body)
    except MalformedXml as error:
        if status != 200:
            return SoapFault(0, f"HTTP status {status}")
        raise MalformedUpnp(f"the answer: {error}") from error
    for fault in root.every("Fault"):
        for error_element in fault.every("UPnPError"):
            code = error_element.child("errorCode")
            number = int(code) if code.isascii() and code.isdecimal() and len(code) < 6 else 0
            return SoapFault(number, _plain(error_element.child("errorDescription")))
        return SoapFault(0, _plain(fault.child("faultstring")))
    if status != 200:
        return SoapFault(0, f"HTTP status {status}")
    for envelope in root.every("Body"):
        for answer in envelope.children:
            if answer.name.endswith("Response"):
                return {child.name: child.text for child in answer.children}
    raise MalformedUpnp("the answer holds no response")


def parse_external_ip_untrusted(arguments: dict[str, str]) -> IPv4Address:
    """Read the answer to `external_address_soap`. Raises MalformedUpnp."""
    try:
        return IPv4Address(arguments.get("NewExternalIPAddress", ""))
    except ValueError as error:
        raise MalformedUpnp("the outside address is none") from error


def parse_reserved_port_untrusted(arguments: dict[str, str]) -> int:
    """Read the port that AddAnyPortMapping gave. Raises MalformedUpnp."""
    text = arguments.get("NewReservedPort", "")
    if text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 0xFFFF:
        return int(text)
    raise MalformedUpnp("the reserved port is none")


def parse_pinhole_untrusted(arguments: dict[str, str]) -> int:
    """Read the number that AddPinhole gave. Raises MalformedUpnp."""
    text = arguments.get("UniqueID", "")
    if text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 0xFFFF:
        return int(text)
    raise MalformedUpnp("the hole has no number")


def _service(
    element: Element, base: Location, origin: Location, kinds: Sequence[str]
) -> Service | None:
    kind = element.child("serviceType")
    path = element.child("controlURL")
    if kind not in kinds or not path:
        return None
    try:
        if "://" in path:
            control = parse_location_untrusted(path)
        else:
            absolute = path if path.startswith("/") else base.path.rpartition("/")[0] + "/" + path
            control = parse_location_untrusted(f"http://{base.server}{absolute}")
    except MalformedSsdp:
        return None
    return Service(kind, control) if control.server.ip == origin.server.ip else None


def _name(device: Element) -> str:
    return device.child("modelName") or device.child("friendlyName")


def _key(external_port: int) -> tuple[tuple[str, str], ...]:
    """What names a mapping: any remote host, the external port, UDP."""
    return (
        ("NewRemoteHost", ""),
        ("NewExternalPort", str(external_port)),
        ("NewProtocol", "UDP"),
    )


def _soap(service: Service, action: str, arguments: Sequence[tuple[str, str]]) -> SoapRequest:
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments)
    body = (
        '<?xml version="1.0"?>\r\n'
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
        f'<s:Body><u:{action} xmlns:u="{service.kind}">{inner}</u:{action}></s:Body>'
        "</s:Envelope>\r\n"
    )
    headers = (
        ("content-type", 'text/xml; charset="utf-8"'),
        ("soapaction", f'"{service.kind}#{action}"'),
    )
    return SoapRequest(service.control, headers, body.encode())


def _plain(text: str) -> str:
    """What of a text may be shown to a person, and not too much of it."""
    return "".join(c for c in text[:128] if c.isprintable())
