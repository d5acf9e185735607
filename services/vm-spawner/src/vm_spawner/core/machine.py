"""The life of a machine: which state may follow which, and what each step writes down.

A record changes by these functions only, and each change is one compare-and-set and one event.
"""

import re

import msgspec

from mcp_proto.contracts.vm_spawner import (
    CONSOLE_BYTES_MAX,
    LIVE,
    Desired,
    MachineRecord,
    MachineState,
    Observed,
    Phase,
    Timings,
)

__all__ = [
    "NEXT",
    "STATUS",
    "ImpossibleError",
    "ended",
    "is_live",
    "is_over",
    "is_vm_id",
    "moved",
    "requested",
    "tail",
    "vm_id",
    "wanted_gone",
]

NEXT: dict[MachineState, frozenset[MachineState]] = {
    "requested": frozenset({"admitted", "failed", "lost"}),
    "admitted": frozenset({"creating", "draining", "failed", "lost"}),
    "creating": frozenset({"booting", "draining", "failed", "lost"}),
    # Back to creating: the one retry of a boot.
    "booting": frozenset({"handshake", "creating", "draining", "failed", "lost"}),
    "handshake": frozenset({"ready", "parked", "creating", "draining", "failed", "lost"}),
    "ready": frozenset({"draining", "paused", "stopped", "failed", "lost"}),
    "parked": frozenset({"ready", "draining", "stopped", "failed", "lost"}),
    "paused": frozenset({"ready", "draining", "stopped", "failed", "lost"}),
    "draining": frozenset({"stopped", "failed", "lost"}),
    "stopped": frozenset(),
    "failed": frozenset(),
    "lost": frozenset(),
}
"""What may follow."""

STATUS: dict[MachineState, str] = {
    "requested": "spawning",
    "admitted": "spawning",
    "creating": "spawning",
    "booting": "spawning",
    "handshake": "spawning",
    "ready": "ready",
    "parked": "parked",
    "paused": "paused",
    "draining": "draining",
    "stopped": "stopped",
    "failed": "failed",
    "lost": "lost",
}
"""The word for callers: how it comes up is nothing that they act on."""
_VM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
RANDOM_BYTES = 15
"""120 bits give the 22 to 24 base-36 characters of which 22 are taken (113 bits)."""
_RANDOM_CHARS = 22


class ImpossibleError(ValueError):
    """A transition that no machine makes."""


def is_vm_id(text: str) -> bool:
    """Firecracker's rule: letters, digits and hyphens, at most 64; no dot, slash or underscore."""
    return _VM_ID.fullmatch(text) is not None


def vm_id(prefix: str, randomness: bytes) -> str:
    """A new id.

    Args:
        prefix: of the host's file, e.g. ``mcp-agent``.
        randomness: ``RANDOM_BYTES`` random bytes.

    Raises:
        ValueError: the wrong number of bytes, or a prefix that makes no id.
    """
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"an id takes {RANDOM_BYTES} random bytes")
    value, digits = int.from_bytes(randomness), list[str]()
    for _ in range(_RANDOM_CHARS):
        value, digit = divmod(value, 36)
        digits.append(_BASE36[digit])
    made = f"{prefix}-{''.join(digits)}"
    if not is_vm_id(made):
        raise ValueError(f"not a prefix of machine ids: {prefix!r}")
    return made


def requested(
    vm: str, tenant: str, desired: Desired, *, host: str, boot: str, now_ms: int
) -> MachineRecord:
    """The first record, written before anything exists.

    Args:
        vm: its id.
        tenant: whose.
        desired: what shall be.
        host: spawner that makes it.
        boot: life of that spawner.
        now_ms: Unix ms.
    """
    return MachineRecord(
        vm_id=vm,
        tenant=tenant,
        desired=desired,
        observed=Observed(state="requested", host=host, boot=boot, epoch=1, created_ms=now_ms),
    )


def moved(record: MachineRecord, state: MachineState, **changes: object) -> MachineRecord:
    """The record in its next state.

    Args:
        record: as it is.
        state: where it goes.
        changes: further members of ``observed``.

    Raises:
        ImpossibleError: that state does not follow.
    """
    was = record.observed.state
    if state not in NEXT[was]:
        raise ImpossibleError(f"{record.vm_id}: {state} does not follow {was}")
    observed = msgspec.structs.replace(record.observed, state=state, **changes)
    return msgspec.structs.replace(record, observed=observed)


def ended(
    record: MachineRecord,
    state: MachineState,
    *,
    code: str,
    reason: str,
    now_ms: int,
    phase: Phase | str = "",
    console: bytes | str = b"",
    timings: Timings | None = None,
) -> MachineRecord:
    """The record of a machine that is no more.

    Args:
        record: as it is.
        state: ``stopped``, ``failed`` or ``lost``.
        code: word for the reason.
        reason: public text.
        now_ms: Unix ms.
        phase: step that failed.
        console: what it printed last.
        timings: of the spawn, where they are not in the record yet.

    Raises:
        ImpossibleError: it is over already.
    """
    text = console if isinstance(console, str) else tail(console)
    return moved(
        record,
        state,
        code=code,
        reason=reason,
        phase=phase,
        ended_ms=now_ms,
        console=text,
        timings=record.observed.timings if timings is None else timings,
    )


def tail(console: bytes) -> str:
    """The last of a console as text; half a character at the cut is left out."""
    cut = console[-CONSOLE_BYTES_MAX:]
    return cut.decode("utf-8", "replace").lstrip("\N{REPLACEMENT CHARACTER}")


def is_live(record: MachineRecord) -> bool:
    """Whether something of it may exist on a host."""
    return record.observed.state in LIVE


def is_over(record: MachineRecord) -> bool:
    """Stopped, failed or lost: nothing will change any more."""
    return not NEXT[record.observed.state]


def wanted_gone(record: MachineRecord, now_ms: int) -> str:
    """Why a living machine should end: ``asked``, ``ttl``; "" = it should not."""
    if not is_live(record):
        return ""
    if record.desired.state == "stopped":
        return "asked"
    ttl_ms, started = record.desired.ttl_s * 1000, record.observed.started_ms
    if ttl_ms and started and now_ms >= started + ttl_ms:
        return "ttl"
    return ""
