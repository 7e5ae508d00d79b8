"""What people see when they log in: HTML from plain values, everything from outside escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import urlencode

from starlette.responses import Response

from warren.coordinator.login.passwords import MIN_CHARACTERS
from warren.coordinator.page import page
from warren.coordinator.records import CredentialRecord, NodeRecord, PendingRecord, UserRecord

TOKEN_DAYS = (7, 30, 90)


class Ways(NamedTuple):
    """How one can log in here. providers: names and what people read."""

    providers: Sequence[tuple[str, str]]
    passwords: bool

    def __bool__(self) -> bool:
        return bool(self.providers) or self.passwords


def problem(title: str, reason: str, status: int) -> Response:
    """Say why something does not go on, and where it begins."""
    sentence = reason[:1].upper() + reason[1:] + ("" if reason.endswith((".", "?", "!")) else ".")
    begin = '<p><a href="/login">To the log-in</a></p>'
    return page(escape(title), f'<p class="wrong">{escape(sentence)}</p>{begin}', status)


def waits_for_approval(user: UserRecord) -> Response:
    """Say that somebody is known now, and not let in yet."""
    reason = f"{user.name} is known here now; an administrator has to approve you before you go on"
    return problem("Not yet", reason, 403)


def login(
    ways: Ways,
    to: str,
    token: str,
    *,
    pending: PendingRecord | None = None,
    wrong: str = "",
    name: str = "",
    status: int = 200,
) -> Response:
    """Offer the ways to log in; pending: the machine for which that is."""
    parts = []
    if pending is not None:
        parts.append(
            f"<p><b>{_host(pending)}</b> wants to join this network. Log in to let it in as yours."
            "</p>"
        )
    if wrong:
        parts.append(f'<p class="wrong">{escape(wrong)}</p>')
    parts += _buttons(ways, to)
    if ways.passwords:
        fields = (
            f'<label>Name<input name="name" autocomplete="username" required maxlength="254" '
            f'value="{escape(name)}"></label>'
            '<label>Password<input name="password" type="password" '
            'autocomplete="current-password" required></label><button>Log in</button>'
        )
        parts.append(_form("/login", token, fields, to=to))
    if not ways:
        parts.append("<p>Nobody can log in here yet: an administrator makes users with</p>")
        parts.append("<pre>warren admin users invite NAME</pre>")
    if pending is not None:
        parts.append(
            "<p>Or an administrator lets it in, by running this on the server:</p>"
            f"<pre>warren admin nodes approve {escape(pending.id)} --user NAME</pre>"
        )
    return page("Log in" if pending is None else "A machine wants to join", "".join(parts), status)


def confirm(pending: PendingRecord, user: UserRecord, token: str) -> Response:
    """Ask whether this machine is theirs: a link to here may have come from somebody else."""
    tags = ", ".join(sorted(pending.hostinfo.request_tags))[:300]
    asked = f", and asks for {escape(tags)}" if tags else ""
    system = escape(pending.hostinfo.os[:40] or "unknown system")
    body = (
        f"<p><b>{_host(pending)}</b> ({system}) wants to join this network as a machine of "
        f"<b>{escape(user.name)}</b>{asked}.</p>"
        "<p>Go on only if you have just started this on a machine of yours. Its key is</p>"
        f"<pre>{escape(str(pending.node_key))}</pre>"
    )
    body += _form(f"/register/{pending.id}", token, "<button>Yes, this is my machine</button>")
    return page("Is this your machine?", body + _log_out(token))


def ssh_question(
    check_id: str,
    source: NodeRecord,
    target: NodeRecord,
    local_user: str,
    user: UserRecord,
    token: str,
) -> Response:
    """Ask whether a log-in by SSH is theirs."""
    body = (
        f"<p>Somebody at <b>{escape(source.name)}</b>, a machine of <b>{escape(user.name)}</b>, "
        f"logs in to <b>{escape(target.name)}</b> by SSH as <b>{escape(local_user)}</b>.</p>"
        "<p>Go on only if that is you, and just now.</p>"
    )
    buttons = (
        '<button name="answer" value="yes">Yes, let me in</button>'
        '<button name="answer" value="no" class="second">No, turn it away</button>'
    )
    return page("Is this you?", body + _form(f"/ssh/{check_id}", token, buttons))


def ssh_answered(yes: bool) -> Response:
    """Say what was done."""
    said = "The log-in goes on" if yes else "The log-in was turned away"
    return page("Done", f"<p>{said}. You can close this window.</p>")


def joined(node: NodeRecord, user: UserRecord) -> Response:
    """Say that a machine is in, or still has to wait."""
    name = escape(node.name)
    if not node.authorized:
        return page(
            "Nearly there",
            f"<p><b>{name}</b> is known as a machine of {escape(user.name)} now. An administrator "
            f"has to let it in: <code>warren admin nodes approve {name}</code></p>",
        )
    return page(
        "Done",
        f"<p><b>{name}</b> is in the network, at {node.ipv4}, as a machine of "
        f"{escape(user.name)}. You can close this window.</p>",
    )


def not_waiting() -> Response:
    """Say that no machine waits under this address."""
    return page(
        "Nothing waits here",
        "<p>This machine has been approved already, was turned away, or has waited too "
        "long. If it is not in the network yet, let it log in once more.</p>",
        404,
    )


def invitation(
    ways: Ways, user: UserRecord, text: str, token: str, *, wrong: str = "", status: int = 200
) -> Response:
    """Let an invited person choose how they log in."""
    parts = [f"<p>You are <b>{escape(user.name)}</b> ({escape(user.role)}) in this network.</p>"]
    if wrong:
        parts.append(f'<p class="wrong">{escape(wrong)}</p>')
    if ways.providers:
        parts.append("<p>From now on, log in with</p>")
        parts += _buttons(ways, f"/invite/{text}")
        parts.append("<p>or choose a password:</p>")
    fields = _new_password() + "<button>Set password and log in</button>"
    hidden = f'<input type="hidden" autocomplete="username" value="{escape(user.name)}">'
    parts.append(_form(f"/invite/{text}", token, hidden + fields))
    return page("Welcome", "".join(parts), status)


def account(
    user: UserRecord,
    nodes: Sequence[NodeRecord],
    tokens: Sequence[CredentialRecord],
    token: str,
    *,
    may_script: bool,
    said: str = "",
    status: int = 200,
) -> Response:
    """Show who someone is, what is theirs, and what they can change. said: what just happened."""
    parts = [said, f"<p>You are <b>{escape(user.name)}</b> ({escape(user.role)}).</p>"]
    rows = [
        f"<li>{escape(node.name)} {node.ipv4}{'' if node.online else ' (offline)'}</li>"
        for node in nodes
    ]
    parts.append(f"<h2>Your machines</h2><ul>{''.join(rows) or '<li>none yet</li>'}</ul>")
    if may_script:
        parts.append("<h2>Your API tokens</h2><p>Each may do what you may.</p><ul>")
        for record in tokens:
            until = record.expiry.date().isoformat() if record.expiry else "for ever"
            what = escape(record.description or record.id)
            revoke = _form(
                "/account/revoke", token, '<button class="second">Revoke</button>', id=record.id
            )
            parts.append(f"<li>{what}, until {until}{revoke}</li>")
        days = "".join(f'<option value="{n}">{n} days</option>' for n in TOKEN_DAYS)
        fields = (
            '<label>What for<input name="description" maxlength="100"></label>'
            f'<label>Valid for<select name="days">{days}</select></label>'
            "<button>Make a token</button>"
        )
        parts.append("</ul>" + _form("/account/token", token, fields))
    if user.password:
        fields = (
            '<label>Password now<input name="password" type="password" '
            'autocomplete="current-password" required></label>'
            + _new_password()
            + "<button>Change password</button>"
        )
        parts.append("<h2>Your password</h2>" + _form("/account/password", token, fields))
    return page("Your account", "".join(parts) + _log_out(token), status)


def good(text: str) -> str:
    """Return a line that says that something was done."""
    return f"<p><b>{escape(text)}</b></p>"


def bad(text: str) -> str:
    """Return a line that says why something was not done."""
    return f'<p class="wrong">{escape(text)}</p>'


def shown_once(text: str) -> str:
    """Return a secret, for the only time."""
    return f"<p><b>Copy your new token now: it is not shown again.</b></p><pre>{escape(text)}</pre>"


def _buttons(ways: Ways, to: str) -> list[str]:
    query = escape(urlencode({"to": to}))
    return [
        f'<p><a class="button" href="/login/{escape(name)}?{query}">Log in with {escape(label)}'
        "</a></p>"
        for name, label in ways.providers
    ]


def _new_password() -> str:
    return (
        f'<label>New password, at least {MIN_CHARACTERS} characters<input name="new" '
        f'type="password" autocomplete="new-password" minlength="{MIN_CHARACTERS}" required>'
        "</label>"
    )


def _log_out(token: str) -> str:
    return _form("/logout", token, '<button class="second">Log out</button>')


def _form(action: str, token: str, content: str, **hidden: str) -> str:
    fields = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in {"token": token, **hidden}.items()
    )
    return f'<form method="post" action="{escape(action)}">{fields}{content}</form>'


def _host(pending: PendingRecord) -> str:
    return escape(pending.hostinfo.hostname[:80] or "a machine")
