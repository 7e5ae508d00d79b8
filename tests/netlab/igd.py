"""A router of the lab that gives mappings: miniupnpd in its namespace."""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Address

from warren.lab.program import Program
from warren.lab.world import Part, World

# miniupnpd refuses to map at the documentation addresses that the lab uses. 44.128.0.0/16 is set
# aside for tests by those whose network it is, and exists nowhere; here it stays in namespaces.
PUBLIC_A, PUBLIC_B = IPv4Address("44.128.0.10"), IPv4Address("44.128.0.20")

_CHAINS = """
insert rule inet guard forward ct status dnat accept
insert rule inet guard forward meta nfproto ipv6 accept
insert rule inet guard input meta l4proto ipv6-icmp accept
table inet upnp {
  chain forward {
    type filter hook forward priority 10; policy accept; jump miniupnpd;
    meta nfproto ipv6 iifname wan ct state new drop
  }
  chain prerouting { type nat hook prerouting priority -100; policy accept; jump pre_upnp; }
  chain postrouting { type nat hook postrouting priority 90; policy accept; jump post_upnp; }
  chain miniupnpd { }
  chain pre_upnp { }
  chain post_upnp { }
}
"""
_CONF = """
ext_ifname=wan
listening_ip=lan
http_port=5000
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=miniupnpd
upnp_nat_chain=pre_upnp
upnp_nat_postrouting_chain=post_upnp
secure_mode=yes
system_uptime=no
notify_interval=900
uuid=491687c2-18fa-431c-9e17-e686d4f35ce8
minissdpdsocket={minissdpd}
"""
# The outside's address of IPv6 is on-link; the inside has a network of its own.
LAN_V6, ROUTER_V6 = "2001:db8:a::/64", "2001:db8:a::1"
_WAN_V6, _NET_V6 = "fe80::a", "fe80::1"


def renumber(world: World, router: str, address: IPv4Address) -> None:
    """Give a router on the internet another outside address."""
    old = world[router].address
    links = json.loads(world["internet"].run(["ip", "-j", "route", "show", f"{old}/32"]))
    port = links[0]["dev"]
    world["internet"].run(["ip", "route", "add", f"{address}/32", "dev", port])
    part = world[router]
    default = part.run(["ip", "route", "show", "default"]).split()
    part.run(["ip", "addr", "flush", "dev", "wan"])
    part.run(["ip", "addr", "add", f"{address}/32", "dev", "wan"])
    part.run(["ip", "route", "replace", *default])


def give_ipv6(world: World, router: str, host: str, address: str) -> None:
    """Put a host into an IPv6 network behind a router that lets nothing in unasked."""
    above, home, part = world["internet"], world[router], world[host]
    links = json.loads(above.run(["ip", "-j", "route", "show", f"{home.address}/32"]))
    port = links[0]["dev"]
    for each in (above, home, part):
        each.run(["sh", "-c", "for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 >$f; done"])
    for each in (above, home):
        each.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"])
    for each, line in (
        (above, f"addr replace {_NET_V6}/64 dev {port}"),
        (above, f"route replace {LAN_V6} via {_WAN_V6} dev {port}"),
        (home, f"addr replace {_WAN_V6}/64 dev wan"),
        (home, f"route replace default via {_NET_V6} dev wan"),
        (home, f"addr replace {ROUTER_V6}/64 dev lan"),
        (home, "addr replace fe80::b/64 dev lan"),
        (part, f"addr replace {address}/64 dev wan"),
        (part, "route replace default via fe80::b dev wan"),
    ):
        each.run(["ip", "-6", *line.split()])


class Igd:
    """miniupnpd on a router. `options` are lines of its configuration."""

    def __init__(self, world: World, router: str) -> None:
        self.part: Part = world[router]
        self._world = world
        self._conf = world.scratch / f"{router}-miniupnpd.conf"
        self._minissdpd = world.scratch / f"{router}-minissdpd.sock"
        self._pid = world.scratch / f"{router}-miniupnpd.pid"
        self._program: Program | None = None
        self._starts = 0
        self.part.nft(_CHAINS)

    def start(
        self,
        *options: str,
        natpmp: bool = True,
        upnp: bool = True,
        ipv6: bool = False,
        rules: tuple[str, ...] = ("allow 1024-65535 0.0.0.0/0 1024-65535",),
    ) -> None:
        """Start it; NAT-PMP and PCP go together in miniupnpd."""
        lines = [
            _CONF.format(minissdpd=self._minissdpd),
            f"enable_natpmp={'yes' if natpmp else 'no'}",
            f"enable_upnp={'yes' if upnp else 'no'}",
            f"ipv6_disable={'no' if ipv6 else 'yes'}",
            *options,
            *rules,
            "deny 0-65535 0.0.0.0/0 0-65535",
        ]
        self._starts += 1
        self._conf.write_text("\n".join(lines) + "\n")
        argv = ["miniupnpd", "-d", "-f", str(self._conf), "-P", str(self._pid)]
        self._program = self.part.spawn(argv, f"miniupnpd-{self._starts}")
        if upnp:
            self._program.wait_output("HTTP listening on port", 10)
        else:
            self._program.wait_output("Listening for NAT-PMP", 10)

    def start_minissdpd(self) -> Program:
        """Let minissdpd answer the searches for it; to be called before `start`."""
        argv = ["minissdpd", "-d", "-i", "lan", "-s", str(self._minissdpd)]
        program = self.part.spawn([*argv, "-p", f"{self._pid}-ssdp"], "minissdpd")
        self._world.wait(self._minissdpd.exists, 5, "minissdpd listens")
        return program

    def stop(self) -> None:
        """Switch it off; its mappings go too, as with a router that restarts."""
        assert self._program is not None
        self._program.stop()
        self._forget()

    def kill(self) -> None:
        """End it at once."""
        assert self._program is not None
        self._program.kill()
        self._forget()

    def _forget(self) -> None:
        self.part.nft(
            "flush chain inet upnp pre_upnp\nflush chain inet upnp miniupnpd\n"
            "flush chain inet upnp post_upnp\n"
        )

    @property
    def mapped(self) -> dict[int, str]:
        """External UDP port → where it leads, as the router's firewall has it."""
        listed = self.part.run(["nft", "list", "chain", "inet", "upnp", "pre_upnp"])
        found = re.findall(r"th dport (\d+) dnat ip to ([\d.]+:\d+)", listed)
        return {int(port): target for port, target in found}

    @property
    def pinholes(self) -> list[int]:
        """UDP ports that are let in by IPv6, as the router's firewall has it."""
        listed = self.part.run(["nft", "list", "chain", "inet", "upnp", "miniupnpd"])
        return [int(port) for port in re.findall(r"th dport (\d+) @nh,192,128", listed)]

    def output(self) -> str:
        """What it printed."""
        return self._program.output() if self._program else ""
