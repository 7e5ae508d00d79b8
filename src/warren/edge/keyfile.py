"""Private keys in files of their own, made at the first start."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from warren.edge.entropy import Entropy
from warren.edge.files import FileProblem, read_private, write_private
from warren.keys import MalformedKey
from warren.keys.kinds import CurvePrivate

_K = TypeVar("_K", bound=CurvePrivate)


def load_key(path: Path, kind: type[_K], entropy: Entropy) -> _K:
    """Read a key, or make it (a file of mode 0600). Raises FileProblem."""
    data = read_private(path, limit_bytes=4096)
    if data is None:
        key = kind.from_entropy(entropy(32))
        write_private(path, key.reveal_text().encode() + b"\n")
        return key
    try:
        return kind.parse(data.decode("ascii").strip())
    except (MalformedKey, UnicodeDecodeError) as error:
        raise FileProblem(
            f"{path} does not hold a key; restore it from a backup, or remove it: every machine "
            "must then be restarted to learn the new one"
        ) from error
