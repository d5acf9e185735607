"""One request and all its replies on an inbox of its own.

Several replies, streaming frames and the empty end marker of ``Mesh-Stream: cli`` are seen this
way, and a refusal by the broker ends the wait at once; the stock single-reply request does
neither.
"""

import time
from typing import Any

import msgspec
from nats.aio.msg import Msg

from mesh_cli.bodies import status_of
from mesh_cli.connection import Connection, Refusals
from mesh_cli.failure import Exit, Failure
from mesh_cli.waiting import first_of

__all__ = ["Request", "exchange"]

_MANY = 1_000_000
_PENDING = 65_536


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request and when its replies are complete.

    Attributes:
        replies: stop after so many; 0 = until ``gap_s`` passes without one.
        gap_s: longest wait between two replies once there is one.
        timeout_s: longest wait for the first one.
        until_empty: stop at an empty message, which is not passed on.
    """

    subject: str
    body: bytes = b""
    headers: dict[str, str] = {}
    replies: int = 1
    gap_s: float = 0.3
    timeout_s: float = 5.0
    until_empty: bool = False


async def exchange(client: Connection, request: Request) -> list[tuple[Msg, float]]:
    """Send a request and collect its replies.

    Returns:
        Messages with the seconds from sending to arrival, in order; empty when none came in time.

    Raises:
        Failure: nobody listens on the subject, or the broker forbids publishing to it.
    """
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, pending_msgs_limit=_PENDING)
    got: list[tuple[Msg, float]] = []
    try:
        started = time.perf_counter()
        await client.publish(
            request.subject, request.body, reply=inbox, headers=request.headers or None
        )
        limit = request.replies if not request.until_empty else 0
        while len(got) < (limit or _MANY):
            wait_s = request.gap_s if got and limit != 1 else request.timeout_s
            message = await _next(subscription, wait_s, client.refusals, request.subject)
            if message is None or (request.until_empty and not message.data and got):
                break
            if status_of(message) == "503":
                raise Failure(
                    f"nobody listens on {request.subject}",
                    mend="mesh micro ls shows the services, mesh tools the tools",
                    code=Exit.REFUSED,
                )
            got.append((message, time.perf_counter() - started))
    finally:
        await subscription.unsubscribe()
    return got


async def _next(subscription: Any, wait_s: float, refusals: Refusals, subject: str) -> Msg | None:
    """The next message, or None after ``wait_s``; a refusal by the broker ends the wait."""
    arrival = subscription.next_msg(timeout=wait_s + 1)
    got = await first_of(arrival, refusals.arrived.wait(), timeout_s=wait_s)
    if got is None:
        return None
    if got[0] == 0:
        message: Msg = got[1]
        return message
    raise Failure(
        f"the broker refused {subject}: {refusals.texts[-1]}",
        mend="the operator may do everything: --context operator",
        code=Exit.REFUSED,
    )
