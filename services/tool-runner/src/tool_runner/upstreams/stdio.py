"""An MCP server as a child process: started, watched, talked to over its stdin and stdout.

One object is one life of the child. It ends when the child exits, closes its output, prints
garbage without end, or answers neither a call nor the ping after it; then everything in flight
fails at once, the whole process group is killed, and the owner (``supervisor``) decides about the
next life.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import MeshError, Outcome
from mesh_chassis.children import Child, ChildLimits, Children
from tool_runner.core.askers import Askers
from tool_runner.upstreams.containers import ContainerSettings
from tool_runner.upstreams.pipes import LogPipe, Pipes
from tool_runner.upstreams.session_upstream import SessionUpstream
from tool_runner.upstreams.upstream import Listener, Offer
from tool_runner.upstreams.walls import SandboxSettings, Walls

__all__ = ["LinePipes", "Running", "StdioSettings", "StdioUpstream"]

WRITE_ROOM_S = 5.0
"""Longest wait for a child to read before a request to it is refused."""
EXIT_AFTER_EOF_S = 2.0
"""MCP shutdown: after stdin is closed, how long the child may take to exit by itself."""
TERM_GRACE_S = 1.0
"""Between SIGTERM and SIGKILL of the group."""
GONE_S = 5.0
_TASKS_MAX = 8


class StdioSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How children are run.

    Attributes:
        start_timeout_s: longest start, from the fork to the last list.
        limits: resource limits of each child.
        containers: how servers from images are run.
        sandbox: how servers in sandboxes are run.
    """

    start_timeout_s: float = 60.0
    limits: ChildLimits = ChildLimits()
    containers: ContainerSettings = ContainerSettings()
    sandbox: SandboxSettings = SandboxSettings()


class Running(Protocol):
    """The process of a server, wherever it is."""

    pid: int
    """Process id on this machine; 0 = it is not ours."""
    exited: asyncio.Future[int]
    """Its status; below 0 = the signal that killed it."""


class LinePipes(Protocol):
    """Its stdin, stdout and stderr; see ``pipes.Pipes``."""

    log: LogPipe

    @property
    def congested(self) -> bool:
        """See ``pipes.Pipes``."""
        ...

    async def write(self, message: bytes, timeout_s: float) -> None:
        """See ``pipes.Pipes``."""
        ...

    def write_now(self, message: bytes) -> None:
        """See ``pipes.Pipes``."""
        ...

    def close_input(self) -> None:
        """See ``pipes.Pipes``."""
        ...

    def close(self) -> None:
        """See ``pipes.Pipes``."""
        ...


class StdioUpstream(SessionUpstream):
    """``Upstream`` over a child process.

    Args:
        definition: what to run.
        children: starts and ends processes.
        listener: hears of changed lists.
        settings: bounds.
        trusted: the definition is the operator's own.
        legacy: the era is known to be legacy.
        askers: what is known of the server's habit to ask back, over all its lives.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        children: Children,
        listener: Listener,
        *,
        settings: StdioSettings | None = None,
        trusted: bool = True,
        legacy: bool = False,
        askers: Askers | None = None,
    ) -> None:
        settings = settings or StdioSettings()
        super().__init__(
            definition,
            listener,
            start_timeout_s=settings.start_timeout_s,
            legacy=legacy,
            askers=askers,
            tasks_max=_TASKS_MAX,
        )
        self._children = children
        self._settings = settings
        self._walls = Walls(definition, children, settings.sandbox, trusted=trusted)
        self._running: Running | None = None
        self._child: Child | None = None
        self._pipes: LinePipes | None = None
        self._closing = False
        self._closed_at = 0.0

    @property
    def pid(self) -> int:
        """Process id of the child; 0 before it started."""
        return self._running.pid if self._running else 0

    @property
    def spoke(self) -> bool:
        """Whether anything readable ever came from the child."""
        return self.session.heard_at > 0

    def log_tail(self, lines: int = 20) -> list[str]:
        """Newest lines of the child's stderr."""
        return self._pipes.log.tail(lines) if self._pipes else []

    async def start(self) -> Offer:
        """See ``Upstream``."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._spawn()
                return await self._or_reason(self._shake())
        except TimeoutError:
            raise self._too_slow() from None

    def kill(self) -> None:
        """End the whole group at once; ``close`` must still follow."""
        self._closing = True
        self._end("was stopped")
        self._kill()

    async def close(self) -> None:
        """See ``Upstream``: stdin closed, then SIGTERM, then SIGKILL for the whole group."""
        self._closing = True
        self._end("was stopped")
        running, pipes = self._running, self._pipes
        if running is not None:
            try:
                if pipes is not None:
                    pipes.close_input()
                    # Who never spoke MCP does not know its shutdown either.
                    polite_s = EXIT_AFTER_EOF_S if self.handshake else 0.0
                    await asyncio.wait([running.exited], timeout=polite_s)
                self._kill(TERM_GRACE_S)
                await asyncio.wait([running.exited], timeout=TERM_GRACE_S + GONE_S)
            finally:
                self._kill()
        await self._tasks.close()
        if pipes is not None:
            pipes.close()

    async def _spawn(self) -> None:
        """Start the process and open its pipes."""
        definition = self._definition
        if not definition.command:
            raise self._error("has no command", Outcome.NOT_EXECUTED)
        child = await self._walls.spawn(
            (definition.command, *definition.args),
            declared=definition.env,
            cwd=definition.cwd,
            limits=self._settings.limits,
        )
        self._running = self._child = child
        child.exited.add_done_callback(lambda status: self._exited(status.result()))
        pipes = self._pipes = Pipes(
            child,
            definition.name,
            on_line=self.session.receive,
            on_too_long=self.session.receive_too_long,
            on_end=self._output_closed,
        )
        await pipes.open()

    def _kill(self, grace_s: float = 0.0) -> None:
        """End the whole process group, after SIGTERM and ``grace_s``; again does no harm."""
        if self._child is not None:
            self._children.kill(self._child, grace_s=grace_s)

    async def _or_reason(self, work: Awaitable[Offer]) -> Offer:
        """Await ``work``; when it fails because the child is ending, say how that ended."""
        try:
            return await work
        except MeshError as error:
            if self._closed_at:
                await asyncio.wait([self._ended], timeout=_EOF_TO_EXIT_S)
            if not self._ended.done():
                raise self._error(
                    f"failed to start: {error.message}", Outcome.NOT_EXECUTED
                ) from error
            hint = "" if self.spoke else " before it spoke MCP; is it an MCP server?"
            raise self._error(self._ended.result() + hint, Outcome.NOT_EXECUTED) from error

    async def _write(self, message: bytes, timeout_s: float) -> None:
        if self._pipes is None:
            raise self._error("is not connected", Outcome.NOT_EXECUTED)
        await self._pipes.write(message, min(timeout_s, WRITE_ROOM_S))

    def _write_now(self, message: bytes) -> None:
        if self._pipes is None or self._pipes.congested:
            raise self._error("does not read its input", Outcome.NOT_EXECUTED)
        self._pipes.write_now(message)

    def _broken(self, reason: str) -> None:
        """The child is of no use any more: fail what is in flight, end the group."""
        if not self._ended.done():
            self._end(reason)
        if not self._closing:
            self._kill(TERM_GRACE_S)

    def _output_closed(self) -> None:
        """No answer can come any more. Usually the child is exiting: let it say how."""
        self._closed_at = asyncio.get_running_loop().time()
        self.session.end(self._error("closed its output", Outcome.UNKNOWN))
        if not self._ended.done():
            asyncio.get_running_loop().call_later(_EOF_TO_EXIT_S, self._broken, "closed its output")

    def _exited(self, status: int) -> None:
        self._end(self._how(status))
        if self._pipes is not None:
            self._pipes.close()

    def _how(self, status: int) -> str:
        if self._child is not None and self._child.killed_for_memory:
            return f"was killed: its sandbox has {self._walls.memory_mb} MiB of memory"
        said = self.log_tail(1)
        if status == 1 and said and said[0].startswith("bwrap: "):
            return f"was not started in its sandbox ({said[0]})"
        return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


_EOF_TO_EXIT_S = 0.5
