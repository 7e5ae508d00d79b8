"""What a node must remember: one JSON file, replaced as a whole, mode 0600.

The machine key lives as long as the installation. The node key belongs to one log-in at one
coordinator; another coordinator gets another profile, so that no two learn the same key.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from warren.edge.entropy import Entropy
from warren.edge.files import FileLock, FileProblem, private_directory, read_private, write_private
from warren.keys import LockPrivate, MachinePrivate, MalformedKey, NodePrivate

FILE_NAME = "node.json"
LOCK_NAME = "node.lock"
FORMAT = 1


class StateProblem(Exception):
    """The state directory cannot be used. The text is one sentence with the way out."""


class MalformedServerUrl(ValueError):
    """A coordinator's address is not an http or https URL."""


class Prefs(msgspec.Struct, kw_only=True, frozen=True):
    """What the person chose; kept over restarts.

    want_running: `up` (True) or `down` (False).
    hostname: empty for the machine's own name.
    """

    want_running: bool = False
    hostname: str = ""
    ephemeral: bool = False
    shields_up: bool = False
    accept_routes: bool = False
    advertise_tags: list[str] = []
    relay_server: bool = False
    """Pass traffic on between other machines (a peer relay), on this node's own UDP port."""


class Profile(msgspec.Struct, kw_only=True, frozen=True):
    """One log-in at one coordinator.

    node_key: None until first used, and again after a log-out.
    old_node_key: the key before, while a renewal is under way.
    logged_in: the coordinator has accepted `node_key` at some time.
    """

    server_url: str
    node_key: str | None = None
    old_node_key: str | None = None
    logged_in: bool = False
    prefs: Prefs = Prefs()


class _Saved(msgspec.Struct, kw_only=True):
    format: int
    machine_key: str
    lock_key: str
    log_id: str
    current: str | None = None
    profiles: dict[str, Profile] = {}


class NodeState:
    """The state directory of one node, locked for this process.

    Raises StateProblem: unusable directory, a second daemon, or a file that is not ours.
    """

    def __init__(self, directory: Path, entropy: Entropy) -> None:
        self.directory = directory
        self._entropy = entropy
        try:
            private_directory(directory)
        except FileProblem as error:
            raise StateProblem(f"{error}; choose another with --state DIR.") from error
        self._lock = FileLock(directory / LOCK_NAME)
        try:
            free = self._lock.acquire()
        except FileProblem as error:
            raise StateProblem(f"{error}; choose another with --state DIR.") from error
        if not free:
            raise StateProblem(
                f"Another warren daemon already uses {directory}; "
                "stop it, or give this one its own --state and --socket."
            )
        try:
            self._saved = self._load()
            self.machine_key = MachinePrivate.parse(self._saved.machine_key)
            self.lock_key = LockPrivate.parse(self._saved.lock_key)
            for profile in self._saved.profiles.values():
                _check_keys(profile)
        except MalformedKey as error:
            self._lock.release()
            raise self._corrupt() from error
        except StateProblem:
            self._lock.release()
            raise

    @property
    def log_id(self) -> str:
        """An opaque id that the protocol wants in Hostinfo; 64 hex digits."""
        return self._saved.log_id

    @property
    def profile(self) -> Profile | None:
        """The profile in use, if any."""
        return self._saved.profiles.get(self._saved.current or "")

    def node_key(self) -> NodePrivate:
        """Return the node key of the profile in use, making and storing it at first use."""
        profile = self._current()
        if profile.node_key is None:
            key = NodePrivate.from_entropy(self._entropy(32))
            self.save(msgspec.structs.replace(profile, node_key=key.reveal_text()))
            return key
        return NodePrivate.parse(profile.node_key)

    def old_node_key(self) -> NodePrivate | None:
        """Return the key before a renewal that is still under way."""
        text = self._current().old_node_key
        return NodePrivate.parse(text) if text else None

    def renew_node_key(self) -> NodePrivate:
        """Make a new node key and keep the present one as the old one."""
        profile = self._current()
        key = NodePrivate.from_entropy(self._entropy(32))
        self.save(
            msgspec.structs.replace(
                profile,
                node_key=key.reveal_text(),
                old_node_key=profile.old_node_key or profile.node_key,
                logged_in=False,
            )
        )
        return key

    def accepted(self) -> None:
        """Remember that the coordinator accepted the node key."""
        profile = self._current()
        if not profile.logged_in or profile.old_node_key:
            self.save(msgspec.structs.replace(profile, logged_in=True, old_node_key=None))

    def forget_login(self) -> None:
        """Drop the node key after a log-out; the machine key and preferences stay."""
        profile = self._current()
        self.save(
            msgspec.structs.replace(
                profile,
                node_key=None,
                old_node_key=None,
                logged_in=False,
                prefs=msgspec.structs.replace(profile.prefs, want_running=False),
            )
        )

    def select(self, server_url: str) -> Profile:
        """Make the profile of this coordinator the one in use, creating it if needed.

        Raises MalformedServerUrl.
        """
        url = normal_url(server_url)
        if url not in self._saved.profiles:
            self._saved.profiles[url] = Profile(server_url=url)
        self._saved.current = url
        self._write()
        return self._saved.profiles[url]

    def set_prefs(self, prefs: Prefs) -> None:
        """Store preferences of the profile in use."""
        profile = self._current()
        if profile.prefs != prefs:
            self.save(msgspec.structs.replace(profile, prefs=prefs))

    def save(self, profile: Profile) -> None:
        """Store the profile in use. Raises StateProblem, and keeps the old one, if it cannot."""
        before = self._saved.profiles.get(profile.server_url)
        self._saved.profiles[profile.server_url] = profile
        try:
            self._write()
        except StateProblem:
            if before is not None:
                self._saved.profiles[profile.server_url] = before
            raise

    def close(self) -> None:
        """Give the directory back."""
        self._lock.release()

    def _current(self) -> Profile:
        profile = self.profile
        assert profile is not None, "a profile is selected before its keys are used"
        return profile

    def _load(self) -> _Saved:
        try:
            data = read_private(self.directory / FILE_NAME)
        except FileProblem as error:
            raise StateProblem(f"{error}; choose another directory with --state DIR.") from error
        if data is None:
            return self._fresh()
        try:
            saved = msgspec.json.decode(data, type=_Saved)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._corrupt() from error
        if saved.format != FORMAT:
            raise StateProblem(
                f"{self.directory / FILE_NAME} was written by another version of Warren "
                f"(format {saved.format}, this one reads {FORMAT}); use that version."
            )
        return saved

    def _fresh(self) -> _Saved:
        self._saved = _Saved(
            format=FORMAT,
            machine_key=MachinePrivate.from_entropy(self._entropy(32)).reveal_text(),
            lock_key=LockPrivate.from_entropy(self._entropy(32)).reveal_text(),
            log_id=self._entropy(32).hex(),
        )
        self._write()
        return self._saved

    def _write(self) -> None:
        data = msgspec.json.format(msgspec.json.encode(self._saved), indent=1)
        try:
            write_private(self.directory / FILE_NAME, data + b"\n")
        except FileProblem as error:
            raise StateProblem(f"{error}; free some space or choose another --state.") from error

    def _corrupt(self) -> StateProblem:
        path = self.directory / FILE_NAME
        return StateProblem(
            f"{path} is damaged or not a node's state; "
            "put a backup back, or move it away to join as a new machine."
        )


def normal_url(text: str) -> str:
    """Return a coordinator's URL without a trailing slash; `host` alone means https.

    Raises MalformedServerUrl.
    """
    text = text.strip()
    if "://" not in text:
        text = f"https://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise MalformedServerUrl(f"{text[:100]!r} is not a URL: {error}.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MalformedServerUrl(
            f"{text[:100]!r} is not a coordinator's URL; it looks like https://mesh.example.com."
        )
    if parts.username or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise MalformedServerUrl(f"{text[:100]!r} has more than a scheme, a host and a port.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _check_keys(profile: Profile) -> None:
    for text in (profile.node_key, profile.old_node_key):
        if text is not None:
            NodePrivate.parse(text)
