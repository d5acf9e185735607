"""When a key is made, from when it is used, and when it goes: for signing and for sealing keys.

A new key is published well before it is used, so that every verifier has it when the first token
signed with it arrives; an old one stays until the last token signed with it has expired. The very
first key is used at once, also by a gateway whose clock is a little behind: nobody can hold a
token of another.
"""

from collections.abc import Collection
from itertools import pairwise
from typing import Protocol

import msgspec

from mcp_proto.limits import CLOCK_LEEWAY_S

__all__ = ["LEAD_S", "LINGER_S", "Key", "Plan", "kid_of", "plan", "sealing_linger_s"]

LEAD_S = 120
"""Published this long before use: four lifetimes of a cached identity (30 s)."""

LINGER_S = 900
"""Kept this long after its successor took over: a token lives 5 minutes, clocks differ, and a
gateway that was cut off may sign with the old key until its watch is back."""

_SEALED_LIVE_S = 7 * 86_400
_SEALED_LIVE_TURNS = 24
_PREFIX = "k"


class Key(Protocol):
    """What the plan reads of a key."""

    @property
    def kid(self) -> str:
        """Its name."""
        ...

    @property
    def use_from_ms(self) -> int:
        """When it comes into use, Unix ms."""
        ...


def sealing_linger_s(every_s: int) -> int:
    """How long a sealing key is kept after its successor took over, in seconds.

    What it sealed lives ten minutes (states of calls) to days (ids of relayed tasks). A week,
    but no more than 24 turns: a ring holds 64 keys, also when keys change every hour.
    """
    return max(LINGER_S, min(_SEALED_LIVE_S, _SEALED_LIVE_TURNS * every_s))


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now.

    Attributes:
        make: kid of a key to make; "" = none.
        use_from_ms: when that key begins to sign.
        drop: kids to remove.
        next_ms: Unix ms at which the plan changes next.
    """

    make: str = ""
    use_from_ms: int = 0
    drop: tuple[str, ...] = ()
    next_ms: int = 0


def kid_of(number: int) -> str:
    """Name of a key: counted, so that two replicas collide instead of making two.

    The first one is named after its second: should the ring ever be lost and begin anew, no name
    comes again, because signers and verifiers remember keys by name.
    """
    return f"{_PREFIX}{number:010d}"


def plan(
    ring: Collection[Key],
    *,
    unusable: Collection[str] = (),
    now_ms: int,
    every_s: int,
    linger_s: int = LINGER_S,
) -> Plan:
    """Decide.

    Args:
        ring: all keys, in any order.
        unusable: kids that nobody can use (sealed under a key encryption key that is gone);
            when no other is left, a new key signs at once.
        now_ms: broker time, Unix ms.
        every_s: how long one key is in use, in seconds.
        linger_s: how long it is kept after that, in seconds.
    """
    following = kid_of(1 + max((_number(key.kid) for key in ring), default=now_ms // 1000))
    ordered = sorted(ring, key=lambda key: (key.use_from_ms, _number(key.kid)))
    if all(key.kid in unusable for key in ordered):
        # Signers take the newest, so a damaged one that is still to come must go now.
        ahead = tuple(key.kid for key in ordered if key.use_from_ms > now_ms)
        from_ms = now_ms - int(CLOCK_LEEWAY_S * 1000)
        return Plan(make=following, use_from_ms=from_ms, drop=ahead, next_ms=now_ms)
    newest = ordered[-1]
    renew_ms = newest.use_from_ms + every_s * 1000 - LEAD_S * 1000
    make = following if now_ms >= renew_ms else ""
    drop: list[str] = []
    next_ms = now_ms + LEAD_S * 1000 if make else renew_ms
    for old, successor in pairwise(ordered):
        gone_ms = successor.use_from_ms + linger_s * 1000
        if now_ms >= gone_ms:
            drop.append(old.kid)
        else:
            next_ms = min(next_ms, gone_ms)
    return Plan(
        make=make,
        use_from_ms=now_ms + LEAD_S * 1000 if make else 0,
        drop=tuple(drop),
        next_ms=next_ms,
    )


def _number(kid: str) -> int:
    digits = kid.removeprefix(_PREFIX)
    return int(digits) if digits.isdigit() else 0
