"""Identifiers: typed names, and how each is made. Time and random bytes come in as arguments."""

import re
from typing import NewType

__all__ = [
    "HANDLE_RANDOM_BYTES",
    "InstanceId",
    "PrincipalId",
    "ServerName",
    "SessionId",
    "TenantId",
    "handle",
    "is_instance_id",
    "is_server_name",
    "is_tenant_id",
    "ulid",
]

TenantId = NewType("TenantId", str)
PrincipalId = NewType("PrincipalId", str)
InstanceId = NewType("InstanceId", str)
ServerName = NewType("ServerName", str)
SessionId = NewType("SessionId", str)

_TENANT = re.compile(r"[a-z0-9-]{1,40}")
_SERVER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,39}")
_INSTANCE = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
HANDLE_RANDOM_BYTES = 16
"""128 bits: 25 base-36 characters, so that a handle cannot be guessed."""


def is_tenant_id(text: str) -> bool:
    """Tenant ids also name buckets, whose names allow less than keys do."""
    return _TENANT.fullmatch(text) is not None


def is_server_name(text: str) -> bool:
    """Server names are the first half of ``server__tool``, so they never contain ``__``."""
    return _SERVER.fullmatch(text) is not None and "__" not in text and not text.endswith("_")


def is_instance_id(text: str) -> bool:
    """Instance ids stand in subjects, keys and inbox prefixes without encoding."""
    return _INSTANCE.fullmatch(text) is not None


def ulid(now_ms: int, randomness: bytes) -> str:
    """A ULID (26 Crockford base-32 characters, sortable by time).

    Args:
        now_ms: Unix time in milliseconds.
        randomness: exactly 10 random bytes.
    """
    if len(randomness) != 10:
        raise ValueError("a ULID takes 10 random bytes")
    value = (now_ms << 80) | int.from_bytes(randomness)
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def handle(prefix: str, now_ms: int, randomness: bytes) -> str:
    """A handle such as ``task_1790000000000_…`` (compatibility contract, section 3).

    Args:
        prefix: ``swarm``, ``agent``, ``task``.
        now_ms: Unix time in milliseconds, 13 digits.
        randomness: ``HANDLE_RANDOM_BYTES`` random bytes, written as 25 base-36 characters.
    """
    if len(randomness) != HANDLE_RANDOM_BYTES:
        raise ValueError(f"a handle takes {HANDLE_RANDOM_BYTES} random bytes")
    value = int.from_bytes(randomness)
    digits: list[str] = []
    for _ in range(25):
        value, digit = divmod(value, 36)
        digits.append(_BASE36[digit])
    return f"{prefix}_{now_ms:013d}_{''.join(reversed(digits))}"
