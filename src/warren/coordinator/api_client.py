"""The administration client over the HTTP API, from anywhere: what that API carries.

It answers in the shapes of the admin socket, so that whoever asks need not know which it is.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from warren.coordinator.addresses import V4_POOL, V6_POOL
from warren.coordinator.admin import shapes
from warren.coordinator.api import shapes as wire
from warren.coordinator.client import AdminClient, AdminError, Answer
from warren.coordinator.durations import parse_duration

_T = TypeVar("_T")
_MAX_ANSWER_BYTES = 64 << 20
_TOKEN = "/api/v2/oauth/token"  # noqa: S105
_CLIENT = "warren-client-"
_HUJSON = {"accept": "application/hujson", "content-type": "application/hujson"}


class ApiClient(AdminClient):
    """Talks to the server at a URL with an API key, or an OAuth client's secret.

    Raises AdminError.
    """

    def __init__(self, server: str, key: str, timeout_s: float = 30.0) -> None:
        try:
            parts = urlsplit(server)
            host, self._port = parts.hostname or "", parts.port
        except ValueError:
            host = ""
        if not host or parts.scheme not in ("https", "http") or parts.path not in ("", "/"):
            raise AdminError(f"{server!r} is not a server's URL; write https://vpn.example.com")
        if parts.scheme == "http" and not _sealed(host):
            raise AdminError(
                f"over {server} the key would be readable on the way; use https://, the server's "
                "address inside the network, or its own machine"
            )
        if not key or not key.isascii() or not key.isprintable():
            raise AdminError("the API key cannot be one; `warren admin tokens create` makes one")
        self._host, self._secure, self._key = host, parts.scheme == "https", key
        self._timeout_s = timeout_s
        self._where = f"{parts.scheme}://{parts.netloc}"

    # People.

    def users(self) -> list[shapes.User]:
        """Return all users."""
        found = self.api("GET", "/tailnet/-/users", wire.Users).users
        return [_user(user) for user in found]

    def create_user(self, name: str, display_name: str = "") -> shapes.User:
        """Refused: people are invited."""
        raise AdminError(f"over the API people are invited: warren admin users invite {name}")

    def invite(self, name: str, new: shapes.NewInvite) -> shapes.Invite:
        """Make a one-time link for a user who never logged in, and is created if need be."""
        if new.must_exist:
            raise AdminError(
                "over the API nobody's password is set anew; run it on the server's own machine, "
                "without --server"
            )
        wish = wire.NewUserInvite(
            role=new.role,
            email=name,
            display_name=new.display_name,
            expiry_seconds=_seconds(new.expires),
        )
        path = "/tailnet/-/user-invites"
        (made,) = self.api("POST", path, tuple[wire.UserInvite], [wish])
        return shapes.Invite(user=made.email, url=made.invite_url, expiry=made.expires)

    def delete_user(self, name: str, with_nodes: bool = False) -> shapes.User:
        """Remove a user who owns no nodes."""
        if with_nodes:
            raise AdminError("over the API a user goes without machines; delete those first")
        user = self._user(name)
        self.api("POST", f"/users/{user.id}/delete", dict)
        return user

    def set_role(self, name: str, role: str) -> shapes.User:
        """Give a user another role."""
        user = self._user(name)
        self.api("POST", f"/users/{user.id}/role", dict, wire.Role(role=role))
        return _user(self.api("GET", f"/users/{user.id}", wire.User))

    def suspend(self, name: str) -> shapes.User:
        """Shut a user out, and their machines with them."""
        return self._changed(name, "suspend")

    def approve_user(self, name: str) -> shapes.User:
        """Let a user in who waits for it."""
        return self._changed(name, "approve")

    def restore(self, name: str) -> shapes.User:
        """Let a user in again."""
        return self._changed(name, "restore")

    def _changed(self, name: str, verb: str) -> shapes.User:
        user = self._user(name)
        self.api("POST", f"/users/{user.id}/{verb}", dict)
        return _user(self.api("GET", f"/users/{user.id}", wire.User))

    def _user(self, name: str) -> shapes.User:
        for user in self.users():
            if name.casefold() in (user.name.casefold(), str(user.id)):
                return user
        raise AdminError(f"there is no user {name!r}")

    # Keys and tokens.

    def keys(self) -> list[shapes.AuthKey]:
        """Return all auth keys."""
        return [self._auth_key(key, names) for key, names in self._keys("auth")]

    def create_key(self, new: shapes.NewAuthKey) -> shapes.AuthKey:
        """Make an auth key for whose API key this is; the answer holds its text."""
        if new.user:
            raise AdminError("over the API keys are for whose API key is used; leave --user out")
        wish = wire.CreateDevices(
            reusable=new.reusable,
            ephemeral=new.ephemeral,
            preauthorized=new.pre_approved,
            tags=new.tags,
        )
        body = wire.NewKey(
            capabilities=wire.Capabilities(devices=wire.DeviceCapabilities(create=wish)),
            expiry_seconds=_seconds(new.expires),
            description=new.description,
        )
        made = self.api("POST", "/tailnet/-/keys", wire.Key, body)
        return self._auth_key(made, self._names())

    def revoke_key(self, key: str) -> shapes.AuthKey:
        """Remove an auth key."""
        key_id = key.strip().removeprefix("warren-auth-").partition("-")[0]
        found = self.api("GET", f"/tailnet/-/keys/{_part(key_id)}", wire.Key)
        self.api("DELETE", f"/tailnet/-/keys/{_part(key_id)}", dict)
        return self._auth_key(found, self._names())

    def tokens(self) -> list[shapes.Token]:
        """Return what opens the HTTP API."""
        return [_token(key, names) for key, names in self._keys("api", "client")]

    def create_token(self, new: shapes.NewToken) -> shapes.Token:
        """Make an OAuth client; the answer holds its text."""
        if not new.scopes:
            raise AdminError(
                "over the API a user's token cannot be made, only a client with --scope; "
                "make it on the server's own machine"
            )
        body = wire.NewKey(
            key_type="client", scopes=new.scopes, tags=new.tags, description=new.description
        )
        made = self.api("POST", "/tailnet/-/keys", wire.Key, body)
        return _token(made, self._names())

    def revoke_token(self, token_id: str) -> shapes.Token:
        """Remove a token or an OAuth client."""
        found = self.api("GET", f"/tailnet/-/keys/{_part(token_id)}", wire.Key)
        self.api("DELETE", f"/tailnet/-/keys/{_part(token_id)}", dict)
        return _token(found, self._names())

    def _keys(self, *kinds: str) -> list[tuple[wire.Key, Mapping[str, str]]]:
        found = self.api("GET", "/tailnet/-/keys?all=true", wire.Keys).keys
        names = self._names()
        return [(key, names) for key in found if key.key_type in kinds]

    def _names(self) -> Mapping[str, str]:
        """Return users' names by number, where the key is allowed to know them."""
        try:
            return {str(user.id): user.name for user in self.users()}
        except AdminError:
            return {}

    def _auth_key(self, key: wire.Key, names: Mapping[str, str]) -> shapes.AuthKey:
        wish = (key.capabilities or wire.Capabilities()).devices.create
        expiry = _expiry(key.expires)
        state = "used" if key.invalid else "usable"
        if expiry is not None and expiry <= datetime.now(UTC):
            state = "expired"
        return shapes.AuthKey(
            id=key.id,
            user=names.get(key.user_id, key.user_id),
            state=state,
            reusable=wish.reusable,
            ephemeral=wish.ephemeral,
            pre_approved=wish.preauthorized,
            tags=wish.tags or [],
            created=key.created,
            expiry=expiry,
            uses=int(state == "used"),
            description=key.description,
            key=key.key or None,
        )

    # Machines.

    def nodes(self) -> shapes.Listing:
        """Return all machines, and those that wait."""
        found = self.api("GET", "/tailnet/-/devices?fields=all", wire.Devices).devices
        waiting = self.api("GET", "/tailnet/-/device-requests", wire.DeviceRequests).requests
        return shapes.Listing(
            nodes=[_node(device) for device in found],
            pending=[
                shapes.Pending(
                    id=one.id,
                    hostname=one.hostname,
                    os=one.os,
                    requested_tags=one.requested_tags,
                    created=one.created,
                    expiry=one.expires,
                    node_key=one.node_key,
                )
                for one in waiting
            ],
        )

    def node(self, node: str) -> shapes.Node:
        """Return one machine, named by id, name or address."""
        wanted = node.strip().lower().rstrip(".")
        for one in self.nodes().nodes:
            called = (str(one.id), one.stable_id.lower(), one.name, one.fqdn, *one.addresses)
            if wanted in called:
                return one
        raise AdminError(f"there is no node {node!r}")

    def delete_node(self, node: str) -> shapes.Node:
        """Remove a machine."""
        found = self.node(node)
        self.api("DELETE", f"/device/{found.stable_id}", dict)
        return found

    def approve(self, node: str, user: str = "", tags: list[str] | None = None) -> shapes.Node:
        """Admit a machine; `node` may be the URL that it shows."""
        waiting = self._waiting(node)
        if waiting is None:
            return self._change(node, "authorized", wire.Authorization(authorized=True))
        wish = wire.DeviceApproval(user=user, tags=tags)
        path = f"/tailnet/-/device-requests/{waiting}/approve"
        return self.node(self.api("POST", path, wire.Joined, wish).node_id)

    def reject(self, node: str) -> shapes.Problem:
        """Turn a waiting machine away; return what was said of it."""
        waiting = self._waiting(node)
        if waiting is None:
            raise AdminError(f"no machine waits under {node!r}")
        self.api("POST", f"/tailnet/-/device-requests/{waiting}/reject", dict)
        return shapes.Problem(message="turned away")

    def _waiting(self, node: str) -> str | None:
        """Return the id of a machine that waits, by that, its URL or its host name."""
        name = node.rstrip("/").rpartition("/")[2]
        found = [one.id for one in self.nodes().pending if name in (one.id, one.hostname)]
        if len(found) > 1:
            raise AdminError(f"several machines called {name!r} wait; name one by its id")
        return found[0] if found else None

    def rename(self, node: str, name: str) -> shapes.Node:
        """Give a machine another name; empty: its own again."""
        return self._change(node, "name", wire.Name(name=name))

    def tag(self, node: str, tags: list[str]) -> shapes.Node:
        """Replace a machine's tags."""
        return self._change(node, "tags", wire.Tags(tags=tags))

    def expire(self, node: str) -> shapes.Node:
        """End a machine's key."""
        return self._change(node, "expire", None)

    def _change(self, node: str, part: str, body: object) -> shapes.Node:
        at = f"/device/{self.node(node).stable_id}"
        self.api("POST", f"{at}/{part}", dict, body)
        return _node(self.api("GET", f"{at}?fields=all", wire.Device))

    # Policy and log.

    def policy(self) -> shapes.Policy:
        """Return the policy in force."""
        return _policy(self._asked("GET", "/api/v2/tailnet/-/acl", None, _HUJSON))

    def set_policy(self, text: str, author: str, etag: str | None) -> shapes.Policy:
        """Put a policy in force; `etag` is of the text that was edited, None: any."""
        headers = _HUJSON | ({"if-match": f'"{etag}"'} if etag else {})
        return _policy(self._asked("POST", "/api/v2/tailnet/-/acl", text.encode(), headers))

    def check_policy(self, text: str) -> shapes.Problem:
        """Ask whether a policy would be taken. Raises AdminError if not."""
        answer = self._asked("POST", "/api/v2/tailnet/-/acl/validate", text.encode(), _HUJSON)
        if why := msgspec.json.decode(answer.body, type=dict[str, Any]).get("message"):
            raise AdminError(str(why))
        return shapes.Problem(message="this policy would be taken")

    def policy_version(self, version: int) -> shapes.Policy:
        """Return an older policy."""
        path = f"/api/v2/tailnet/-/acl/versions/{version}"
        return _policy(self._asked("GET", path, None, _HUJSON))

    def audit(
        self, limit: int, before: int | None = None, since: datetime | None = None
    ) -> list[shapes.AuditEntry]:
        """Return entries of the audit log, newest first; before: only those with lower ids."""
        query = {"limit": str(limit)}
        if before is not None:
            query["before"] = str(before)
        if since is not None:
            query["start"] = since.isoformat()
        path = f"/tailnet/-/logging/configuration?{urlencode(query)}"
        return [_entry(entry) for entry in reversed(self.api("GET", path, wire.Logs).logs)]

    # How it is asked.

    def _call(self, method: str, path: str, kind: type[_T], body: object = None) -> _T:
        raise AdminError(
            "the API cannot do this; run it on the server's own machine, without --server"
        )

    def _authorization(self, path: str) -> dict[str, str]:
        """Return the header. A client's secret first gets a token, which lasts for an hour."""
        if path == _TOKEN:
            return {}
        if self._key.startswith(_CLIENT):
            form = {
                "client_id": self._key.removeprefix(_CLIENT).partition("-")[0],
                "client_secret": self._key,
                "grant_type": "client_credentials",
            }
            headers = {"content-type": "application/x-www-form-urlencoded"}
            answer = self._asked("POST", _TOKEN, urlencode(form).encode(), headers)
            self._key = self._read(answer, wire.AccessToken).access_token
        return {"authorization": f"Bearer {self._key}"}

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        made: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            made = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            made.request(method, path, data, {**headers, **self._authorization(path)})
            response = made.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, response.read(_MAX_ANSWER_BYTES), told)
        except ssl.SSLCertVerificationError as error:
            raise AdminError(
                f"the certificate of {self._where} is not trusted ({error.verify_message}); "
                "SSL_CERT_FILE may name one to trust"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdminError(f"the server at {self._where} does not answer: {why}") from error
        finally:
            made.close()


def _sealed(host: str) -> bool:
    """Whether nobody on the way can read what goes there: this machine, and the mesh."""
    try:
        ip = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return ip.is_loopback or ip in V4_POOL or ip in V6_POOL


def _part(text: str) -> str:
    if "/" in text or not text:
        raise AdminError(f"nothing is called {text!r}")
    return quote(text, safe="")


def _seconds(expires: str) -> int:
    try:
        life = parse_duration(expires)
    except ValueError as error:
        raise AdminError(str(error)) from error
    if life is None:
        raise AdminError("what is made over the API lives at most 90 days; give --expires 90d")
    return max(1, round(life.total_seconds()))


def _expiry(when: datetime) -> datetime | None:
    return None if when == wire.NEVER else when


def _user(user: wire.User) -> shapes.User:
    return shapes.User(
        id=int(user.id),
        name=user.login_name,
        display_name=user.display_name,
        created=user.created,
        role=user.role,
        nodes=user.device_count,
        suspended=user.status == "suspended",
        approved=user.status != "needs-approval",
        logs_in=user.logs_in_by,
        groups=user.groups,
        last_login=user.last_login,
    )


def _token(key: wire.Key, names: Mapping[str, str]) -> shapes.Token:
    return shapes.Token(
        id=key.id,
        kind=key.key_type,
        user=names.get(key.user_id, key.user_id),
        role="" if key.key_type == "client" else "its user",
        scopes=key.scopes,
        tags=key.tags,
        created=key.created,
        expiry=_expiry(key.expires),
        description=key.description,
        text=key.key or None,
    )


def _node(device: wire.Device) -> shapes.Node:
    expiry = None if device.key_expiry_disabled else _expiry(device.expires)
    expired = expiry is not None and expiry <= datetime.now(UTC)
    state = "online" if device.connected_to_control else "offline"
    if not device.authorized or expired:
        state = "expired" if expired else "unapproved"
    reached = device.client_connectivity
    return shapes.Node(
        id=int(device.id),
        stable_id=device.node_id,
        name=device.name.partition(".")[0],
        fqdn=device.name,
        user=device.user,
        state=state,
        online=device.connected_to_control,
        authorized=device.authorized,
        expired=expired,
        ephemeral=device.is_ephemeral,
        addresses=device.addresses,
        tags=device.tags if isinstance(device.tags, list) else [],
        os=device.os,
        hostname=device.hostname,
        client_version=device.client_version,
        # Not told over the API.
        capability_version=0,
        home_region=0,
        disco_key="",
        endpoints=reached.endpoints if isinstance(reached, wire.Connectivity) else [],
        created=device.created,
        last_seen=device.last_seen,
        key_expiry=expiry,
        node_key=device.node_key,
        machine_key=device.machine_key,
    )


def _policy(answer: Answer) -> shapes.Policy:
    return shapes.Policy(
        text=answer.body.decode(errors="replace"), etag=answer.headers.get("etag", "").strip('"')
    )


def _entry(entry: wire.LogEntry) -> shapes.AuditEntry:
    return shapes.AuditEntry(
        id=int(entry.event_group_id),
        time=entry.event_time,
        actor_kind=entry.actor.type.lower(),
        actor=entry.actor.login_name,
        origin=entry.origin,
        action=entry.action.lower(),
        target_kind=entry.target.type.lower().replace("_", " "),
        target=entry.target.id,
        target_name=entry.target.name,
        before=entry.old if isinstance(entry.old, dict) else None,
        after=entry.new if isinstance(entry.new, dict) else None,
    )
