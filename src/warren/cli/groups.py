"""Command groups that live in modules of their own, imported only when they are called."""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    """A module with a Typer `app`, and one line for the overview."""

    module: str
    summary: str


GROUPS = {
    "server": Group("warren.cli.server", "Run a coordinator with its relay and STUN."),
    "relay": Group("warren.cli.relay", "Run a further relay on a host of its own."),
    "admin": Group("warren.cli.admin", "Manage users, keys, machines and the policy on a server."),
    "policy": Group("warren.cli.policy", "Check, test, compile and compare policy files."),
    "demo": Group("warren.cli.demo", "Show the whole system at work on this machine."),
    "lab": Group("warren.cli.lab", "Build networks of namespaces with every kind of NAT."),
}
