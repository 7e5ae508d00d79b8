"""How attribute names become the names on the wire (Go field names, PROTOCOL §3.1)."""

from __future__ import annotations

# Words that Go writes otherwise than capitalised.
_WORDS = {
    "aum": "AUM",
    "derp": "DERP",
    "dns": "DNS",
    "id": "ID",
    "ip": "IP",
    "ipn": "IPN",
    "ips": "IPs",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "nl": "NL",
    "os": "OS",
    "pcp": "PCP",
    "pmp": "PMP",
    "ssh": "SSH",
    "stun": "STUN",
    "tka": "TKA",
    "tls": "TLS",
    "tpm": "TPM",
    "udp": "UDP",
    "upnp": "UPnP",
    "url": "URL",
    "wireguard": "WireGuard",
    "wol": "WoL",
    "macs": "MACs",
}


def wire_name(attribute: str) -> str:
    """Return the wire name of an attribute: `allowed_ips` is `AllowedIPs`."""
    return "".join(_WORDS.get(word, word.capitalize()) for word in attribute.split("_"))
