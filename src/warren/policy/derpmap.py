"""Relay regions as a person writes them (PROTOCOL §4.5): a policy's `derpMap`, and files.

Both have the form of the wire's DERP map. Names may be in any case, as in the real service, so
that `HostName`, `hostName` and `hostname` are one. What is left out and can only be one thing is
filled in: a node's region, and a name for it.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any

import msgspec

from warren.netmap.derpmap import PIN_PREFIX, DERPMap, DERPNode, DERPRegion, HomeParams
from warren.policy.hujson import MAX_BYTES, Item, parse_hujson_untrusted
from warren.policy.malformed import MalformedPolicy

MAX_REGIONS, MAX_NODES = 256, 32
MAX_REGION_ID = 0xFFFF
"""Clients write a region as the port of a pseudo-endpoint."""
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?")
_PIN = re.compile(rf"{PIN_PREFIX}[0-9A-Fa-f]{{64}}")
_NAME = re.compile(r"[!-~]{1,64}")
_NONE = "none"
_MAX_TEXT = 256
_MAX_DOTS = 500
# JSON's numbers, and `true` is not one of them.
_KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a string", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: type(value) is int),
    float: ("a number", lambda value: type(value) in (int, float) and math.isfinite(value)),
}

Fail = Callable[[Item, str], MalformedPolicy]
"""Makes the error of one value: it knows the places."""


def parse_derp_map_untrusted(source: str, *, toml: bool = False, strict: bool = True) -> DERPMap:
    """Read a file: JSON with comments, or TOML. Raises MalformedPolicy, with its place.

    A region of None takes one away. strict: whether a name that is not known is an error, as it
    is where a person wrote it.
    """
    if not toml:
        text = parse_hujson_untrusted(source, "DERP map")
        return read_derp_map(
            text.root, lambda item, said: MalformedPolicy(said, text.place(item.start)), strict
        )
    if len(source.encode(errors="surrogatepass")) > MAX_BYTES:
        raise MalformedPolicy(f"the DERP map is larger than {MAX_BYTES} bytes")
    try:
        if any(line.count(".") > _MAX_DOTS for line in source.splitlines()):
            # A key of many parts takes the library the square of their number.
            raise ValueError(f"a line with more than {_MAX_DOTS} dots")
        root = _items(tomllib.loads(source))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise MalformedPolicy(f"this is not TOML: {error}") from None
    # TOML tells no places; the messages name the member all the same.
    return read_derp_map(root, lambda item, said: MalformedPolicy(said), strict)


def read_derp_map(root: Item, fail: Fail, strict: bool = True, where: str = "") -> DERPMap:
    """Read a map from its parsed form. where: what stands before the names in messages."""
    return _Reader(fail, strict).map(root, where)


def merge(base: DERPMap, added: DERPMap | None) -> DERPMap:
    """Put what was added over what is there: its regions whole, and None takes one away.

    With `omit_default_regions` nothing of what was there stays.
    """
    if added is None:
        return base
    kept = {} if added.omit_default_regions else dict(base.regions or {})
    kept.update(added.regions or {})
    regions = {number: region for number, region in sorted(kept.items()) if region is not None}
    scores = dict(base.home_params.region_score or {}) if base.home_params else {}
    scores.update((added.home_params.region_score or {}) if added.home_params else {})
    return DERPMap(
        home_params=HomeParams(region_score=scores) if scores else None,
        regions=dict(regions),
        omit_default_regions=True,
    )


def _items(value: Any) -> Item:
    if isinstance(value, dict):
        value = {name: _items(member) for name, member in value.items()}
    elif isinstance(value, list):
        value = [_items(member) for member in value]
    return Item(value, 0, 0, dict.fromkeys(value, 0) if isinstance(value, dict) else {})


class _Reader:
    def __init__(self, fail: Fail, strict: bool) -> None:
        self.fail = fail
        self.strict = strict
        self.names: set[str] = set()

    def map(self, root: Item, where: str) -> DERPMap:
        known = {name.lower(): name for name in ("OmitDefaultRegions", "Regions", "HomeParams")}
        members = self.members(root, where.rstrip(".") or "the DERP map", known)
        omit = self.value(members, "omitdefaultregions", bool, f"{where}OmitDefaultRegions", False)
        regions: dict[int, DERPRegion | None] = {}
        listed = self.numbered(members.get("regions"), f"{where}Regions")
        if len(listed) > MAX_REGIONS:
            raise self.fail(members["regions"], f"{where}Regions: more than {MAX_REGIONS}")
        for number, (key, item) in listed.items():
            at = f'{where}Regions["{key}"]'
            regions[number] = None if item.value is None else self.region(number, item, at)
        return DERPMap(
            home_params=self.home_params(members.get("homeparams"), f"{where}HomeParams"),
            regions=regions,
            omit_default_regions=bool(omit),
        )

    def home_params(self, item: Item | None, where: str) -> HomeParams | None:
        if item is None or item.value is None:
            return None
        members = self.members(item, where, {"regionscore": "RegionScore"})
        scores = {}
        at = f"{where}.RegionScore"
        for number, (key, score) in self.numbered(members.get("regionscore"), at).items():
            wanted, fits = _KINDS[float]
            if not fits(score.value) or not 0 < score.value <= 1e6:
                raise self.fail(score, f'{at}["{key}"]: expected {wanted} above 0')
            scores[number] = float(score.value)
        return HomeParams(region_score=scores) if scores else None

    def region(self, number: int, item: Item, where: str) -> DERPRegion:
        values, items = self.struct(item, where, DERPRegion, ("Nodes",))
        if values.setdefault("RegionID", number) != number:
            raise self.fail(items["regionid"], f"{where}.RegionID: it is {number} by its key")
        values["RegionCode"] = values.get("RegionCode") or str(number)
        for name, most in (("Latitude", 90), ("Longitude", 180)):
            if abs(values.get(name, 0)) > most:
                raise self.fail(items[name.lower()], f"{where}.{name}: not beyond {most}")
        nodes = items.get("nodes")
        if nodes is None or not isinstance(nodes.value, list) or not nodes.value:
            raise self.fail(nodes or item, f"{where}.Nodes: expected a list with at least one node")
        if len(nodes.value) > MAX_NODES:
            raise self.fail(nodes, f"{where}.Nodes: more than {MAX_NODES}")
        values["Nodes"] = [
            self.node(number, place, node, f"{where}.Nodes[{place}]")
            for place, node in enumerate(nodes.value)
        ]
        if all(node.stun_only for node in values["Nodes"]):
            raise self.fail(nodes, f"{where}.Nodes: all are STUNOnly, so the region has no relay")
        return msgspec.convert(values, DERPRegion)

    def node(self, region: int, place: int, item: Item, where: str) -> DERPNode:
        values, items = self.struct(item, where, DERPNode)
        if values.setdefault("RegionID", region) != region:
            raise self.fail(items["regionid"], f"{where}.RegionID: its region is {region}")
        letter = chr(ord("a") + place) if place < 26 else f"n{place}"
        name = values["Name"] = values.get("Name") or f"{region}{letter}"
        if not _NAME.fullmatch(name):
            raise self.fail(items["name"], f"{where}.Name: expected a word without spaces")
        if name in self.names:
            raise self.fail(items.get("name", item), f'{where}.Name: there are two nodes "{name}"')
        self.names.add(name)
        if not values.get("HostName"):
            raise self.fail(item, f"{where}.HostName: it is missing; relays are known by name")
        host = values["HostName"]
        if not (_HOST.fullmatch(host) or _version(host)):
            raise self.fail(items["hostname"], f'{where}.HostName: "{host[:80]}" is no host name')
        certificate = values.get("CertName", "")
        if certificate and not (_PIN.fullmatch(certificate) or _HOST.fullmatch(certificate)):
            raise self.fail(
                items["certname"],
                f"{where}.CertName: expected a host name, or sha256-raw: and 64 hexadecimal digits",
            )
        for name, version in (("IPv4", 4), ("IPv6", 6)):
            value = values.get(name, "")
            if value not in ("", _NONE) and _version(value) != version:
                raise self.fail(
                    items[name.lower()], f'{where}.{name}: expected an {name} address or "none"'
                )
        if values.get("STUNTestIP") and _version(values["STUNTestIP"]) is None:
            raise self.fail(items["stuntestip"], f"{where}.STUNTestIP: expected an address")
        for name, lowest in (("STUNPort", -1), ("DERPPort", 0)):
            if not lowest <= values.get(name, 0) <= 0xFFFF:
                raise self.fail(
                    items[name.lower()], f"{where}.{name}: expected {lowest} to {0xFFFF}"
                )
        return msgspec.convert(values, DERPNode)

    def struct(
        self, item: Item, where: str, kind: type[msgspec.Struct], other: tuple[str, ...] = ()
    ) -> tuple[dict[str, Any], dict[str, Item]]:
        """Return the simple members by their wire names, and every item by its lower name."""
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        items = self.members(item, where, {name.lower(): name for name in fields})
        values = {}
        for name, wanted in fields.items():
            if name in other:
                continue
            found = self.value(items, name.lower(), wanted, f"{where}.{name}", None)
            if found is not None:
                values[name] = found
        return values, items

    def members(self, item: Item, where: str, known: dict[str, str]) -> dict[str, Item]:
        """Return an object's members by their lower names; those that are not known are wrong."""
        if not isinstance(item.value, dict):
            raise self.fail(item, f"{where}: expected an object")
        found: dict[str, Item] = {}
        for name, member in item.value.items():
            lower = name.lower()
            at = Item(name, item.names.get(name, item.start), item.end)
            if lower not in known:
                if not self.strict:
                    continue
                error = self.fail(at, f'{where}: unknown field "{name[:80]}"')
                near = get_close_matches(lower, known, 1, 0.6)
                error.hint = f'"{known[near[0]]}"' if near else None
                raise error
            if lower in found:
                raise self.fail(at, f'{where}: "{known[lower]}" is given twice')
            found[lower] = member
        return found

    def value(
        self, members: dict[str, Item], name: str, kind: Any, where: str, default: Any
    ) -> Any:
        item = members.get(name)
        if item is None or item.value is None:
            return default
        wanted, fits = _KINDS[kind]
        if not fits(item.value):
            raise self.fail(item, f"{where}: expected {wanted}")
        if isinstance(item.value, str) and len(item.value) > _MAX_TEXT:
            raise self.fail(item, f"{where}: longer than {_MAX_TEXT} characters")
        return item.value

    def numbered(self, item: Item | None, where: str) -> dict[int, tuple[str, Item]]:
        """Return an object whose names are numbers of regions."""
        if item is None or item.value is None:
            return {}
        if not isinstance(item.value, dict):
            raise self.fail(item, f"{where}: expected an object with the regions by number")
        found: dict[int, tuple[str, Item]] = {}
        for key, member in item.value.items():
            number = int(key) if key.isascii() and key.isdecimal() and len(key) < 8 else 0
            at = Item(key, item.names.get(key, item.start), item.end)
            if not 0 < number <= MAX_REGION_ID:
                raise self.fail(
                    at, f'{where}: "{key[:80]}" is no region; its number is 1 to {MAX_REGION_ID}'
                )
            if number in found:
                raise self.fail(at, f"{where}: region {number} is given twice")
            found[number] = (key, member)
        return found


def _version(text: str) -> int | None:
    try:
        return ip_address(text).version
    except ValueError:
        return None
