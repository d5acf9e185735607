"""What the transports share that carry one ``Session`` over the network: TCP lines, HTTP+SSE.

One object is one life of the connection. It ends when the connection does, or when the server
answers neither a call nor the ping after it; then everything in flight fails at once.
"""

import asyncio
import logging
from collections.abc import Awaitable

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorObject, MeshError, Outcome
from mcp_proto.limits import LIST_TIMEOUT_S
from mesh_chassis.tasks import Tasks
from tool_runner.core.askers import Askers
from tool_runner.core.dialect import Handshake, discover_params
from tool_runner.upstreams.handshake import shake_hands
from tool_runner.upstreams.http_failures import failed
from tool_runner.upstreams.listing import read_offer
from tool_runner.upstreams.notices import Notices
from tool_runner.upstreams.session import Session, Wire
from tool_runner.upstreams.upstream import Listener, Offer, Request

__all__ = ["RemoteUpstream"]

_log = logging.getLogger(__name__)

PING_S = 5.0
"""A server that let a call run out in silence has this long to answer a ping."""
_TASKS_MAX = 512


class RemoteUpstream:
    """``Upstream`` over a connection that carries both directions.

    A transport implements ``_connect``, ``_write``, ``_write_now`` and ``_disconnect``.

    Args:
        definition: where it is.
        listener: hears of changed lists.
        start_timeout_s: longest start, from the connect to the last list.
        legacy: the era is known to be legacy.
        askers: what is known of the server's habit to ask back, over all its lives.
    """

    pid = 0

    def __init__(
        self,
        definition: ServerDefinition,
        listener: Listener,
        *,
        start_timeout_s: float,
        legacy: bool,
        askers: Askers | None,
    ) -> None:
        self._definition = definition
        self._start_timeout_s = start_timeout_s
        self._legacy = legacy
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks = Tasks(f"upstream {definition.name}", tasks_max=_TASKS_MAX)
        self._checking = False
        self._connected = False
        self.session = Session(
            definition.name,
            Wire(self._write, self._write_now, self._broken, self._suspect),
            listener,
            silence_max_s=definition.timeout_s,
            askers=askers,
        )
        self._notices = Notices(definition.name, self.session, listener, self._tasks)

    @property
    def spoke(self) -> bool:
        """Whether it was heard, or could not even be reached: then its era is still unknown."""
        return self.session.heard_at > 0 or not self._connected

    @property
    def handshake(self) -> Handshake | None:
        """What the server said of itself; None before."""
        return self.session.handshake

    def log_tail(self, lines: int = 20) -> list[str]:
        """Nothing is known of its log."""
        del lines
        return []

    async def start(self) -> Offer:
        """See ``Upstream``."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._connect()
                self._connected = True
                return await self._open()
        except TimeoutError:
            raise self._error(
                f"did not speak MCP within {self._start_timeout_s:.3g} s", Outcome.NOT_EXECUTED
            ) from None

    async def call(self, request: Request) -> bytes | ErrorObject:
        """See ``Upstream``."""
        return await self.session.call(request)

    async def read_offer(self) -> Offer:
        """See ``Upstream``."""
        handshake = self.session.handshake
        if handshake is None:
            raise self._error("is not connected", Outcome.NOT_EXECUTED)
        return await read_offer(self._definition.name, handshake, self._ask)

    async def watch(self, uris: frozenset[str]) -> dict[str, str]:
        """See ``Upstream``."""
        return dict(await self._notices.watch(uris))

    async def wait_ended(self) -> str:
        """See ``Upstream``."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End it at once; ``close`` must still follow."""
        self._end("was stopped")

    async def close(self) -> None:
        """See ``Upstream``."""
        self._end("was stopped")
        try:
            await self._disconnect()
        finally:
            await self._tasks.close()

    # Of the transport

    async def _connect(self) -> None:
        """Connect, and feed ``session.receive`` from a task of ``_tasks``."""
        raise NotImplementedError

    async def _write(self, message: bytes, timeout_s: float) -> None:
        """See ``Wire.write``."""
        raise NotImplementedError

    def _write_now(self, message: bytes) -> None:
        """See ``Wire.write_now``."""
        raise NotImplementedError

    async def _disconnect(self) -> None:
        """Close the connection."""
        raise NotImplementedError

    # The rest

    async def _open(self) -> Offer:
        budget = self._start_timeout_s

        def ask(method: str, params: bytes) -> Awaitable[msgspec.Raw | ErrorObject]:
            return self.session.ask(method, params, budget)

        try:
            self.session.handshake = await shake_hands(ask, self.session.tell, legacy=self._legacy)
            self._notices.open()
            return await self.read_offer()
        except MeshError as error:
            reason = self._ended.result() if self._ended.done() else error.message
            hint = "" if self.session.heard_at else " before it spoke MCP; is it an MCP server?"
            raise self._error(
                f"failed to start: {reason}{hint if self._ended.done() else ''}",
                Outcome.NOT_EXECUTED,
            ) from error

    async def _ask(self, method: str, params: bytes) -> msgspec.Raw | ErrorObject:
        return await self.session.ask(method, params, LIST_TIMEOUT_S)

    def _suspect(self) -> None:
        """Callers gave up and nothing was heard for long: is anybody there?"""
        if not self._checking and not self._ended.done():
            self._checking = True
            self._tasks.spawn(self._check(), name="check")

    async def _check(self) -> None:
        modern = self.session.handshake is not None and self.session.handshake.modern
        method, params = ("server/discover", discover_params()) if modern else ("ping", b"")
        heard = self.session.heard_at
        try:
            await self.session.ask(method, params, PING_S)
        except MeshError:
            if self.session.heard_at == heard:
                self._broken("answers neither calls nor pings")
        finally:
            self._checking = False

    def _broken(self, reason: str) -> None:
        self._end(reason)

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)
            self.session.end(self._error(reason, Outcome.UNKNOWN))

    def _error(self, what: str, outcome: Outcome) -> MeshError:
        return failed(self._definition.name, what, outcome)
