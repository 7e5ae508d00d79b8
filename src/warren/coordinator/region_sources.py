"""Files and URLs of relay regions: read at the start, looked at again, kept for bad days.

A file that is wrong at the start is an error, as any setting is. Later, or where a URL does not
answer, what was known before stays in force and the problem is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import structlog

from warren.coordinator.regions import RegionProblem, is_url
from warren.edge.dial import verified_tls
from warren.edge.fetch import FetchFailed, fetch_url
from warren.edge.files import FileProblem, private_directory, read_private, write_private
from warren.netmap.derpmap import DERPMap
from warren.policy.derpmap import parse_derp_map_untrusted
from warren.policy.hujson import MAX_BYTES
from warren.policy.malformed import MalformedPolicy

_log = structlog.get_logger("regions")

LOOK_S = 5.0
"""Files are looked at this often; a changed one is taken then, or at once after SIGHUP."""
FETCH_S = 3 * 3600.0
RETRY_S = 60.0
"""URLs are fetched this often, and after a failure."""
_FETCH_LIMIT_S = 20.0

_Stamp = tuple[int, int, int] | None


class RegionSources:
    """What the places of `--derp-map` hold. keep: the directory for copies of URLs."""

    def __init__(self, places: Sequence[str], keep: Path) -> None:
        self._files = [place for place in places if not is_url(place)]
        self._urls = [place for place in places if is_url(place)]
        self._places = tuple(places)
        self._keep = keep
        self._known: dict[str, DERPMap] = {}
        self._stamps: dict[str, _Stamp] = {}
        self.problems: dict[str, str] = {}
        """By place, a sentence: why what is in force from there is old, or nothing."""

    @property
    def has_urls(self) -> bool:
        """Whether there is anything to fetch."""
        return bool(self._urls)

    def maps(self) -> list[tuple[str, DERPMap]]:
        """Return what is known, by place and in their order."""
        return [(place, self._known[place]) for place in self._places if place in self._known]

    def load(self) -> None:
        """Read files, and the copies of URLs. Raises RegionProblem for a file."""
        for place in self._files:
            self._stamps[place] = _stamp(place)
            self._known[place] = _read_file(place)
        for url in self._urls:
            self.problems[url] = f"{url} was not fetched yet"
            try:
                copy = read_private(self._copy(url), MAX_BYTES)
                if copy is not None:
                    self._known[url] = _parse(url, copy, strict=False)
            except (FileProblem, RegionProblem) as problem:
                _log.warning("the copy of a DERP map is not used", problem=str(problem))

    def reload(self, *, all_of_them: bool = False) -> bool:
        """Read the files that changed since, or all; return whether anything is new."""
        fresh = False
        for place in self._files:
            stamp = _stamp(place)
            if stamp == self._stamps[place] and not all_of_them:
                continue
            self._stamps[place] = stamp
            try:
                fresh |= self._take(place, _read_file(place))
            except RegionProblem as problem:
                self._tell(place, str(problem))
        return fresh

    async def fetch(self) -> bool:
        """Fetch the URLs; return whether anything is new. Failures are in `problems`."""
        fresh = False
        for url in self._urls:
            try:
                content = await _fetch(url)
                fresh |= self._take(url, _parse(url, content, strict=False))
                write_private(private_directory(self._keep) / self._copy(url).name, content)
            except RegionProblem as problem:
                self._tell(url, str(problem))
            except FileProblem as problem:
                _log.warning("a DERP map cannot be kept", problem=str(problem))
        return fresh

    async def check(self) -> None:
        """Look whether everything can be had now. Raises RegionProblem."""
        self.load()
        for url in self._urls:
            self._known[url] = _parse(url, await _fetch(url), strict=False)

    def _take(self, place: str, found: DERPMap) -> bool:
        self.problems.pop(place, None)
        if self._known.get(place) == found:
            return False
        self._known[place] = found
        return True

    def _tell(self, place: str, problem: str) -> None:
        if self.problems.get(place) != problem:
            self.problems[place] = problem
            _log.error("relay regions stay as they were", problem=problem)

    def _copy(self, url: str) -> Path:
        name = hashlib.blake2s(url.encode(), digest_size=16).hexdigest()
        return self._keep / f"{name}.json"


async def _fetch(url: str) -> bytes:
    try:
        found = await fetch_url(
            url, limit_s=_FETCH_LIMIT_S, tls=verified_tls(), max_bytes=MAX_BYTES
        )
    except FetchFailed as error:
        raise RegionProblem(f"cannot fetch {url}: {error}") from error
    if found.status != 200:
        raise RegionProblem(f"cannot fetch {url}: it answers with status {found.status}")
    return found.body


def _read_file(place: str) -> DERPMap:
    try:
        with Path(place).expanduser().open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RegionProblem(f"cannot read {place}: {reason}") from error
    return _parse(place, data, strict=True)


def _parse(place: str, data: bytes, *, strict: bool) -> DERPMap:
    try:
        toml = place.endswith(".toml")
        return parse_derp_map_untrusted(data.decode(), toml=toml, strict=strict)
    except UnicodeDecodeError as error:
        raise RegionProblem(f"{place}: this is not UTF-8 text") from error
    except MalformedPolicy as error:
        raise RegionProblem(f"{place}: {error.sentence()}") from error


def _stamp(place: str) -> _Stamp:
    """Return what tells that a file is another one; None where there is none."""
    try:
        found = Path(place).expanduser().stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
