"""NATs as models: how they map, filter, give out ports and forget (terms of RFC 4787)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from warren.lab.kinds import Behaviour
from warren.netmap.endpoint import Endpoint
from warren.paths.punching.ports import FIRST_PORT, LAST_PORT

Allocation = Literal["kept", "sequential", "random"]


@dataclass(frozen=True)
class PortRule:
    """How outside ports are given out (RFC 4787 §4.2), from `first` to `last`.

    step: of a sequential allocator. other_flows_per_s: how often other machines behind the same
    NAT take a port.
    """

    allocation: Allocation = "kept"
    first: int = FIRST_PORT
    last: int = LAST_PORT
    step: int = 1
    other_flows_per_s: float = 0.0


@dataclass(frozen=True)
class NatModel:
    """One kind of router. mapping None: it does not translate. filtering None: all comes in.

    timeout_s: how long an unused mapping lives. mappings_max: how many there can be.
    """

    name: str
    everyday: str
    mapping: Behaviour | None = None
    filtering: Behaviour | None = None
    ports: PortRule = PortRule()
    hairpin: bool = False
    udp: bool = True
    timeout_s: float = 120.0
    mappings_max: int = 65536


_EIM: Behaviour = "endpoint-independent"
_ADM: Behaviour = "address-dependent"
_APDM: Behaviour = "address-and-port-dependent"

MODELS: Mapping[str, NatModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            NatModel("public", "no NAT, no firewall"),
            NatModel("firewall", "no NAT, stateful firewall", None, _APDM),
            NatModel("full-cone", "full cone", _EIM, _EIM),
            NatModel("address-restricted", "address-restricted cone", _EIM, _ADM),
            NatModel("port-restricted", "port-restricted cone", _EIM, _APDM),
            NatModel("symmetric", "symmetric, random ports", _APDM, _APDM, PortRule("random")),
            NatModel(
                "symmetric-sequential",
                "symmetric, ports one after the other",
                _APDM,
                _APDM,
                PortRule("sequential", step=1, other_flows_per_s=5.0),
            ),
            NatModel(
                "carrier-block",
                "symmetric, ports from a carrier's block",
                _APDM,
                _APDM,
                PortRule("random", first=20480, last=22527),
            ),
            NatModel(
                "carrier-block-512",
                "symmetric, ports from one of a carrier's small blocks",
                _APDM,
                _APDM,
                PortRule("random", first=20480, last=20991),
            ),
            NatModel("udp-blocked", "no UDP at all", _EIM, _APDM, udp=False),
        )
    }
)


@dataclass
class _Mapping:
    """One outside port: whose it is, and to whom that machine wrote, with the last time."""

    inside: Endpoint
    outside: Endpoint
    key: object
    contacted: dict[Endpoint, float] = field(default_factory=dict)

    def used_at(self) -> float:
        """When something of it last went out."""
        return max(self.contacted.values())


class Nat:
    """A model at work. `outside` is its address towards the world."""

    def __init__(self, model: NatModel, outside: Endpoint, rng: random.Random) -> None:
        self.model = model
        self.outside = outside
        self._rng = rng
        self._by_key: dict[object, _Mapping] = {}
        self._by_port: dict[int, _Mapping] = {}
        self._next = rng.randint(model.ports.first, model.ports.last)
        self._next_at = 0.0
        self.peak_mappings = 0

    def outbound(self, src: Endpoint, dst: Endpoint, now: float) -> Endpoint | None:
        """Return the source that the world sees, or None if the packet is dropped."""
        if not self.model.udp:
            return None
        mapping = self._mapping(src, dst, now)
        if mapping is None:
            return None
        mapping.contacted[dst] = now
        return mapping.outside

    def inbound(self, src: Endpoint, dst: Endpoint, now: float) -> Endpoint | None:
        """Return the machine inside that a packet is for, or None if it is dropped."""
        if not self.model.udp:
            return None
        if self.model.mapping is None and self.model.filtering is None:
            return dst
        mapping = self._by_port.get(dst.port) if self.model.mapping else self._by_key.get(dst)
        if mapping is None:
            return None
        if self._expired(mapping, now):
            self._forget(mapping)
            return None
        fresh = (to for to, at in mapping.contacted.items() if now - at < self.model.timeout_s)
        filtering = self.model.filtering
        if filtering == _APDM:
            passes = src in set(fresh)
        elif filtering == _ADM:
            passes = any(to.ip == src.ip for to in fresh)
        else:
            passes = True
        return mapping.inside if passes else None

    def _mapping(self, src: Endpoint, dst: Endpoint, now: float) -> _Mapping | None:
        behaviour = self.model.mapping
        key: object = src
        if behaviour == _APDM:
            key = (src, dst)
        elif behaviour == _ADM:
            key = (src, dst.ip)
        known = self._by_key.get(key)
        if known is not None:
            if not self._expired(known, now):
                return known
            self._forget(known)
        if behaviour is None:
            mapping = _Mapping(src, src, key)
        else:
            port = self._free_port(src.port, now)
            if port is None:
                return None
            mapping = _Mapping(src, Endpoint(self.outside.ip, port), key)
            self._by_port[port] = mapping
        self._by_key[key] = mapping
        self.peak_mappings = max(self.peak_mappings, len(self._by_key))
        return mapping

    def _free_port(self, wished: int, now: float) -> int | None:
        rule = self.model.ports
        if len(self._by_port) >= self.model.mappings_max:
            self._sweep(now)
            if len(self._by_port) >= self.model.mappings_max:
                return None
        if rule.allocation == "kept" and wished not in self._by_port:
            return wished
        if rule.allocation == "sequential":
            self._let_others_pass(now)
        size = rule.last - rule.first + 1
        for _ in range(4 * size):
            if rule.allocation == "sequential":
                port = (self._next - rule.first) % size + rule.first
                self._next += rule.step
            else:
                port = self._rng.randint(rule.first, rule.last)
            if port not in self._by_port:
                return port
        return None

    def _let_others_pass(self, now: float) -> None:
        expected = (now - self._next_at) * self.model.ports.other_flows_per_s
        self._next_at = now
        flows = int(expected) + (self._rng.random() < expected % 1.0)
        self._next += flows * self.model.ports.step

    def _expired(self, mapping: _Mapping, now: float) -> bool:
        return now - mapping.used_at() >= self.model.timeout_s

    def _forget(self, mapping: _Mapping) -> None:
        self._by_key.pop(mapping.key, None)
        self._by_port.pop(mapping.outside.port, None)

    def _sweep(self, now: float) -> None:
        for mapping in list(self._by_key.values()):
            if self._expired(mapping, now):
                self._forget(mapping)
