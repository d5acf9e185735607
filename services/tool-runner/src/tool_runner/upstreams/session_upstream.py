"""What every transport shares that carries one ``Session``: child processes, TCP lines, HTTP+SSE.

One object is one life of the connection. It ends when the connection does, or when the server
answers neither a call nor the ping after it; then everything in flight fails at once.
"""

import asyncio
from abc import ABC, abstractmethod
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

__all__ = ["SessionUpstream"]

PING_S = 5.0
"""A server that let a call run out in silence has this long to answer a ping."""


class SessionUpstream(ABC):
    """``Upstream`` over a connection that carries both directions, but for its beginning and end.

    Args:
        definition: what it is.
        listener: hears of changed lists.
        start_timeout_s: longest start, to the last list.
        legacy: the era is known to be legacy.
        askers: what is known of the server's habit to ask back, over all its lives.
        tasks_max: background tasks at once.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        listener: Listener,
        *,
        start_timeout_s: float,
        legacy: bool,
        askers: Askers | None,
        tasks_max: int,
    ) -> None:
        self._definition = definition
        self._start_timeout_s = start_timeout_s
        self._legacy = legacy
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks = Tasks(f"upstream {definition.name}", tasks_max=tasks_max)
        self._checking = False
        self.session = Session(
            definition.name,
            Wire(self._write, self._write_now, self._broken, self._suspect),
            listener,
            silence_max_s=definition.timeout_s,
            askers=askers,
        )
        self._notices = Notices(definition.name, self.session, listener, self._tasks)

    @property
    def handshake(self) -> Handshake | None:
        """What the server said of itself; None before."""
        return self.session.handshake

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
        return await self._notices.watch(uris)

    async def wait_ended(self) -> str:
        """See ``Upstream``."""
        return await asyncio.shield(self._ended)

    # Of the transport

    @abstractmethod
    async def _write(self, message: bytes, timeout_s: float) -> None:
        """See ``Wire.write``."""

    @abstractmethod
    def _write_now(self, message: bytes) -> None:
        """See ``Wire.write_now``."""

    @abstractmethod
    def _broken(self, reason: str) -> None:
        """See ``Wire.broken``."""

    # The rest

    async def _shake(self) -> Offer:
        """Find the era, shake hands, read every list."""
        budget = self._start_timeout_s

        def ask(method: str, params: bytes) -> Awaitable[msgspec.Raw | ErrorObject]:
            return self.session.ask(method, params, budget)

        self.session.handshake = await shake_hands(ask, self.session.tell, legacy=self._legacy)
        self._notices.open()
        return await self.read_offer()

    def _too_slow(self) -> MeshError:
        return self._error(
            f"did not speak MCP within {self._start_timeout_s:.3g} s", Outcome.NOT_EXECUTED
        )

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

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)
            self.session.end(self._error(reason, Outcome.UNKNOWN))

    def _error(self, what: str, outcome: Outcome) -> MeshError:
        return failed(self._definition.name, what, outcome)
