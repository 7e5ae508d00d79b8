"""The file of a backup: a ZIP archive with a manifest that names and checks each member.

    manifest.json         what is inside: `Manifest`
    state/NAME            a file of the state directory
    tables/NAME.jsonl     a table's rows, a JSON object a line

Reading never goes by what the archive calls its members or says of their size: names are those
of a short list, what is unpacked is bounded in bytes and rows, and there is no ZIP64. The writer
keeps to the same bounds, so that no backup is made that could not be restored.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import BinaryIO, Self

import msgspec

FORMAT = 1
STATE_FILES = (
    "noise.key",
    "relay.key",
    "tls/self-signed.pem",
    "tls/acme.pem",
    "tls/acme-account.pem",
)
"""What of the state directory is kept, beside the database; the keys are always there."""
MAX_LINE_BYTES = 16 << 20
"""A policy of 1 MiB, escaped twice, fits."""

MAX_TABLE_BYTES = (1 << 31) - 1
"""What ZIP takes without its 64-bit form."""
MAX_ROWS = 2_000_000
"""In a table: ten times what the audit log keeps."""

_MANIFEST = "manifest.json"
_MAX_FILE_BYTES = 1 << 20
_TABLE = re.compile(r"tables/([a-z_]{1,63})\.jsonl")
_MAX_MEMBERS = 64
_MAX_DIRECTORY_BYTES = 64 << 10
_PIECE_BYTES = 1 << 16
_END = struct.Struct("<4s4H2LH")
_END_MAGIC, _ZIP64_MAGIC, _ZIP64_BYTES = b"PK\5\6", b"PK\6\7", 20


class MalformedArchive(Exception):
    """The file is no whole backup. The text goes on a sentence: "FILE cannot be restored: …"."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One member: its name, size and SHA-256 (hexadecimal) unpacked; rows, of a table."""

    name: str
    bytes: int
    sha256: str
    rows: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is inside. version: of the program that wrote it. schema: the database's revision."""

    format: int
    version: str
    schema: str
    created: datetime
    members: list[Member]

    def tables(self) -> dict[str, Member]:
        """Return the tables' members by table."""
        return {
            found[1]: member for member in self.members if (found := _TABLE.fullmatch(member.name))
        }

    def files(self) -> dict[str, Member]:
        """Return the state directory's files by their names there."""
        by_name = {member.name: member for member in self.members}
        return {
            name: by_name[f"state/{name}"] for name in STATE_FILES if f"state/{name}" in by_name
        }


class ArchiveWriter:
    """Writes an archive to a file; a context manager, for what is broken off."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=False)
        self._members: list[Member] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # Or the archive would be ended when it is collected, in a file that is closed by then.
            self._zip.fp = None

    def add_file(self, name: str, data: bytes) -> None:
        """Add a file of the state directory."""
        self._add(f"state/{name}", [data], rows=False)

    def add_table(self, name: str, lines: Iterable[bytes]) -> None:
        """Add a table. Raises MalformedArchive for what could not be read again."""
        self._add(f"tables/{name}.jsonl", lines, rows=True)

    def finish(self, version: str, schema: str, created: datetime) -> Manifest:
        """Write the manifest and the end; the file stays open."""
        manifest = Manifest(
            format=FORMAT, version=version, schema=schema, created=created, members=self._members
        )
        with self._zip.open(_info(_MANIFEST), "w") as out:
            out.write(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        self._zip.close()
        return manifest

    def _add(self, name: str, pieces: Iterable[bytes], rows: bool) -> None:
        digest, size, count = hashlib.sha256(), 0, 0
        try:
            with self._zip.open(_info(name), "w") as out:
                for piece in pieces:
                    if len(piece) > MAX_LINE_BYTES:
                        raise MalformedArchive(f"a row of {name} is larger than 16 MiB")
                    out.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    count += 1
                    if rows and count > MAX_ROWS:
                        raise MalformedArchive(f"{name} has more than {MAX_ROWS:,} rows")
        except (zipfile.LargeZipFile, RuntimeError) as error:
            raise MalformedArchive(f"{name} is larger than 2 GiB") from error
        self._members.append(
            Member(name=name, bytes=size, sha256=digest.hexdigest(), rows=count if rows else 0)
        )


class Archive:
    """An archive that was opened; its members are checked as they are read."""

    def __init__(self, opened: zipfile.ZipFile, manifest: Manifest) -> None:
        self._zip = opened
        self.manifest = manifest

    def read_untrusted(self, member: Member) -> bytes:
        """Return a small member's content. Raises MalformedArchive."""
        return b"".join(self._pieces(member, _PIECE_BYTES))

    def lines_untrusted(self, member: Member) -> Iterator[bytes]:
        """Yield a table's lines. Raises MalformedArchive, perhaps only at the end."""
        count = 0
        for line in self._pieces(member, None):
            count += 1
            if count > MAX_ROWS:
                raise MalformedArchive(f"{member.name} has more than {MAX_ROWS:,} rows")
            yield line
        if count != member.rows:
            raise MalformedArchive(f"{member.name} has {count} rows instead of {member.rows}")

    def _pieces(self, member: Member, size: int | None) -> Iterator[bytes]:
        digest = hashlib.sha256()
        try:
            with self._zip.open(member.name) as packed:
                while piece := (
                    packed.readline(MAX_LINE_BYTES + 1) if size is None else packed.read(size)
                ):
                    if len(piece) > MAX_LINE_BYTES:
                        raise MalformedArchive(f"a line of {member.name} is larger than 16 MiB")
                    digest.update(piece)
                    yield piece
        except _BROKEN as error:
            raise MalformedArchive(f"{member.name} in it is damaged") from error
        if digest.hexdigest() != member.sha256:
            raise MalformedArchive(f"{member.name} in it is not what was written (its checksum)")


def open_archive_untrusted(file: BinaryIO) -> Archive:
    """Read an archive's directory and manifest. Raises MalformedArchive."""
    size = _check_end(file)
    try:
        opened = zipfile.ZipFile(file)
    except _BROKEN as error:
        raise MalformedArchive("it is damaged") from error
    infos = {info.filename: info for info in opened.infolist()}
    if len(infos) != len(opened.infolist()):
        raise MalformedArchive("it has two members of one name")
    if sum(info.compress_size for info in infos.values()) > size:
        raise MalformedArchive("its members overlap")
    for name, info in infos.items():
        _check_member(name, info)
    manifest = _read_manifest(opened, infos)
    members = {member.name: member for member in manifest.members}
    if members.keys() != infos.keys() - {_MANIFEST} or len(members) != len(manifest.members):
        raise MalformedArchive("its manifest names other members than there are")
    for member in members.values():
        if member.bytes != infos[member.name].file_size:
            raise MalformedArchive(f"{member.name} in it has another size than its manifest says")
    missing = [name for name in STATE_FILES[:2] if name not in manifest.files()]
    if missing:
        raise MalformedArchive(f"{missing[0]} is missing from it")
    return Archive(opened, manifest)


def _check_end(file: BinaryIO) -> int:
    """Look at the end of the file before `zipfile` believes it; return the file's size."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _ZIP64_BYTES))
    tail = file.read(_END.size + _ZIP64_BYTES)
    if len(tail) < _END.size or tail[-_END.size :][:4] != _END_MAGIC:
        raise MalformedArchive("it is no backup, or not whole")
    count, directory_bytes = _END.unpack(tail[-_END.size :])[4:6]
    if tail.startswith(_ZIP64_MAGIC) or count > _MAX_MEMBERS:
        raise MalformedArchive("it is a ZIP archive, but no backup")
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise MalformedArchive("it is a ZIP archive, but no backup")
    return size


def _check_member(name: str, info: zipfile.ZipInfo) -> None:
    is_table = _TABLE.fullmatch(name) is not None
    if not is_table and name != _MANIFEST and name.removeprefix("state/") not in STATE_FILES:
        raise MalformedArchive(f"it holds {name[:80]!r}, which no backup has")
    if info.compress_type not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED) or info.flag_bits & 1:
        raise MalformedArchive(f"{name} in it is packed in a way that no backup has")
    if info.file_size > (MAX_TABLE_BYTES if is_table else _MAX_FILE_BYTES):
        raise MalformedArchive(f"{name} in it would unpack to {info.file_size:,} bytes")


def _read_manifest(opened: zipfile.ZipFile, infos: dict[str, zipfile.ZipInfo]) -> Manifest:
    if _MANIFEST not in infos:
        raise MalformedArchive("it is a ZIP archive, but no backup")
    try:
        manifest = msgspec.json.decode(opened.read(_MANIFEST), type=Manifest)
    except (*_BROKEN, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedArchive("its manifest cannot be read") from error
    if manifest.format != FORMAT:
        raise MalformedArchive("it was written by a newer version of warren")
    return manifest


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o600 << 16
    return info


_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    KeyError,
    OSError,
    OverflowError,
    ValueError,
)
