"""Sessions of principals: idle and absolute end, decided from the record.

The broker's TTL only cleans up: a read may still return a key that has expired, so both ends are
checked here, against times in the record.
"""

from enum import StrEnum

import msgspec

__all__ = [
    "ABSOLUTE_S",
    "IDLE_S",
    "TOUCH_AFTER_S",
    "Lifetimes",
    "LoginRecord",
    "LoginState",
    "needs_touch",
    "opened",
    "state_of",
    "touched",
    "ttl_s",
]

IDLE_S = 30 * 60
ABSOLUTE_S = 12 * 3600
TOUCH_AFTER_S = 60
"""Last use is written at most this often: a session in use costs one write a minute."""

_CLEANUP_SLACK_S = 60


class LoginState(StrEnum):
    """Whether a session may be used."""

    ACTIVE = "active"
    IDLE = "idle"
    ENDED = "ended"


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True):
    """Idle and absolute lifetime of a session, in seconds."""

    idle_s: int = IDLE_S
    absolute_s: int = ABSOLUTE_S


class LoginRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Value of ``login.{id}`` in ``mesh_logins``; times in Unix ms.

    ``key_id`` is the API key that opened it: when that key ends, so does the session.
    """

    id: str
    tenant: str
    principal: str
    key_id: str
    mac: str
    pepper: str
    created_ms: int
    used_ms: int
    ends_ms: int
    idle_s: int


def opened(
    *,
    login_id: str,
    tenant: str,
    principal: str,
    key_id: str,
    key_expires_ms: int,
    mac: str,
    pepper: str,
    now_ms: int,
    lifetimes: Lifetimes,
) -> LoginRecord:
    """The record of a new session; it never outlives its key (``key_expires_ms`` 0 = never)."""
    ends_ms = now_ms + lifetimes.absolute_s * 1000
    return LoginRecord(
        id=login_id,
        tenant=tenant,
        principal=principal,
        key_id=key_id,
        mac=mac,
        pepper=pepper,
        created_ms=now_ms,
        used_ms=now_ms,
        ends_ms=min(ends_ms, key_expires_ms) if key_expires_ms else ends_ms,
        idle_s=lifetimes.idle_s,
    )


def state_of(record: LoginRecord, now_ms: int) -> LoginState:
    """Whether the session may be used at ``now_ms``."""
    if now_ms >= record.ends_ms:
        return LoginState.ENDED
    if now_ms >= record.used_ms + record.idle_s * 1000:
        return LoginState.IDLE
    return LoginState.ACTIVE


def needs_touch(record: LoginRecord, now_ms: int) -> bool:
    """Whether this use is worth a write."""
    after_s = min(TOUCH_AFTER_S, record.idle_s / 4)
    return now_ms - record.used_ms >= after_s * 1000


def touched(record: LoginRecord, now_ms: int) -> LoginRecord:
    """The record after a use."""
    return msgspec.structs.replace(record, used_ms=max(record.used_ms, now_ms))


def ttl_s(record: LoginRecord) -> int:
    """TTL of the key, in seconds from the last use: when the record cannot matter any more."""
    rest_s = min(record.idle_s, -(-(record.ends_ms - record.used_ms) // 1000))
    return max(1, rest_s + _CLEANUP_SLACK_S)
