"""What the transports share that reach a server over the network: TCP lines, HTTP+SSE."""

import asyncio
from abc import abstractmethod

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import MeshError, Outcome
from tool_runner.core.askers import Askers
from tool_runner.upstreams.session_upstream import SessionUpstream
from tool_runner.upstreams.upstream import Listener, Offer

__all__ = ["RemoteUpstream"]

_TASKS_MAX = 512


class RemoteUpstream(SessionUpstream):
    """``Upstream`` over a network connection that carries both directions.

    Args: as ``SessionUpstream``; the start begins with the connect.
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
        super().__init__(
            definition,
            listener,
            start_timeout_s=start_timeout_s,
            legacy=legacy,
            askers=askers,
            tasks_max=_TASKS_MAX,
        )
        self._connected = False

    @property
    def spoke(self) -> bool:
        """Whether it was heard, or could not even be reached: then its era is still unknown."""
        return self.session.heard_at > 0 or not self._connected

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
            raise self._too_slow() from None

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

    @abstractmethod
    async def _connect(self) -> None:
        """Connect, and feed ``session.receive`` from a task of ``_tasks``."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Close the connection."""

    # The rest

    async def _open(self) -> Offer:
        try:
            return await self._shake()
        except MeshError as error:
            reason = self._ended.result() if self._ended.done() else error.message
            hint = "" if self.session.heard_at else " before it spoke MCP; is it an MCP server?"
            raise self._error(
                f"failed to start: {reason}{hint if self._ended.done() else ''}",
                Outcome.NOT_EXECUTED,
            ) from error

    def _broken(self, reason: str) -> None:
        self._end(reason)
