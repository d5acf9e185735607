"""The GET stream of a legacy HTTP session: what the server says outside of calls."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import msgspec

from mcp_proto.errors import MeshError
from mcp_proto.jsonrpc import Message, Notification
from tool_runner.upstreams.http_answers import (
    Exchange,
    Stray,
    progress_number,
    read_answer,
    read_refusal,
)
from tool_runner.upstreams.http_link import HttpLink

__all__ = ["Hearing", "HttpSession", "session_headers"]

_log = logging.getLogger(__name__)

PAUSE_S = 1.0
PAUSE_MAX_S = 30.0
"""Between two streams, doubling, unless the server names a time; one that held long starts over."""
_NO_STREAM = frozenset((400, 404, 405, 406, 415, 501))
"""Statuses with which a server says that it has no such stream."""
_NO_NUMBER = -1


class HttpSession(msgspec.Struct, frozen=True):
    """One session; ``id`` "" = the server has none, ``version`` "" = not opened yet."""

    id: str = ""
    version: str = ""


def session_headers(session: HttpSession) -> dict[str, str]:
    """Headers of every request in a session."""
    headers: dict[str, str] = {}
    if session.id:
        headers["Mcp-Session-Id"] = session.id
    if session.version:
        headers["MCP-Protocol-Version"] = session.version
    return headers


class Hearing:
    """Keeps the stream open, as long as the server has one.

    Args:
        name: server name, for errors and logs.
        link: connections.
        session: gives the session of now.
        renew: replaces a session that is lost.
        stray: takes what is said.
        running: requests under way, by number; some servers tell of their progress here.
    """

    def __init__(
        self,
        name: str,
        link: HttpLink,
        session: Callable[[], HttpSession],
        renew: Callable[[HttpSession], Awaitable[None]],
        stray: Stray,
        running: Mapping[int, Exchange],
    ) -> None:
        self._name = name
        self._link = link
        self._session = session
        self._renew = renew
        self._stray = stray
        self._outside = _Outside(running)

    async def run(self, missed: Callable[[], None]) -> None:
        """Hear until cancelled, or until the server turns out to have no stream.

        Args:
            missed: called when a stream that held has broken and what was said meanwhile is lost.
        """
        loop, outside = asyncio.get_running_loop(), self._outside
        pause_s = PAUSE_S
        while True:
            session, began = self._session(), loop.time()
            try:
                if not await self._once(session):
                    return
            except MeshError as error:
                _log.debug("stream: %s", error.message, extra={"server": self._name})
            except (aiohttp.ClientError, OSError) as error:
                _log.debug("stream: %s", error, extra={"server": self._name})
            if loop.time() - began > PAUSE_MAX_S:
                pause_s = PAUSE_S
                if not outside.last_event_id:
                    missed()
            if self._session() is not session:
                outside.last_event_id = ""
            wished_ms = outside.retry_ms
            await asyncio.sleep(pause_s if wished_ms is None else max(0.1, wished_ms / 1000))
            pause_s = min(PAUSE_MAX_S, pause_s * 2)

    async def _once(self, session: HttpSession) -> bool:
        """Hear one stream to its end; False when the server has none."""
        outside = self._outside
        headers = {"Accept": "text/event-stream", **session_headers(session)}
        if outside.last_event_id:
            headers["Last-Event-ID"] = outside.last_event_id
        response = await self._link.send("GET", headers)
        try:
            if response.status < 300:
                if response.content_type.lower() != "text/event-stream":
                    return False
                await read_answer(response, outside, self._name, self._heard)
                return True
            refusal = await read_refusal(response)
        finally:
            response.close()
        if not (session.id and refusal.status == 404):
            return refusal.status not in _NO_STREAM
        if outside.last_event_id:
            outside.last_event_id = ""  # it may have forgotten the events, not the session
        else:
            await self._renew(session)
        return True

    def _heard(self, message: Message, _exchange: Exchange | None) -> None:
        """What comes here belongs to no call."""
        self._stray(message, None)


class _Outside(Exchange):
    """The stream as an exchange: no answer can be for it."""

    def __init__(self, running: Mapping[int, Exchange]) -> None:
        super().__init__(_NO_NUMBER, "")
        self._running = running

    async def hear(self, note: Notification) -> bool:
        match note.method:
            case "notifications/progress":
                number = progress_number(note)
                exchange = self._running.get(number) if number is not None else None
            case "notifications/message":
                exchange = self._only_one()
            case _:
                return False
        if exchange is not None:
            await exchange.hear(note)
        return exchange is not None or note.method == "notifications/progress"

    def _only_one(self) -> Exchange | None:
        """The call that a log line is for: it names none, so only where there is just one.

        Calls of the same caller that wait for an answer say nothing meanwhile.
        """
        calls = [(one, one.call) for one in self._running.values() if one.call is not None]
        running = [one for one, call in calls if not call.parked]
        owners = {call.owner for _, call in calls}
        return running[0] if len(running) == len(owners) == 1 else None
