"""Finds out which era a server on a byte stream speaks, and shakes hands accordingly.

``server/discover`` goes first. Only a recognised modern answer proves a modern server; any other
answer means legacy, and so does silence, except that a slow start is silence too. So after a
moment ``initialize`` follows and the first meaningful answer decides.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from tool_runner.core.dialect import (
    Handshake,
    discover_params,
    initialize_params,
    proves_modern,
    read_discover,
    read_initialize,
)

__all__ = ["shake_hands"]

SILENCE_S = 2.0
"""After this long without an answer to ``server/discover``, ``initialize`` is sent as well."""

Answer = msgspec.Raw | ErrorObject
Ask = Callable[[str, bytes], Awaitable[Answer]]


async def shake_hands(ask: Ask, tell: Callable[[str], None], *, legacy: bool) -> Handshake:
    """Find the era.

    Args:
        ask: sends a request; the caller bounds the whole handshake.
        tell: sends a notification.
        legacy: the server is known to be legacy: no ``server/discover``.

    Raises:
        MeshError: ``upstream``: the server refused, or speaks only revisions nobody here knows.
    """
    discover: asyncio.Future[Answer] | None = None
    initialize: asyncio.Future[Answer] | None = None
    try:
        if not legacy:
            discover = asyncio.ensure_future(ask("server/discover", discover_params()))
            await asyncio.wait([discover], timeout=SILENCE_S)
            if discover.done() and (modern := _modern(discover.result())):
                return modern
        initialize = asyncio.ensure_future(ask("initialize", initialize_params()))
        if discover is not None and not discover.done():
            await asyncio.wait([discover, initialize], return_when=asyncio.FIRST_COMPLETED)
            if discover.done() and (modern := _modern(discover.result())):
                return modern
        answer = await initialize
        if isinstance(answer, ErrorObject):
            raise _refused(f"the server refused initialize: {answer.message[:200]}")
        handshake = read_initialize(answer)
        tell("notifications/initialized")
        return handshake
    finally:
        asked = [one for one in (discover, initialize) if one is not None]
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def _modern(answer: Answer) -> Handshake | None:
    if isinstance(answer, ErrorObject):
        if proves_modern(answer):
            raise _refused(f"the server refused server/discover: {answer.message[:200]}")
        return None
    return read_discover(answer)


def _refused(text: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, text, outcome=Outcome.NOT_EXECUTED)
