"""JSON of the control plane, both ways."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import msgspec

from warren.keys.kinds import MalformedKey, PublicKey

_T = TypeVar("_T")

# Maps in which a null value means "delete this entry" and must survive (PROTOCOL §3.4).
_MAPS_WITH_NULLS = frozenset(
    {"PacketFilters", "Regions", "DisplayMessages", "CapMap", "RegionScore"}
)


class MalformedMessage(ValueError):
    """A control-plane message is not JSON, or not of the shape that its type asks."""


def encode_json(value: object) -> bytes:
    """Write a wire value; attributes that equal their default are left out."""
    return _encoder.encode(value)


def decode_json_untrusted(data: bytes, kind: type[_T]) -> _T:
    """Read a wire value of the given type. Raises MalformedMessage and nothing else.

    Go writes nil lists and maps as null where we have an empty one; such messages take the
    slower way, which leaves null members out first.
    """
    try:
        return cast(_T, _decoder(cast(Hashable, kind)).decode(data))
    except (msgspec.DecodeError, MalformedKey, RecursionError, UnicodeDecodeError) as error:
        if b"null" not in data:
            raise MalformedMessage(str(error)) from error
    try:
        bare = _without_nulls(msgspec.json.decode(data))
        return msgspec.convert(bare, kind, dec_hook=_decode_key)
    except (msgspec.DecodeError, MalformedKey, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(str(error)) from error


def decode_request_untrusted(data: bytes, kind: type[_T]) -> _T:
    """Read what a client sent, with names in any case. Raises MalformedMessage and nothing else.

    Go's own decoder does not tell case apart, and the Rust client relies on it: it writes
    `HostInfo` and `PreferredDerp` where Go writes `Hostinfo` and `PreferredDERP`.
    """
    try:
        value = _respelled(_without_nulls(msgspec.json.decode(data)), kind)
        return msgspec.convert(value, kind, dec_hook=_decode_key)
    except (msgspec.DecodeError, MalformedKey, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(str(error)) from error


def _respelled(value: Any, kind: Any) -> Any:
    """The value with the names of structs as their types spell them, as deep as types go."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        choices = [choice for choice in inner if choice is not NoneType]
        return _respelled(value, choices[0]) if len(choices) == 1 else value
    if isinstance(value, list) and origin is list:
        return [_respelled(member, inner[0]) for member in value]
    if isinstance(value, dict) and origin is dict:
        return {name: _respelled(member, inner[1]) for name, member in value.items()}
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        names = _names(kind)
        known = ((names.get(name.lower()), member) for name, member in value.items())
        return {field[0]: _respelled(member, field[1]) for field, member in known if field}
    return value


@lru_cache(maxsize=64)
def _names(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    fields = msgspec.structs.fields(kind)
    return {field.encode_name.lower(): (field.encode_name, field.type) for field in fields}


def _without_nulls(value: Any, *, keep: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_nulls(member, keep=name in _MAPS_WITH_NULLS)
            for name, member in value.items()
            if member is not None or keep
        }
    if isinstance(value, list):
        return [_without_nulls(member) for member in value]
    return value


def _encode_key(value: object) -> object:
    if isinstance(value, PublicKey):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no wire form")


def _decode_key(kind: type, value: Any) -> object:
    if isinstance(kind, type) and issubclass(kind, PublicKey):
        if not isinstance(value, str):
            raise MalformedKey(f"a key is text, not {type(value).__name__}")
        return kind.parse(value)
    raise NotImplementedError(f"{kind!r} has no wire form")


@lru_cache(maxsize=64)
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cast(type, kind), dec_hook=_decode_key)


_encoder = msgspec.json.Encoder(enc_hook=_encode_key)
