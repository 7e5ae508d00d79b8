"""What the local API asks of the node: what is known, what to change, what to measure."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Protocol

import msgspec

from warren import __version__
from warren.edge.linux.interfaces import local_addresses
from warren.netmap.node import Node
from warren.netmap.view import View
from warren.node import statuses
from warren.node.control_client import Refused
from warren.node.control_link import LinkLost, NotACoordinator
from warren.node.hostinfo import MalformedHostname, check_hostname
from warren.node.localapi import RequestFailed
from warren.node.natreport import examine_network, netcheck_report
from warren.node.pinging import Pinger
from warren.node.runtime import Runtime
from warren.node.schema import (
    Explanation,
    NetcheckReport,
    PingReply,
    PingRequest,
    Status,
    UpRequest,
    WhyRequest,
)
from warren.node.state import MalformedServerUrl, Prefs, StateProblem
from warren.node.why import explain
from warren.node.why_facts import gather
from warren.node.why_turn import turn_sentences

LOG_OUT_TIMEOUT_S = 30.0


class Proxy(Protocol):
    """The userspace proxy, as far as status needs it."""

    @property
    def address(self) -> str | None:
        """Where it listens, or None."""
        ...


class NodeService:
    """Implements `warren.node.localapi.NodeActions` over a running node."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pinger = Pinger(runtime.engine, runtime.dataplane, runtime.clock, runtime.entropy)
        self._attempt = 0
        self._changing = asyncio.Lock()
        self.proxy: Proxy | None = None

    async def run(self) -> None:
        """Run the node until cancelled. Raises EngineStopped in a group."""
        await self._runtime.run(self)

    def status(self, peers: bool = True) -> Status:
        """Return what is known now."""
        node = self._runtime
        view = node.membership.view
        snapshot = node.engine.snapshot()
        now = node.clock.now()
        profile = node.state.profile
        listed = statuses.peer_statuses(
            view,
            snapshot,
            node.dataplane.paths_of,
            now,
            node.dataplane.through,
            node.dataplane.mtu_fallbacks,
        )
        endpoints = [str(own.endpoint) for own in node.measuring.endpoints]
        return Status(
            version=__version__,
            state=node.phase(),
            seq=node.seq,
            attempt=self._attempt,
            error=node.membership.error,
            auth_url=node.membership.auth_url,
            server_url=profile.server_url if profile else "",
            connected=node.membership.connected,
            mode="tun" if node.mode.tun else "userspace",
            tun=snapshot.tun_name or node.mode.tun,
            port=snapshot.port4 or snapshot.port6,
            proxy=self.proxy.address if self.proxy else None,
            offloads=snapshot.offloads,
            threads=snapshot.threads,
            domain=view.domain,
            self_node=statuses.self_status(view, node.measuring.home_region, endpoints),
            peers=listed if peers else [],
            regions=statuses.region_latencies(view, node.measuring.latency),
            health=node.health(),
            drops=node.drops(snapshot),
            pid=os.getpid(),
            state_dir=str(node.state.directory),
        )

    async def watch(self, seq: int, wait_s: float) -> Status:
        """Return the status once its `seq` is beyond the given one, or after `wait_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._runtime.changed_since(seq)
        return self.status(peers=False)

    async def up(self, request: UpRequest) -> Status:
        """Join or change preferences. What comes of it is told by `watch`."""
        node = self._runtime
        async with self._changing:
            try:
                await self._select_server(request.server_url)
                prefs = self._wished_prefs(request)
                node.state.set_prefs(prefs)
            except (MalformedServerUrl, MalformedHostname) as error:
                raise RequestFailed(400, str(error)) from error
            except StateProblem as error:
                raise RequestFailed(507, str(error)) from error
            running = node.is_member
            fresh_login = request.force_login or bool(request.auth_key)
            if running and node.membership.phase == "running" and not request.force_login:
                node.refresh()
                node.membership.report()
            elif running and not fresh_login and node.membership.auth_url:
                pass  # The log-in under way goes on.
            else:
                await node.stop_member()
                node.start_member(request.auth_key, force_login=request.force_login)
            self._attempt += 1
            node.bump()
            return self.status(peers=False)

    async def down(self) -> Status:
        """Leave the network alone until the next `up`; the log-in stays."""
        async with self._changing:
            profile = self._runtime.state.profile
            if profile is not None:
                self._save_prefs(msgspec.structs.replace(profile.prefs, want_running=False))
            await self._runtime.stop_member()
            self._attempt += 1
            self._runtime.leave()
            return self.status(peers=False)

    async def log_out(self) -> Status:
        """Expire this node's key at the coordinator, forget it, and stop."""
        node = self._runtime
        async with self._changing:
            profile = node.state.profile
            if profile is None:
                raise RequestFailed(409, "This machine is not logged in anywhere.")
            # Written first: where nothing can be written, the coordinator is not asked either.
            before = profile.prefs
            self._save_prefs(msgspec.structs.replace(before, want_running=False))
            await node.stop_member()
            try:
                async with asyncio.timeout(LOG_OUT_TIMEOUT_S):
                    await node.membership.log_out()
                node.state.forget_login()
            except TimeoutError:
                raise self._log_out_failed(before, "The coordinator did not answer.") from None
            except (LinkLost, Refused, NotACoordinator) as error:
                raise self._log_out_failed(before, str(error)) from error
            except StateProblem as error:
                raise RequestFailed(507, str(error)) from error
            self._attempt += 1
            node.leave()
            return self.status(peers=False)

    async def ping(self, request: PingRequest) -> PingReply:
        """Ping a peer once."""
        return await self._pinger.ping(self._running_view(), request)

    async def netcheck(self) -> NetcheckReport:
        """Measure the network now."""
        node = self._runtime
        try:
            async with asyncio.timeout(15):
                await node.measuring.measure_now()
        except TimeoutError:
            raise RequestFailed(504, "The measuring did not end in time.") from None
        measured = node.measuring.report
        assert measured is not None
        view = node.membership.view
        nat = await examine_network(
            view.derp_map,
            node.measuring.resolved,
            measured.latency,
            node.clock,
            node.entropy,
            local_addresses,
        )
        return netcheck_report(
            view,
            measured,
            node.measuring.home_region,
            [str(own.endpoint) for own in node.measuring.endpoints],
            node.portmapping.routers,
            nat,
        )

    def why(self, request: WhyRequest) -> Explanation:
        """Explain the path to a peer, from what is known now."""
        node = self._runtime
        view = self._running_view()
        peer = self._find_peer(view, request.peer)
        now = node.clock.now()
        stats = {stat.key: stat for stat in node.engine.snapshot().peers}
        return explain(
            gather(
                view,
                peer,
                stats.get(peer.key.raw),
                node.dataplane.paths_of(peer.key),
                node.net_info(),
                node.measuring.endpoints,
                node.portmapping.outcomes,
                now,
                node.dataplane.punching_of(peer.key),
                through=node.dataplane.through(peer.key, now),
                turn=turn_sentences(node.dataplane.turns, peer.key, now),
            )
        )

    def _running_view(self) -> View:
        membership = self._runtime.membership
        if membership.phase != "running" or membership.view.node is None:
            raise RequestFailed(409, "This machine is not up; `warren up` brings it back.")
        return membership.view

    def _find_peer(self, view: View, name: str) -> Node:
        peer = statuses.find_machine(view, name)
        if peer is None:
            raise RequestFailed(404, f"There is no machine {name[:80]!r} in this network.")
        if peer is view.node:
            raise RequestFailed(400, f"{name[:80]!r} is this machine itself.")
        return peer

    def find_address(self, name: str) -> str | None:
        """Return the first address of a machine by name, for the proxy; None if unknown."""
        node = statuses.find_machine(self._runtime.membership.view, name)
        return next(iter(statuses.plain_addresses(node)), None) if node else None

    def _log_out_failed(self, before: Prefs, reason: str) -> RequestFailed:
        """Go on as before a log-out that did not happen."""
        with suppress(StateProblem):
            self._runtime.state.set_prefs(before)
        if before.want_running:
            self._runtime.start_member(None, force_login=False)
        return RequestFailed(502, f"{reason} This machine stays logged in.")

    async def _select_server(self, url: str | None) -> None:
        profile = self._runtime.state.profile
        if url is None and profile is None:
            raise RequestFailed(400, "Tell which coordinator to join: warren up --server URL.")
        if url is None:
            return
        before = profile.server_url if profile else None
        selected = self._runtime.state.select(url)
        if before is not None and selected.server_url != before:
            await self._runtime.stop_member()
            self._runtime.leave()

    def _wished_prefs(self, request: UpRequest) -> Prefs:
        profile = self._runtime.state.profile
        assert profile is not None
        prefs = profile.prefs
        wished: dict[str, object] = {"want_running": True}
        if request.hostname is not None:
            wished["hostname"] = check_hostname(request.hostname)
        if request.ephemeral:
            wished["ephemeral"] = True
        for name in ("shields_up", "accept_routes", "advertise_tags", "relay_server"):
            if (value := getattr(request, name)) is not None:
                wished[name] = value
        return msgspec.structs.replace(prefs, **wished)

    def _save_prefs(self, prefs: Prefs) -> None:
        try:
            self._runtime.state.set_prefs(prefs)
        except StateProblem as error:
            raise RequestFailed(507, str(error)) from error
