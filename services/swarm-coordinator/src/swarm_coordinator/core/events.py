"""What can happen to a swarm: the entries of its log, and how batches of them are written.

An event says what was decided, never why it might be: everything that depends on time or chance
(due times, jitter, ids) is in it. ``at`` is Unix ms. New members must have defaults, tags never
change: logs outlive programs.
"""

from collections.abc import Iterable, Sequence

import msgspec

from swarm_coordinator.core.events_swarm import (
    AgentActive,
    AgentAdded,
    AgentAttached,
    AgentDraining,
    AgentLost,
    AgentPlaced,
    AgentReturned,
    AgentTerminated,
    BreakerOpened,
    MailDropped,
    MailSent,
    MailTaken,
    OwnerChanged,
    SwarmCreated,
    SwarmDestroyed,
)
from swarm_coordinator.core.events_tasks import (
    InputAnswered,
    InputAsked,
    ItemsGone,
    PhaseApproved,
    PhaseBegun,
    PhaseEnded,
    ResultIgnored,
    RunEnded,
    StepAssigned,
    StepDone,
    StepDuplicated,
    StepFailed,
    StepReady,
    StepResumed,
    StepRetry,
    StepReturned,
    StepsAdded,
    StepsCancelled,
    TaskCancelling,
    TaskEnded,
    TaskForgotten,
    TaskPlanned,
    TaskStarted,
    TaskSubmitted,
    VoteCounted,
    WidthChanged,
)

__all__ = [
    "AgentActive",
    "AgentAdded",
    "AgentAttached",
    "AgentDraining",
    "AgentLost",
    "AgentPlaced",
    "AgentReturned",
    "AgentTerminated",
    "BreakerOpened",
    "Event",
    "InputAnswered",
    "InputAsked",
    "ItemsGone",
    "MailDropped",
    "MailSent",
    "MailTaken",
    "OwnerChanged",
    "PhaseApproved",
    "PhaseBegun",
    "PhaseEnded",
    "ResultIgnored",
    "RunEnded",
    "Snapshot",
    "StepAssigned",
    "StepDone",
    "StepDuplicated",
    "StepFailed",
    "StepReady",
    "StepResumed",
    "StepRetry",
    "StepReturned",
    "StepsAdded",
    "StepsCancelled",
    "SwarmCreated",
    "SwarmDestroyed",
    "TaskCancelling",
    "TaskEnded",
    "TaskForgotten",
    "TaskPlanned",
    "TaskStarted",
    "TaskSubmitted",
    "VoteCounted",
    "WidthChanged",
    "decode_batch",
    "encode_batch",
    "encode_batches",
    "encode_snapshot",
]


Event = (
    SwarmCreated
    | SwarmDestroyed
    | OwnerChanged
    | AgentAdded
    | AgentPlaced
    | AgentAttached
    | AgentActive
    | AgentDraining
    | AgentLost
    | AgentReturned
    | AgentTerminated
    | BreakerOpened
    | TaskSubmitted
    | TaskPlanned
    | TaskStarted
    | TaskCancelling
    | TaskEnded
    | TaskForgotten
    | WidthChanged
    | PhaseBegun
    | StepsAdded
    | PhaseApproved
    | VoteCounted
    | PhaseEnded
    | StepReady
    | StepAssigned
    | StepDuplicated
    | StepDone
    | StepRetry
    | StepReturned
    | RunEnded
    | StepFailed
    | StepsCancelled
    | ItemsGone
    | ResultIgnored
    | InputAsked
    | InputAnswered
    | StepResumed
    | MailSent
    | MailTaken
    | MailDropped
)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the log that holds the whole state before it: ``{"snapshot": …}``."""

    snapshot: msgspec.Raw


_encoder = msgspec.json.Encoder()
_events = msgspec.json.Decoder(list[Event])
_snapshot = msgspec.json.Decoder(Snapshot)


def encode_batch(events: Sequence[Event]) -> bytes:
    """One message of the log: a JSON array of events."""
    return _encoder.encode(events)


def encode_batches(events: Iterable[Event], max_bytes: int) -> list[bytes]:
    """As few messages as hold them in order, each at most ``max_bytes`` (one event may be more)."""
    batches: list[bytes] = []
    parts: list[bytes] = []
    size = 2
    for event in events:
        part = _encoder.encode(event)
        if parts and size + len(part) + 1 > max_bytes:
            batches.append(b"[" + b",".join(parts) + b"]")
            parts, size = [], 2
        parts.append(part)
        size += len(part) + 1
    if parts:
        batches.append(b"[" + b",".join(parts) + b"]")
    return batches


def encode_snapshot(state: bytes) -> bytes:
    """The message of a snapshot (``evolve.snapshot``)."""
    return b'{"snapshot":' + state + b"}"


def decode_batch(data: bytes) -> list[Event] | Snapshot:
    """What a message of the log holds.

    Raises:
        msgspec.MsgspecError: it is neither.
    """
    if data[:1] == b"{":
        return _snapshot.decode(data)
    return _events.decode(data)
