"""The server's own keys, made once and kept: machines and relays know it by them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeVar

from warren.edge.entropy import Entropy
from warren.edge.files import FileProblem, read_private, write_private
from warren.keys import MachinePrivate, MalformedKey, NodePrivate
from warren.keys.kinds import CurvePrivate

_K = TypeVar("_K", bound=CurvePrivate)


class Identity(NamedTuple):
    """noise: the Noise static key of the coordinator. relay: the key of its DERP server."""

    noise: MachinePrivate
    relay: NodePrivate


def load_identity(state: Path, entropy: Entropy) -> Identity:
    """Read the keys, or make them at the first start (files of mode 0600). Raises FileProblem."""
    return Identity(
        noise=_load(state / "noise.key", MachinePrivate, entropy),
        relay=_load(state / "relay.key", NodePrivate, entropy),
    )


def _load(path: Path, kind: type[_K], entropy: Entropy) -> _K:
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
