"""The numbers of TURN on the wire (RFC 8656 §17, §18, §19; RFC 8489 §18)."""

from __future__ import annotations

from enum import IntEnum


class Method(IntEnum):
    """What a message is about."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


class Class(IntEnum):
    """Whether it asks, tells or answers."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Attribute(IntEnum):
    """Attribute types; those from 0x8000 may be skipped by who does not know them."""

    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    RESERVATION_TOKEN = 0x0022
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    PASSWORD_ALGORITHMS = 0x8002
    ALTERNATE_SERVER = 0x8023
    FINGERPRINT = 0x8028
    ADDITIONAL_ADDRESS_FAMILY_OLD = 0x8032
    """A draft's number, which coturn still uses, as the next."""
    ADDRESS_ERROR_CODE_OLD = 0x8033


class Code(IntEnum):
    """Error codes."""

    TRY_ALTERNATE = 300
    BAD_REQUEST = 400
    UNAUTHENTICATED = 401
    FORBIDDEN = 403
    UNKNOWN_ATTRIBUTE = 420
    ALLOCATION_MISMATCH = 437
    STALE_NONCE = 438
    FAMILY_NOT_SUPPORTED = 440
    WRONG_CREDENTIALS = 441
    TRANSPORT_NOT_SUPPORTED = 442
    PEER_FAMILY_MISMATCH = 443
    QUOTA_REACHED = 486
    SERVER_ERROR = 500
    INSUFFICIENT_CAPACITY = 508


class Algorithm(IntEnum):
    """How a password becomes a key (RFC 8489 §18.5.1)."""

    MD5 = 1
    SHA256 = 2


UDP = 17
FAMILY_V4, FAMILY_V6 = 1, 2
FIRST_CHANNEL, LAST_CHANNEL = 0x4000, 0x4FFF
LAST_OLD_CHANNEL = 0x7FFE
"""Clients of before RFC 8656 choose numbers up to this one; coturn's tools do."""
PERMISSION_S = 300.0
CHANNEL_S = 600.0
DEFAULT_LIFETIME_S = 600
MAX_LIFETIME_S = 3600
