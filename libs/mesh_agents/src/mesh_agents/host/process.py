"""An agent as a child process: started, talked to, watched, ended.

The child may do anything: print garbage, go deaf, stop, die. Each of these ends in a bounded time,
with every attempt that it had told apart, and never in the host's own failure.
"""

import asyncio
import functools
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import msgspec

from mcp_proto.contracts.swarm import StepError, WorkItem, WorkProgress, WorkResult
from mcp_proto.errors import MeshError
from mesh_agents.contract import Json, Letter, StepFailedError
from mesh_agents.host.lines import TAIL_LINES, Lines
from mesh_agents.host.looks import is_stopped
from mesh_agents.host.told import hear_frame, run_frame
from mesh_agents.worker.frames import (
    Answered,
    Ask,
    Channel,
    Done,
    Failed,
    Heard,
    Init,
    Ping,
    Pong,
    Progress,
    Ready,
    Stop,
    ToHost,
    host_decoder,
)
from mesh_chassis.child_environment import child_environment
from mesh_chassis.children import Child, ChildLimits, Children
from mesh_chassis.tasks import Tasks, TasksFullError
from mesh_sdk.swarm.gateway import Gateway
from mesh_sdk.swarm.large_outputs import deliverable
from mesh_sdk.swarm.measuring import measured
from mesh_sdk.swarm.outcomes import result_of
from mesh_sdk.swarm.resident import BodyGoneError, Job, Measured

__all__ = ["NotStartedError", "ProcessBody"]

R = TypeVar("R")

CANCEL_S = 7.0
"""What a cancelled step may take: 5 s from SIGTERM to SIGKILL of its processes, and a margin."""
FROZEN_MAX_S = 300.0
"""How long a step of a stopped process may go on ignoring its cancel."""
ASKS_MAX = 64
"""Requests of one step under way at once."""
FRAMES_MAX = 20_000
"""Frames of one process in a second; an honest one says some thousand."""
UNREAD_MAX = 64 * 1024 * 1024
"""Bytes that a process has not read while it goes on talking."""
SILENT_S = 0.5
"""How long a process may live on without its socket."""
PROGRESS_GAP_S = 0.05
_GONE_S = 2.0

_log = logging.getLogger(__name__)


class NotStartedError(Exception):
    """The process did not become an agent; ``reason`` as in ``Spawned.refused``."""

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class _Running:
    __slots__ = ("asks", "ends", "future", "item", "progressed")

    def __init__(self, item: WorkItem, ends: float, future: "asyncio.Future[Done]") -> None:
        self.item = item
        self.ends = ends
        self.future = future
        self.asks: set[asyncio.Task[None]] = set()
        self.progressed = 0.0


class ProcessBody:
    """``Body`` of an agent that is a process of this host.

    Args:
        children: starts processes.
        tasks: parent of requests of steps.
        gateway: where steps' requests go.
        tenant: whose agent.
        progress: takes reports of steps.
    """

    def __init__(
        self,
        children: Children,
        tasks: Tasks,
        gateway: Gateway,
        tenant: str,
        progress: Callable[[WorkProgress], None],
    ) -> None:
        self.gone: Callable[[str, int], None] = lambda _reason, _status: None
        """Called once, when the process has ended, with the reason and the exit status."""
        self._children = children
        self._tasks = tasks
        self._gateway = gateway
        self._tenant = tenant
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(self._heard, self._silent)
        self._child: Child | None = None
        self._ready: asyncio.Future[Ready] = self._loop.create_future()
        self._running: dict[int, _Running] = {}
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._letters: dict[int, asyncio.Future[Heard]] = {}
        self._n = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._readers: list[asyncio.ReadTransport] = []
        self._broken = ""
        self._stopping = False
        self._second = 0.0
        self._frames = 0

    @property
    def pid(self) -> int | None:
        """See ``Body``."""
        return self._child.pid if self._child is not None else None

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self._child is None or self._child.exited.done()

    async def start(
        self,
        init: Init,
        *,
        limits: ChildLimits,
        env: Mapping[str, str],
        timeout_s: float,
        started: Callable[[int], None],
    ) -> Ready:
        """Start the process and wait until it is an agent.

        Args:
            init: what it shall be.
            limits: of the process.
            env: variables beside those that every child gets.
            timeout_s: longest start.
            started: called with its pid, before it does anything for others.

        Raises:
            NotStartedError: it did not; nothing of it is left.
        """
        near, far = socket.socketpair()
        try:
            child = await self._children.spawn(
                [sys.executable, "-I", "-m", "mesh_agents.worker"],
                env=child_environment(os.environ, {**_home(init.workdir), **env}),
                cwd=init.workdir,
                limits=limits,
                stdin=far.detach(),
            )
        except MeshError as error:
            near.close()
            raise NotStartedError(error.message) from error
        self._child = child
        child.exited.add_done_callback(self._ended)
        try:
            started(child.pid)
            await self._read_output(child)
            await self._loop.create_connection(lambda: self._channel, sock=near)
            self._channel.send(init)
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            await self.stop(0.0)
            raise NotStartedError(f"the agent was not ready within {timeout_s:g} s") from None
        except BaseException:
            self._children.kill(child)
            await asyncio.wait({child.exited}, timeout=_GONE_S)
            raise

    async def run(self, job: Job) -> WorkResult:
        """See ``Body``."""
        if self.ended:
            raise BodyGoneError("the agent's process has ended")
        self._n += 1
        n, item = self._n, job.item
        future: asyncio.Future[Done] = self._loop.create_future()
        running = self._running[n] = _Running(item, self._loop.time() + job.timeout_s, future)
        try:
            self._channel.send(run_frame(n, job))
            try:
                done = await asyncio.shield(future)
            except asyncio.CancelledError:
                done = await self._cancel(n, future)
                if done is None:
                    raise
        finally:
            del self._running[n]
            future.cancel()
            for task in running.asks:
                task.cancel()
        ended = result_of(item, done.ended)
        return await deliverable(self._gateway, self._tenant, item, ended)

    async def _cancel(self, n: int, future: "asyncio.Future[Done]") -> Done | None:
        """Have an attempt ended; what it became after all, None = nothing."""
        if not future.done():
            self._channel.send(Stop(n=n))
        waited = 0.0
        while not future.done() and waited < FROZEN_MAX_S:
            await asyncio.wait({future}, timeout=CANCEL_S)
            waited += CANCEL_S
            if not (self._child is not None and is_stopped(self._child.pid)):
                break
        if not future.done():
            self._break("the agent went on with a step that was cancelled")
            await asyncio.wait({future}, timeout=CANCEL_S)
        if not future.done() or future.exception() is not None:
            return None
        done = future.result()
        error = done.ended.error
        return None if error is not None and error.type == "cancelled" else done

    async def ping(self, timeout_s: float) -> bool:
        """See ``Body``."""
        self._n += 1
        future = self._pings[self._n] = self._loop.create_future()
        try:
            self._channel.send(Ping(n=self._n))
            async with asyncio.timeout(timeout_s):
                await future
        except (TimeoutError, BodyGoneError):
            return False
        finally:
            self._pings.pop(self._n, None)
        return True

    async def hear(self, letter: Letter, timeout_s: float) -> tuple[bool, Json]:
        """See ``Body``."""
        self._n += 1
        n = self._n
        future = self._letters[n] = self._loop.create_future()
        try:
            self._channel.send(hear_frame(n, letter))
            async with asyncio.timeout(timeout_s):
                heard = await future
        finally:
            self._letters.pop(n, None)
        if heard.error is not None:
            raise StepFailedError(heard.error.message, type=heard.error.type)
        raw = heard.reply
        reply = cast("Json", msgspec.json.decode(raw)) if memoryview(raw).nbytes else None
        return heard.taken, reply

    async def stop(self, grace_s: float) -> int | None:
        """See ``Body``: SIGTERM to its group, SIGKILL after ``grace_s`` to all it ever started."""
        child = self._child
        if child is None:
            return None
        self._stopping = True
        self._children.kill(child, grace_s=grace_s)
        await asyncio.wait({child.exited}, timeout=grace_s + _GONE_S)
        return child.exited.result() if child.exited.done() else None

    def measure(self) -> Measured:
        """See ``Body``."""
        return measured(self._child.pid) if self._child is not None else Measured()

    # From the process

    def _heard(self, data: bytes) -> None:
        if self._talks_too_much():
            self._break("the agent's process talks more than it can be heard")
            return
        try:
            frame = host_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._break(f"the agent's process talks nonsense: {error}")
            return
        self._told(frame)

    def _told(self, frame: ToHost) -> None:
        match frame:
            case Done():
                running = self._running.get(frame.n)
                if running is not None and not running.future.done():
                    running.future.set_result(frame)
            case Pong():
                _resolve(self._pings.get(frame.n), None)
            case Ask():
                self._ask(frame)
            case Progress():
                self._report(frame)
            case Heard():
                _resolve(self._letters.get(frame.n), frame)
            case Ready():
                _resolve(self._ready, frame)
            case Failed():
                _fail(self._ready, NotStartedError(frame.message, frame.reason))

    def _talks_too_much(self) -> bool:
        """Whether it floods its host, or does not read what it is told."""
        now = self._loop.time()
        if now - self._second > 1.0:
            self._second, self._frames = now, 0
        self._frames += 1
        return self._frames > FRAMES_MAX or self._channel.unsent > UNREAD_MAX

    def _ask(self, ask: Ask) -> None:
        running = self._running.get(ask.n)
        if running is None:
            return  # the attempt is over
        if len(running.asks) >= ASKS_MAX:
            text = f"at most {ASKS_MAX} requests at once"
            self._refuse(ask, StepFailedError(text, type="limit", outcome="not_executed"))
            return
        try:
            task = self._tasks.spawn(self._forward(running, ask), name="step-request")
        except TasksFullError:
            text = "the host is busy"
            self._refuse(ask, StepFailedError(text, type="limit", outcome="not_executed"))
            return
        running.asks.add(task)
        task.add_done_callback(running.asks.discard)

    def _refuse(self, ask: Ask, error: StepFailedError) -> None:
        why = StepError(
            type=error.type,
            message=error.message,
            retryable=error.retryable,
            outcome=error.outcome,
        )
        self._channel.send(Answered(call=ask.call, error=why))

    async def _forward(self, running: _Running, ask: Ask) -> None:
        left_s = max(0.001, running.ends - self._loop.time())
        try:
            result = await self._gateway.request(
                self._tenant,
                running.item,
                ask.method,
                ask.params,
                timeout_s=left_s,
                questions=ask.questions,
                progress=functools.partial(self._heard_of, ask.n) if ask.questions else None,
            )
        except StepFailedError as error:
            self._refuse(ask, error)
            return
        try:
            self._channel.send(Answered(call=ask.call, result=result))
        except ValueError as error:
            self._refuse(ask, StepFailedError(str(error), type="limit", retryable=False))

    def _heard_of(self, n: int, progress: float, total: float | None, message: str) -> None:
        """The one tool of an attempt has told how far it is."""
        self._report(Progress(n=n, progress=progress, total=total, message=message))

    def _report(self, frame: Progress) -> None:
        running = self._running.get(frame.n)
        now = self._loop.time()
        if running is None or now - running.progressed < PROGRESS_GAP_S:
            return
        running.progressed = now
        self._progress(
            WorkProgress(
                agent=running.item.agent,
                item=running.item.item,
                progress=frame.progress,
                total=frame.total,
                message=frame.message[:1_000],
            )
        )

    # Its end

    def _break(self, reason: str) -> None:
        """Kill a process that cannot be worked with."""
        self._broken = self._broken or reason
        if self._child is not None:
            self._children.kill(self._child)

    def _silent(self, reason: str) -> None:
        """The socket ended. Its process should follow; else nothing can be known of it any more."""
        text = f"the agent closed its socket{f': {reason}' if reason else ''}"
        self._loop.call_later(SILENT_S, self._outlived, text)

    def _outlived(self, reason: str) -> None:
        if not self.ended and not self._stopping:
            self._break(reason)

    def _ended(self, exited: "asyncio.Future[int]") -> None:
        status = exited.result()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        reason = self._broken or f"the agent's process ended {how}"
        self._channel.end()
        _fail(self._ready, NotStartedError(self._said(reason)))
        for running in self._running.values():
            _fail(running.future, BodyGoneError(reason))
        for ping in self._pings.values():
            _fail(ping, BodyGoneError(reason))
        for letter in self._letters.values():
            _fail(letter, BodyGoneError(reason))
        for reader in self._readers:
            reader.close()
        if self._tail and status:
            _log.info("%s; it said: %s", reason, " | ".join(self._tail))
        self.gone(reason, status)

    def _said(self, reason: str) -> str:
        last = self._tail[-1] if self._tail else ""
        return f"{reason}: {last[:500]}" if last else reason

    async def _read_output(self, child: Child) -> None:
        """Its printed lines: read always, so that it never waits; the last are kept."""
        for descriptor in (child.stdout, child.stderr):
            file = os.fdopen(descriptor, "rb", 0)
            transport, _ = await self._loop.connect_read_pipe(lambda: Lines(self._tail), file)
            self._readers.append(transport)


def _home(workdir: str) -> dict[str, str]:
    return {"HOME": workdir, "TMPDIR": workdir}


def _resolve(future: "asyncio.Future[R] | None", value: R) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[R]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever waited may have gone
