"""What people and programs hand the lab: `warren lab up`'s file, and its proxy's requests."""

from __future__ import annotations

from warren.lab.connect_proxy import target_untrusted
from warren.lab.description import parse_description_untrusted
from warren.lab.layout import compile_layout, parts
from warren.lab.plan import resolve
from warren.lab.reading import MalformedDescription

_LONGEST_SENTENCE = 400


def description(data: bytes) -> None:
    """Read a file; what is taken can be built, and what is not is one sentence."""
    try:
        found = parse_description_untrusted(data)
    except MalformedDescription as error:
        assert 0 < len(str(error)) < _LONGEST_SENTENCE, error
        assert str(error).isprintable(), error
        return
    solved = resolve(found.plan)
    assert compile_layout(solved, {part: part for part in parts(solved)})


def proxy_head(data: bytes) -> None:
    """Read what a client asks the lab's HTTP proxy for."""
    target = target_untrusted(data)
    assert target is None or target[1] <= 0xFFFF


def proxy_heads() -> list[bytes]:
    """Requests of each kind, and one whose port has more digits than `int` takes."""
    return [
        b"CONNECT 198.51.100.10:443 HTTP/1.1\r\n\r\n",
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNECT a:" + b"1" * 5000 + b" HTTP/1.1\r\n\r\n",
    ]


def descriptions() -> list[bytes]:
    """Files that use every key, and some that are wrong."""
    return [
        b"""[[router]]
name = "carrier"
kind = "carrier-block"
ipv6 = "beside"
lan = "100.64.1.0/24"
address = "203.0.113.7"
[[router]]
name = "home"
kind = "symmetric"
behind = "carrier"
lan_v6 = "2001:db8:7::/64"
[[host]]
name = "gina"
behind = "home"
ipv6 = "2001:db8:7::9"
node = true
[[host]]
name = "hugo"
address = "192.0.2.7"
ipv6 = "2001:db8::7"
""",
        b'[[router]]\nname = "a"\nipv6 = "alone"\nkind = "firewall"\n'
        b'[[host]]\nname = "b"\nbehind = "a"\nnode = true\n',
        b'[[router]]\nname = "a"\nkind = "http-proxy"\n[[host]]\nname = "b"\nbehind = "a"\n',
        b'[[router]]\nname = "a"\nkind = "public"\n[[host]]\nname = "b"\naddress = "192.0.2.1"\n',
        b'[[hots]]\nname = "a"\n',
        b'router = [{name = "a", behind = "a"}]\nhost = [{name = 3}]\n',
    ]
