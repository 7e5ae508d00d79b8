"""A typed client of the administration API; blocking, and light to import."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from warren.coordinator.admin import shapes
from warren.coordinator.api import shapes as wire

_T = TypeVar("_T")

SOCKET_NAME = "admin.sock"
_MAX_ANSWER_BYTES = 64 << 20
_JSON = {"content-type": "application/json", "accept": "application/json"}


class AdminError(Exception):
    """The server refused, or cannot be reached. The text is a sentence for a person."""


class Answer(NamedTuple):
    """What a server answered; the headers' names are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class AdminClient:
    """Talks to the server whose state directory is given, or to a socket file."""

    def __init__(self, place: Path, timeout_s: float = 30.0) -> None:
        self._socket = place if place.suffix == ".sock" else place / SOCKET_NAME
        self._timeout_s = timeout_s
        self._where = str(self._socket)

    def status(self) -> shapes.ServerStatus:
        """Return the server at a glance. Every method raises AdminError."""
        return self._call("GET", "/v1/status", shapes.ServerStatus)

    def regions(self) -> shapes.RelayRegions:
        """Return the relay regions that machines are told."""
        return self._call("GET", "/v1/regions", shapes.RelayRegions)

    def users(self) -> list[shapes.User]:
        """Return all users."""
        return self._call("GET", "/v1/users", list[shapes.User])

    def create_user(self, name: str, display_name: str = "") -> shapes.User:
        """Add a user."""
        new = shapes.NewUser(name=name, display_name=display_name)
        return self._call("POST", "/v1/users", shapes.User, new)

    def delete_user(self, name: str, with_nodes: bool = False) -> shapes.User:
        """Remove a user; one who owns nodes only with those."""
        query = "?machines=true" if with_nodes else ""
        return self._call("DELETE", f"/v1/users/{_part(name)}{query}", shapes.User)

    def invite(self, name: str, new: shapes.NewInvite) -> shapes.Invite:
        """Make a one-time link for a user, who is created if need be."""
        return self._call("POST", f"/v1/users/{_part(name)}/invite", shapes.Invite, new)

    def invitations(self) -> list[wire.UserInvite]:
        """Return the links that were not used yet, without their secrets."""
        return self.api("GET", "/tailnet/-/user-invites", list[wire.UserInvite])

    def uninvite(self, name: str) -> list[wire.UserInvite]:
        """Take a user's links back; return what they were."""
        found = [one for one in self.invitations() if name in (one.id, one.email)]
        if not found:
            raise AdminError(f"nobody was invited as {name!r}, or the link was used")
        for one in found:
            self.api("DELETE", f"/user-invites/{_part(one.id)}", dict)
        return found

    def suspend(self, name: str) -> shapes.User:
        """Shut a user out."""
        return self._call("POST", f"/v1/users/{_part(name)}/suspend", shapes.User)

    def approve_user(self, name: str) -> shapes.User:
        """Let a user in who waits for it."""
        return self._call("POST", f"/v1/users/{_part(name)}/approve", shapes.User)

    def restore(self, name: str) -> shapes.User:
        """Let a suspended user in again."""
        return self._call("POST", f"/v1/users/{_part(name)}/restore", shapes.User)

    def keys(self) -> list[shapes.AuthKey]:
        """Return all auth keys."""
        return self._call("GET", "/v1/keys", list[shapes.AuthKey])

    def create_key(self, new: shapes.NewAuthKey) -> shapes.AuthKey:
        """Make an auth key; the answer holds its text."""
        return self._call("POST", "/v1/keys", shapes.AuthKey, new)

    def revoke_key(self, key: str) -> shapes.AuthKey:
        """Remove an auth key."""
        return self._call("DELETE", f"/v1/keys/{_part(key)}", shapes.AuthKey)

    def set_role(self, name: str, role: str) -> shapes.User:
        """Give a user another role."""
        new = shapes.Role(role=role)
        return self._call("PUT", f"/v1/users/{_part(name)}/role", shapes.User, new)

    def tokens(self) -> list[shapes.Token]:
        """Return what opens the HTTP API."""
        return self._call("GET", "/v1/tokens", list[shapes.Token])

    def create_token(self, new: shapes.NewToken) -> shapes.Token:
        """Make a token or an OAuth client; the answer holds its text."""
        return self._call("POST", "/v1/tokens", shapes.Token, new)

    def revoke_token(self, token_id: str) -> shapes.Token:
        """Remove a token or an OAuth client."""
        return self._call("DELETE", f"/v1/tokens/{_part(token_id)}", shapes.Token)

    def change_token(self, token_id: str, wish: wire.NewOAuthClient) -> wire.Key:
        """Replace what an OAuth client may do; its secret stays."""
        return self.api("PUT", f"/tailnet/-/keys/{_part(token_id)}", wire.Key, wish)

    def token(self, token_id: str) -> wire.Key:
        """Return a token, an OAuth client or an auth key."""
        return self.api("GET", f"/tailnet/-/keys/{_part(token_id)}", wire.Key)

    def audit(
        self, limit: int, before: int | None = None, since: datetime | None = None
    ) -> list[shapes.AuditEntry]:
        """Return entries of the audit log, newest first; before: only those with lower ids."""
        query = f"limit={limit}" + (f"&before={before}" if before is not None else "")
        if since is not None:
            query += f"&since={quote(since.isoformat())}"
        return self._call("GET", f"/v1/audit?{query}", list[shapes.AuditEntry])

    def nodes(self) -> shapes.Listing:
        """Return all machines, and those that wait."""
        return self._call("GET", "/v1/nodes", shapes.Listing)

    def node(self, node: str) -> shapes.Node:
        """Return one machine, named by id, name or address."""
        return self._call("GET", f"/v1/nodes/{_part(node)}", shapes.Node)

    def why(self, node: str, peer: str) -> bytes:
        """Have a machine explain its path to another; return JSON as `warren why` has it."""
        path = f"{self._of(node, 'why')}?peer={quote(peer, safe='')}"
        return bytes(self._call("GET", path, msgspec.Raw))

    def delete_node(self, node: str) -> shapes.Node:
        """Remove a machine."""
        return self._call("DELETE", f"/v1/nodes/{_part(node)}", shapes.Node)

    def approve(self, node: str, user: str = "", tags: list[str] | None = None) -> shapes.Node:
        """Admit a machine; `node` may be the URL that it shows."""
        approval = shapes.Approval(user=user, tags=tags)
        return self._call("POST", self._of(node, "approve"), shapes.Node, approval)

    def reject(self, node: str) -> shapes.Problem:
        """Turn a waiting machine away; return what was said of it."""
        return self._call("POST", self._of(node, "reject"), shapes.Problem)

    def rename(self, node: str, name: str) -> shapes.Node:
        """Give a machine another name; empty: its own again."""
        return self._call("POST", self._of(node, "rename"), shapes.Node, shapes.Rename(name=name))

    def tag(self, node: str, tags: list[str]) -> shapes.Node:
        """Replace a machine's tags."""
        return self._call("POST", self._of(node, "tags"), shapes.Node, shapes.Tags(tags=tags))

    def expire(self, node: str) -> shapes.Node:
        """End a machine's key."""
        return self._call("POST", self._of(node, "expire"), shapes.Node)

    def policy(self) -> shapes.Policy:
        """Return the policy in force."""
        return self._call("GET", "/v1/policy", shapes.Policy)

    def set_policy(self, text: str, author: str, etag: str | None) -> shapes.Policy:
        """Put a policy in force; `etag` is of the text that was edited, None: any."""
        new = shapes.NewPolicy(text=text, author=author, etag=etag)
        return self._call("PUT", "/v1/policy", shapes.Policy, new)

    def check_policy(self, text: str) -> shapes.Problem:
        """Ask whether a policy would be taken."""
        new = shapes.NewPolicy(text=text)
        return self._call("POST", "/v1/policy/check", shapes.Problem, new)

    def topology(self) -> dict[str, Any]:
        """Return users and machines as the policy sees them."""
        return self.api("GET", "/tailnet/-/acl/topology", dict[str, Any])

    def policy_history(self) -> list[shapes.PolicyVersion]:
        """Return the versions that are kept, newest first."""
        found = self.api("GET", "/tailnet/-/acl/versions", wire.PolicyVersions).versions
        return [shapes.PolicyVersion(**msgspec.structs.asdict(one)) for one in found]

    def policy_version(self, version: int) -> shapes.Policy:
        """Return an older policy."""
        return self._call("GET", f"/v1/policy/history/{version}", shapes.Policy)

    def routes(self, node: str) -> wire.Routes:
        """Return what a machine offers to route, and what of it is approved by hand."""
        return self.api("GET", f"{self._device(node)}/routes", wire.Routes)

    def set_routes(self, node: str, routes: list[str]) -> wire.Routes:
        """Approve these routes of a machine, and no others."""
        wish = wire.NewRoutes(routes=routes)
        return self.api("POST", f"{self._device(node)}/routes", wire.Routes, wish)

    def attributes(self, node: str) -> wire.Attributes:
        """Return a machine's posture attributes."""
        return self.api("GET", f"{self._device(node)}/attributes", wire.Attributes)

    def set_attribute(
        self, node: str, name: str, value: str | bool | float, expiry: datetime | None = None
    ) -> wire.Attributes:
        """Set one of them. expiry: when it goes by itself."""
        at = f"{self._device(node)}/attributes/{_part(name)}"
        wish = wire.NewAttribute(value=value, expiry=expiry)
        return self.api("POST", at, wire.Attributes, wish)

    def delete_attribute(self, node: str, name: str) -> wire.Attributes:
        """Remove one of them."""
        at = f"{self._device(node)}/attributes"
        self.api("DELETE", f"{at}/{_part(name)}", dict)
        return self.api("GET", at, wire.Attributes)

    def unapprove(self, node: str) -> shapes.Node:
        """Take a machine's approval back: it takes no part until it is approved again."""
        wish = wire.Authorization(authorized=False)
        self.api("POST", f"{self._device(node)}/authorized", dict, wish)
        return self.node(node)

    def set_key_expiry(self, node: str, expires: bool) -> shapes.Node:
        """Let a machine's key expire, or not."""
        wish = wire.KeyExpiry(key_expiry_disabled=not expires)
        self.api("POST", f"{self._device(node)}/key", dict, wish)
        return self.node(node)

    def readdress(self, node: str, ipv4: str) -> shapes.Node:
        """Give a machine another address."""
        found = self.node(node)
        self.api("POST", f"/device/{found.stable_id}/ip", dict, wire.Address(ipv4=ipv4))
        return self.node(found.stable_id)

    def settings(self) -> wire.TailnetSettings:
        """Return the network's settings."""
        return self.api("GET", "/tailnet/-/settings", wire.TailnetSettings)

    def change_settings(self, wish: wire.SettingsPatch) -> wire.TailnetSettings:
        """Change settings; what is left out stays."""
        return self.api("PATCH", "/tailnet/-/settings", wire.TailnetSettings, wish)

    def contacts(self) -> wire.Contacts:
        """Return whom to write to about the network."""
        return self.api("GET", "/tailnet/-/contacts", wire.Contacts)

    def set_contact(self, kind: str, email: str) -> wire.Contacts:
        """Set whom to write to."""
        wish = wire.NewContact(email=email)
        self.api("PATCH", f"/tailnet/-/contacts/{_part(kind)}", dict, wish)
        return self.contacts()

    def preview_policy(self, text: str, kind: str, subject: str) -> wire.Preview:
        """Return the rules of a policy that meet a `user`, or an `ipport`."""
        query = urlencode({"type": kind, "previewFor": subject})
        path = f"/api/v2/tailnet/-/acl/preview?{query}"
        return self._read(self._asked("POST", path, text.encode(), _JSON), wire.Preview)

    def dns(self) -> wire.DnsConfiguration:
        """Return what was chosen for names and resolvers."""
        return self.api("GET", "/tailnet/-/dns/configuration", wire.DnsConfiguration)

    def set_dns(self, choice: wire.DnsConfiguration) -> wire.DnsConfiguration:
        """Replace it."""
        return self.api("POST", "/tailnet/-/dns/configuration", wire.DnsConfiguration, choice)

    def webhooks(self) -> list[wire.Webhook]:
        """Return all webhooks."""
        return self.api("GET", "/tailnet/-/webhooks", wire.Webhooks).webhooks

    def create_webhook(self, new: wire.NewWebhook) -> wire.Webhook:
        """Make a webhook; the answer holds its secret."""
        return self.api("POST", "/tailnet/-/webhooks", wire.Webhook, new)

    def subscribe_webhook(self, webhook: str, subscriptions: list[str]) -> wire.Webhook:
        """Replace what a webhook is told of."""
        new = wire.Subscriptions(subscriptions=subscriptions)
        return self.api("PATCH", f"/webhooks/{_part(webhook)}", wire.Webhook, new)

    def rotate_webhook(self, webhook: str) -> wire.Webhook:
        """Give a webhook another secret; the answer holds it."""
        return self.api("POST", f"/webhooks/{_part(webhook)}/rotate", wire.Webhook)

    def test_webhook(self, webhook: str) -> wire.Webhook:
        """Send a webhook a test event."""
        self.api("POST", f"/webhooks/{_part(webhook)}/test", dict)
        return self.api("GET", f"/webhooks/{_part(webhook)}", wire.Webhook)

    def delete_webhook(self, webhook: str) -> wire.Webhook:
        """Remove a webhook; return what it was."""
        gone = self.api("GET", f"/webhooks/{_part(webhook)}", wire.Webhook)
        self.api("DELETE", f"/webhooks/{_part(webhook)}", dict)
        return gone

    def api(self, method: str, path: str, kind: type[_T], body: object = None) -> _T:
        """Ask the HTTP API, which the socket carries too."""
        data = msgspec.json.encode(body) if body is not None else None
        return self._read(self._asked(method, f"/api/v2{path}", data, _JSON), kind)

    def _device(self, node: str) -> str:
        return f"/device/{self.node(node).stable_id}"

    def _of(self, node: str, verb: str) -> str:
        # A waiting machine shows its id at the end of a URL.
        return f"/v1/nodes/{_part(node.rstrip('/').rpartition('/')[2])}/{verb}"

    def _call(self, method: str, path: str, kind: type[_T], body: object = None) -> _T:
        data = msgspec.json.encode(body) if body is not None else None
        return self._read(self._asked(method, path, data, _JSON), kind)

    def _asked(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        """Return the answer to a request that was carried out."""
        answer = self._exchange(method, path, data, headers)
        if answer.status >= 400:
            raise AdminError(self._read(answer, shapes.Problem).message)
        return answer

    def _read(self, answer: Answer, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AdminError(
                f"the server at {self._where} answered {answer.status} and something that this "
                "version cannot read; are both of the same version?"
            ) from error

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        """Ask, whatever comes of it."""
        connection = _UnixConnection(self._socket, self._timeout_s)
        try:
            connection.request(method, path, data, dict(headers))
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, response.read(_MAX_ANSWER_BYTES), told)
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(self._unreachable(error)) from error
        finally:
            connection.close()

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, PermissionError):
            return f"you may not use {self._socket}; run this as the user that runs the server"
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return (
                f"no server runs with the state directory {self._socket.parent}; start it with "
                "`warren server`, or name its directory with --state"
            )
        return f"the server at {self._socket} does not answer: {error}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("admin", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _part(text: str) -> str:
    if "/" in text or not text:
        raise AdminError(f"nothing is called {text!r}")
    return quote(text, safe="")
