"""How far a call is, told to its caller while it waits: only the newest, and not too often.

Whoever knows it says it as often as it likes and never waits; what goes out only grows, as MCP
wants it, also where the call met a change of owner and was made once more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from mcp_proto.codec import encode_notification, pick
from mcp_proto.contracts.swarm_replicas import TaskReached
from mcp_proto.errors import MeshError
from mcp_proto.types.progress import ProgressParams

__all__ = ["GAP_S", "Teller", "notice_of", "token_of"]

GAP_S = 0.1
"""Least time between two notices of one call."""
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
_TOKEN = msgspec.json.Decoder(str | int)


def token_of(params: msgspec.Raw) -> str | int | None:
    """``progressToken`` of a request; None = its caller wants no progress."""
    if b"progressToken" not in bytes(params):
        return None
    meta = pick(params, "_meta").get("_meta")
    token = None if meta is None else pick(meta, "progressToken").get("progressToken")
    try:
        return None if token is None else _TOKEN.decode(token)
    except msgspec.MsgspecError:
        return None


def notice_of(token: str | int, reached: TaskReached) -> bytes:
    """``notifications/progress``."""
    said = ProgressParams(
        progress_token=token,
        progress=reached.progress,
        total=reached.total,
        message=reached.message or None,
    )
    return encode_notification("notifications/progress", _encode(said))


class Teller:
    """One call's.

    Args:
        emit: sends to the caller; ``Call.emit``.
        say: what is sent.
    """

    def __init__(
        self, emit: Callable[[bytes], Awaitable[None]], say: Callable[[TaskReached], bytes]
    ) -> None:
        self._emit = emit
        self._say = say
        self._told = -1.0
        self._newest: TaskReached | None = None
        self._wake = asyncio.Event()

    def tell(self, reached: TaskReached) -> None:
        """This is known now; nothing is sent unless it is further than what was told."""
        if reached.progress > self._told:
            self._newest = reached
            self._wake.set()

    async def during(self, work: Awaitable[T]) -> T:
        """Await the work of the call, and tell meanwhile; what is newest is told before it ends.

        Raises:
            BaseException: what the work raises.
        """
        telling = asyncio.ensure_future(self._run())
        try:
            done = await work
        finally:
            telling.cancel()
            await asyncio.wait((telling,))  # nothing may follow the answer
        await self._flush()
        return done

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await self._flush()
            await asyncio.sleep(GAP_S)

    async def _flush(self) -> None:
        newest, self._newest = self._newest, None
        self._wake.clear()
        if newest is not None and newest.progress > self._told:
            self._told = newest.progress
            with contextlib.suppress(MeshError):  # progress is no reason to fail the call
                await self._emit(self._say(newest))
