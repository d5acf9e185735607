"""The broker's stream API, spoken directly: requests, answers and their errors.

The stock client's own layer is left out on purpose: it lacks fields (per-message TTL, markers),
creates consumers on a subject that per-bucket rights refuse, and hides headers. Everything here is
one request on ``$JS.API.…`` over the bus, so it works under least-privilege rights. A refused
right shows as a time-out, because the broker answers nothing.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.connection import Bus, Reply

__all__ = [
    "API_TIMEOUT_S",
    "ATTEMPT_S",
    "ApiError",
    "Conflict",
    "PubAck",
    "api",
    "api_once",
    "stored_write",
]

T = TypeVar("T")

API_TIMEOUT_S = 10.0
"""Budget of one API call or write: longer than the leader election of a cluster (4.6-6.1 s)."""
ATTEMPT_S = 2.0
"""Budget of one attempt inside it."""
_PAUSE_MIN_S = 0.02
_PAUSE_MAX_S = 0.5

STREAM_NOT_FOUND = 10059
_WRONG_LAST = frozenset({10071, 10164})
_FULL = frozenset({10023, 10028, 10047, 10077, 10122})
_TOO_LARGE = frozenset({10054, 10097})
_AGAIN = frozenset({ErrorKind.DEADLINE, ErrorKind.NO_RUNNER, ErrorKind.LOST, ErrorKind.BUS})
_MAYBE_DONE = frozenset({ErrorKind.DEADLINE, ErrorKind.LOST})


class ApiFailure(msgspec.Struct, frozen=True):
    """The ``error`` member of an answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class ApiError(Exception):
    """The broker refused.

    Attributes:
        failure: its codes and text.
    """

    def __init__(self, failure: ApiFailure) -> None:
        super().__init__(f"{failure.description} ({failure.err_code})")
        self.failure = failure

    @property
    def transient(self) -> bool:
        """Whether the broker itself is not ready (no leader, shutting down, starting)."""
        return self.failure.code == 503 and self.failure.err_code not in _FULL

    @property
    def full(self) -> bool:
        """Whether a store has no room left."""
        return self.failure.err_code in _FULL


class Conflict(Exception):  # noqa: N818 - it is an answer, not a fault
    """A compare-and-set write found another revision.

    Attributes:
        revision: the sequence the broker holds; 0 when it did not say.
        attempts: how often the write was sent; from 2 on, the winner may be our own first copy.
    """

    def __init__(self, revision: int, attempts: int = 1) -> None:
        super().__init__(f"the stored revision is {revision}")
        self.revision = revision
        self.attempts = attempts


class PubAck(msgspec.Struct, frozen=True):
    """The broker's receipt of a stored message."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False


class _Answer(msgspec.Struct, frozen=True):
    error: ApiFailure | None = None


def _parsed(payload: bytes, shape: type[T]) -> T:
    try:
        failure = msgspec.json.decode(payload, type=_Answer).error
        if failure is not None:
            raise ApiError(failure)
        return msgspec.json.decode(payload, type=shape)
    except msgspec.DecodeError as error:
        raise MeshError(
            ErrorKind.INTERNAL, "unreadable answer of the broker", internal=str(error)
        ) from error


async def api_once(bus: Bus, operation: str, body: bytes, shape: type[T], timeout_s: float) -> T:
    """One request to ``$JS.API.{operation}``, one attempt.

    Raises:
        ApiError: refused by the broker.
        MeshError: no answer.
    """
    reply = await bus.request(f"$JS.API.{operation}", body, timeout_s=timeout_s)
    return _parsed(reply.payload, shape)


async def api(
    bus: Bus, operation: str, body: bytes, shape: type[T], *, timeout_s: float = API_TIMEOUT_S
) -> T:
    """An idempotent request to ``$JS.API.{operation}``, repeated until ``timeout_s`` is over.

    Raises:
        ApiError: refused by the broker.
        MeshError: no answer in time.
    """
    schedule = _Attempts(timeout_s)
    while True:
        try:
            return await api_once(bus, operation, body, shape, schedule.attempt_s)
        except MeshError as error:
            if error.kind not in _AGAIN or schedule.over:
                raise
        except ApiError as error:
            if not error.transient or schedule.over:
                raise
        await schedule.pause()


async def stored_write(
    bus: Bus,
    subject: str,
    payload: bytes,
    headers: Mapping[str, str],
    *,
    repeat: bool,
    timeout_s: float = API_TIMEOUT_S,
) -> PubAck:
    """Publish into a stream and wait for the receipt.

    Args:
        bus: the connection.
        subject: a subject the stream captures.
        payload: the message.
        headers: its headers; with ``repeat`` they must hold ``Nats-Msg-Id`` or an expected
            sequence, so that a second copy is recognised.
        repeat: try again when no receipt came.
        timeout_s: budget over all attempts, in seconds.

    Returns:
        The receipt.

    Raises:
        Conflict: the expected sequence was wrong.
        MeshError: ``overloaded`` (store full), ``too_large``, or no receipt; ``outcome`` is
            ``not_executed`` only when no attempt can have been stored.
    """
    schedule = _Attempts(timeout_s)
    maybe_stored = False
    while True:
        try:
            reply: Reply = await bus.request(
                subject, payload, headers=dict(headers), timeout_s=schedule.attempt_s
            )
            return _parsed(reply.payload, PubAck)
        except MeshError as error:
            maybe_stored = maybe_stored or error.kind in _MAYBE_DONE
            if error.kind not in _AGAIN or schedule.over or not (repeat or not maybe_stored):
                error.outcome = Outcome.UNKNOWN if maybe_stored else Outcome.NOT_EXECUTED
                raise
        except ApiError as error:
            if not error.transient or schedule.over:
                raise _refused(error, schedule.count) from error
        await schedule.pause()


def _refused(error: ApiError, attempts: int) -> Exception:
    code = error.failure.err_code
    if code in _WRONG_LAST:
        tail = error.failure.description.rsplit(" ", 1)[-1]
        return Conflict(int(tail) if tail.isdigit() else 0, attempts)
    if code in _FULL:
        return MeshError(
            ErrorKind.OVERLOADED,
            "the store is full",
            outcome=Outcome.NOT_EXECUTED,
            internal=str(error),
        )
    if code in _TOO_LARGE:
        return MeshError(ErrorKind.TOO_LARGE, "the value is too large", internal=str(error))
    kind = ErrorKind.BUS if error.transient else ErrorKind.INTERNAL
    return MeshError(
        kind, "the broker refused a write", outcome=Outcome.NOT_EXECUTED, internal=str(error)
    )


class _Attempts:
    """Budget and pauses of a repeated request: quick first, then doubling with jitter."""

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + timeout_s
        self._pause_s = _PAUSE_MIN_S
        self.count = 1

    @property
    def attempt_s(self) -> float:
        """What the next attempt may take, in seconds."""
        return max(0.05, min(ATTEMPT_S, self._until - self._loop.time()))

    @property
    def over(self) -> bool:
        """Whether no further attempt fits."""
        return self._loop.time() + self._pause_s >= self._until

    async def pause(self) -> None:
        """Wait before the next attempt; ends a task whose cancellation got lost in a library."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        self.count += 1
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        await asyncio.sleep(self._pause_s * jitter)
        self._pause_s = min(_PAUSE_MAX_S, self._pause_s * 2)
