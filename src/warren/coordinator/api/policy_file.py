"""Operations on the policy: read as it was written, checked, replaced."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from warren.coordinator import policies
from warren.coordinator.api import shapes
from warren.coordinator.api.operation import Answer, Call, Changed, Operation
from warren.coordinator.policies import PolicyChanged, PolicyRefused
from warren.coordinator.policy_edits import edit_policy
from warren.coordinator.policy_topology import shown_topology, topology_of
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.snapshot import Snapshot
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.policy.explain import rules_of, rules_to
from warren.policy.grants import Grant
from warren.policy.hujson import MAX_BYTES, parse_hujson_untrusted
from warren.policy.malformed import MalformedPolicy
from warren.policy.ports import ANY, Ports
from warren.policy.verdict import World
from warren.policy.verdict import read as read_policy

HUJSON = "application/hujson"
MAX_MATCHES = 1000
_DEFAULT = "ts-default"


async def read(call: Call) -> Answer:
    """Return the policy: as its author wrote it, or with `Accept: application/json` as JSON."""
    return await _answer(call)


async def write(call: Call) -> Answer:
    """Put a policy in force. `If-Match`: the ETag of what was edited, else 412."""
    text = _text(call.body)
    edited = call.headers.get("if-match", "").strip().strip('"') or None
    if edited == _DEFAULT:
        if call.snapshot.policy is not None:
            raise Changed("precondition failed, invalid old hash")
        edited = policies.policy_etag(call.snapshot)
    wall, by = call.context.clock.wall(), call.by
    try:
        await edit_policy(call.context.registry, text, by.name, wall, edited, by)
    except PolicyChanged as error:
        raise Changed(f"precondition failed, invalid old hash: {error}") from error
    return await _answer(call)


async def versions(call: Call) -> shapes.PolicyVersions:
    """List the versions that are kept, the newest first."""
    return shapes.PolicyVersions(
        versions=[
            shapes.PolicyVersion(
                version=record.id,
                etag=record.etag,
                author=record.author,
                created=record.created,
                size_bytes=len(record.text.encode()),
            )
            for _, record in sorted(call.snapshot.policies.items(), reverse=True)
        ]
    )


async def version(call: Call) -> Answer:
    """Return an older policy, as its author wrote it."""
    wanted = call.path["version"]
    number = int(wanted[:9]) if wanted.isascii() and wanted.isdecimal() else 0
    record = call.snapshot.policies.get(number)
    if record is None:
        raise NotFound(f"version {wanted[:40]} of the policy is not kept")
    return Answer(record.text.encode(), HUJSON, {"ETag": f'"{record.etag}"'})


async def topology(call: Call) -> dict[str, Any]:
    """Return people and machines as a policy sees them: what `warren policy` compares for.

    Needs `devices:core:read` and `users:read`, too.
    """
    call.need("devices:core:read")
    call.need("users:read")
    return shown_topology(call.snapshot)


async def validate(call: Call) -> object:
    """Say whether a policy would be taken, or run a list of tests against the one in force.

    The answer is an empty object, or one with a `message`.
    """
    text, snapshot = _text(call.body), call.snapshot

    def look() -> None:
        whole, given = text, _parse(text)
        if isinstance(given, list):
            now: Any = _parse(policies.policy_text(snapshot))
            others = {name: part for name, part in now.items() if name.lower() != "tests"}
            whole = msgspec.json.encode({**others, "tests": given}).decode()
        policies.check_policy(snapshot, whole)

    try:
        await call.context.questions.answer(look)
    except PolicyRefused as error:
        return {"message": str(error), "data": failures(error)}
    return {}


async def preview(call: Call) -> shapes.Preview:
    """Say which rules of a policy let a user reach something, or let someone reach a port.

    `type`: `user`, with a log-in name as `previewFor`, or `ipport`, with `ADDRESS:PORT`.
    """
    kind, subject = call.query.get("type", ""), call.query.get("previewFor", "")
    look = partial(_meeting, call.snapshot, _text(call.body), kind, subject)
    found = await call.context.questions.answer(look)
    return shapes.Preview(
        type=kind, preview_for=subject, matches=[_match(grant) for grant in found[:MAX_MATCHES]]
    )


def _meeting(snapshot: Snapshot, text: str, kind: str, subject: str) -> list[Grant]:
    """Return the rules of a policy that meet a user, or an address and port. Raises Refused."""
    try:
        world = World(read_policy(text, topology_of(snapshot)))
    except MalformedPolicy as problem:
        raise PolicyRefused(problem) from problem
    if kind == "user":
        user = snapshot.user_named(subject)
        if user is None:
            raise Refused(f"there is no user {subject[:80]!r}")
        return rules_of(world, user.name)
    if kind == "ipport":
        try:
            end = Endpoint.parse(subject)
        except MalformedEndpoint as error:
            raise Refused(f"previewFor: {error}") from None
        return rules_to(world, str(end.ip), end.port)
    raise Refused(f"type is {kind[:40]!r}; it is user or ipport")


def _match(grant: Grant) -> shapes.PreviewMatch:
    ports = [
        f"{word}:{'*' if ports == ANY else _range(ports)}"
        for by_target in grant.ports.values()
        for word, ranges in by_target.items()
        for ports in ranges
    ]
    return shapes.PreviewMatch(
        users=grant.sources,
        ports=list(dict.fromkeys(ports)),
        postures=grant.postures,
        line_number=grant.entry.place.line,
    )


def _range(ports: Ports) -> str:
    return str(ports.first) if ports.first == ports.last else f"{ports.first}-{ports.last}"


def failures(error: PolicyRefused) -> list[shapes.TestFailure]:
    """Return what a policy's own tests say, in the API's form."""
    return [shapes.TestFailure(errors=[failure.sentence()]) for failure in error.failures[:100]]


async def _answer(call: Call) -> Answer:
    snapshot = call.snapshot
    text, etag = policies.policy_text(snapshot), policies.policy_etag(snapshot)
    headers = {"ETag": f'"{etag}"'}
    if HUJSON in call.headers.get("accept", "") or "json" not in call.headers.get("accept", ""):
        return Answer(text.encode(), HUJSON, headers)
    value = await call.context.questions.answer(partial(_parse, text))
    plain = msgspec.json.format(msgspec.json.encode(value), indent=2)
    return Answer(plain, "application/json", headers)


def _parse(text: str) -> Any:
    try:
        return parse_hujson_untrusted(text).root.plain()
    except MalformedPolicy as problem:
        raise PolicyRefused(problem) from problem


def _text(body: bytes) -> str:
    if len(body) > MAX_BYTES:
        raise Refused(f"a policy has {MAX_BYTES} bytes at the most")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Refused("a policy is text in UTF-8") from None


_PATH = "/tailnet/{tailnet}/acl"
OPERATIONS = (
    Operation("GET", _PATH, "policy_file:read", "Return the policy", read, gives=bytes),
    Operation(
        "GET",
        f"{_PATH}/topology",
        "policy_file:read",
        "Return whom it is for",
        topology,
        gives=dict,
    ),
    Operation(
        "GET",
        f"{_PATH}/versions",
        "policy_file:read",
        "List versions",
        versions,
        gives=shapes.PolicyVersions,
    ),
    Operation(
        "GET",
        f"{_PATH}/versions/{{version}}",
        "policy_file:read",
        "Return an older policy",
        version,
        gives=bytes,
    ),
    Operation("POST", _PATH, "policy_file", "Replace the policy", write, bytes, bytes),
    Operation(
        "POST",
        f"{_PATH}/validate",
        "policy_file:read",
        "Check a policy, or run tests",
        validate,
        bytes,
        dict,
    ),
    Operation(
        "POST",
        f"{_PATH}/preview",
        "policy_file:read",
        "Say which rules of a policy meet someone",
        preview,
        bytes,
        shapes.Preview,
        query=("type", "previewFor"),
    ),
)
