"""Every control-plane value in one place to import from."""

from warren.netmap.codec import MalformedMessage, decode_json_untrusted, encode_json
from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion, HomeParams
from warren.netmap.dnsconfig import DNSConfig, DNSRecord, Resolver
from warren.netmap.filterrule import ANY_PORT, CapGrant, FilterRule, NetPortRange, PortRange
from warren.netmap.messages import (
    Debug,
    DisplayMessage,
    EarlyNoise,
    MapRequest,
    MapResponse,
    PingRequest,
    TKAInfo,
)
from warren.netmap.node import CapMap, Hostinfo, NetInfo, Node, PeerChange, Service, UserProfile
from warren.netmap.register import (
    ZERO_TIME,
    Auth,
    Login,
    RegisterRequest,
    RegisterResponse,
    ServerKeys,
    User,
)

__all__ = [
    "ANY_PORT",
    "ZERO_TIME",
    "Auth",
    "CapGrant",
    "CapMap",
    "DERPMap",
    "DERPNode",
    "DERPRegion",
    "DNSConfig",
    "DNSRecord",
    "Debug",
    "DisplayMessage",
    "EarlyNoise",
    "FilterRule",
    "HomeParams",
    "Hostinfo",
    "Login",
    "MalformedMessage",
    "MapRequest",
    "MapResponse",
    "NetInfo",
    "NetPortRange",
    "Node",
    "PeerChange",
    "PingRequest",
    "PortRange",
    "RegisterRequest",
    "RegisterResponse",
    "Resolver",
    "ServerKeys",
    "Service",
    "TKAInfo",
    "User",
    "UserProfile",
    "decode_json_untrusted",
    "encode_json",
]
