"""Many stored messages by one request: the broker's direct get in batches (ADR-31).

No consumer is made and none is left behind, any replica answers, and the page ends with a status.
"""

import asyncio

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.frames import check_subject, decode_headers
from mesh_chassis.bus.waiters import Waiter

__all__ = ["StoredMessage", "get_batch"]

_STATUS = b"NATS/1.0 "
_ENDED = frozenset(("204", "404"))


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message as the stream holds it; ``time`` is RFC 3339 on the broker's clock."""

    subject: str
    sequence: int
    time: str
    headers: dict[str, str]
    payload: bytes


class _Pages(Waiter):
    """Collects replies until the broker says that there are no more."""

    __slots__ = ("found", "future")

    def __init__(self, bus: Bus, subject: str, timeout_s: float) -> None:
        mux = bus.link.mux
        super().__init__(mux, subject, mux.loop.time() + timeout_s)
        self.found: list[tuple[bytes, bytes]] = []
        self.future: asyncio.Future[MeshError | None] = mux.loop.create_future()

    def accept(self, payload: bytes, block: bytes) -> None:
        """Take one message, or the end."""
        if not block.startswith(_STATUS):
            self.found.append((payload, block))
            return
        status = decode_headers(block).get("Status", "")
        if status in _ENDED:
            self._end(None)
        elif status == "503":
            self._end(MeshError(ErrorKind.NO_RUNNER, "no such stream, or nobody serves it"))
        else:
            self._end(MeshError(ErrorKind.INTERNAL, "the broker refused a read", internal=status))

    def check(self, now: float) -> None:
        """The time is over."""
        self._end(MeshError(ErrorKind.DEADLINE, "the broker did not answer in time"))

    def fail(self, error: MeshError) -> None:
        """The connection is lost."""
        self._end(error)

    def _end(self, error: MeshError | None) -> None:
        self.mux.forget(self)
        if not self.future.done():
            self.future.set_result(error)


async def get_batch(
    bus: Bus, stream: str, request: msgspec.Struct, *, timeout_s: float
) -> list[StoredMessage]:
    """Messages of a stream in the order in which it holds them.

    Args:
        bus: the connection.
        stream: its name.
        request: body of the request (ADR-31): ``batch``, ``seq``, ``next_by_subj``,
            ``multi_last``, ``max_bytes``.
        timeout_s: budget.

    Raises:
        MeshError: ``no_runner`` without such a stream, ``deadline``, ``bus``, ``internal``.
    """
    subject = f"$JS.API.DIRECT.GET.{stream}"
    check_subject(subject)
    waiter = _Pages(bus, subject, timeout_s)
    reply = waiter.mux.register(waiter)
    try:
        await bus.publish(subject, msgspec.json.encode(request), reply=reply)
        error = await waiter.future
    finally:
        waiter.mux.forget(waiter)
    if error is not None:
        raise error
    return [_message(payload, block) for payload, block in waiter.found]


def _message(payload: bytes, block: bytes) -> StoredMessage:
    headers = decode_headers(block)
    return StoredMessage(
        subject=headers.pop("Nats-Subject", ""),
        sequence=int(headers.pop("Nats-Sequence", "0")),
        time=headers.pop("Nats-Time-Stamp", ""),
        headers=headers,
        payload=payload,
    )
