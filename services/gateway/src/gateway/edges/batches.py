"""``batch`` of earlier TCP clients: many calls in one request, answers in their order."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto import codec
from mcp_proto.convert.errors import Peer, render_error
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.jsonrpc import BATCH_ITEMS_MAX
from mcp_proto.limits import RESULT_BYTES_MAX

__all__ = ["AT_ONCE", "NOT_IN_BATCH", "Item", "run_batch"]

AT_ONCE = 16
"""Calls of one ``batch`` that run at the same time."""

NOT_IN_BATCH = frozenset({"authenticate", "batch", "initialize", "subscriptions/listen"})
"""What changes the connection, or does not end, has no place among calls."""


class Item(msgspec.Struct):
    """One call of a batch."""

    method: str
    params: msgspec.Raw = msgspec.Raw(b"")


_ITEMS = msgspec.json.Decoder(list[Item])


async def run_batch(
    params: bytes | msgspec.Raw, serve: Callable[[int, Item], Awaitable[bytes]]
) -> bytes:
    """Serve each item like a call of its own.

    Args:
        params: JSON array of ``{"method", "params"}``.
        serve: (position, item) → result object; raises ``MeshError``.

    Returns:
        JSON array of ``{"result"}`` or ``{"error"}``, in order.

    Raises:
        MeshError: ``params`` when it is no such array or has more than ``BATCH_ITEMS_MAX`` items.
    """
    try:
        items = _ITEMS.decode(params)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(
            ErrorKind.PARAMS, 'params must be an array of {"method","params"}'
        ) from None
    if not 0 < len(items) <= BATCH_ITEMS_MAX:
        raise MeshError(
            ErrorKind.PARAMS, f"a batch holds 1 to {BATCH_ITEMS_MAX} calls, not {len(items)}"
        )
    places = asyncio.Semaphore(AT_ONCE)
    room = RESULT_BYTES_MAX

    async def one(index: int, item: Item) -> bytes:
        nonlocal room
        async with places:
            try:
                if item.method in NOT_IN_BATCH:
                    raise MeshError(ErrorKind.REQUEST, f"{item.method} is not for batches")
                result = await serve(index, item)
                if len(result) > room:
                    raise MeshError(
                        ErrorKind.TOO_LARGE,
                        "the results of the batch are larger than one message; call it alone",
                        outcome=Outcome.EXECUTED,
                    )
                room -= len(result)
                return b'{"result":%b}' % result
            except MeshError as error:
                failed = render_error(error, Peer.LEGACY_TCP, method=item.method)
                return b'{"error":%b}' % codec.encode(failed)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(index, item)) for index, item in enumerate(items)]
    return b"[" + b",".join(task.result() for task in tasks) + b"]"
