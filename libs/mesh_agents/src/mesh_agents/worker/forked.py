"""A plain function as a process of its own, forked from the agent's for one step.

It may block, use a core and start programs without delaying anybody; a cancel ends its whole
process group, and its death ends the step only. Forking a small process costs a few milliseconds.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import msgspec

from mcp_proto.contracts.swarm import StepError
from mesh_agents.contract import Json, Report, ToolAnswer, Tools
from mesh_agents.worker.answers import ask_tool, read_answer
from mesh_agents.worker.frames import (
    Answered,
    Ask,
    Channel,
    Done,
    Progress,
    host_decoder,
    pack,
    unpack,
    worker_decoder,
)
from mesh_sdk.swarm.outcomes import Ended, ended_by, ended_with

__all__ = ["Children", "Work"]

TERM_S = 5.0
"""Between SIGTERM and SIGKILL of a cancelled step."""
REST_S = 1.0
"""How long the last bytes of an ended process may take."""
REPORT_GAP_S = 0.1
_PR_SET_PDEATHSIG = 1
_EXIT_BROKEN = 70
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

Work = Callable[[Tools, Report], object]
"""The step: gets its tools and its reporter, gives the value of ``run``."""


class Children:
    """Forked steps of one agent; notices their ends by SIGCHLD."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended: dict[int, asyncio.Future[tuple[int, float]]] = {}
        loop.add_signal_handler(signal.SIGCHLD, self._look)

    async def run(
        self,
        n: int,
        work: Work,
        *,
        ask: Callable[[Ask], None],
        progress: Callable[[Progress], None],
        answers: Callable[[Callable[[Answered], None]], None],
        grace_s: float = TERM_S,
    ) -> Done:
        """Do a step; when cancelled, return only once its process group is gone.

        Args:
            n: number of the attempt.
            work: the step; called in the new process.
            ask: takes requests of the step.
            progress: takes its reports.
            answers: is given what takes the answers to its requests.
            grace_s: between SIGTERM and SIGKILL.
        """
        near, far = socket.socketpair()
        pid = _fork(n, work, far)
        far.close()
        ended: asyncio.Future[tuple[int, float]] = self._loop.create_future()
        self._ended[pid] = ended
        inbox = _Inbox(ask, progress)
        channel = Channel(inbox.take, inbox.close)
        try:
            await self._loop.create_connection(lambda: channel, sock=near)
            answers(channel.send)
            self._look()
            await asyncio.shield(ended)
        except BaseException:
            await _end(pid, ended, grace_s)
            raise
        finally:
            if not ended.done():
                _signal(pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REST_S):
                    await inbox.over.wait()
            channel.end()
        status, cpu_ms = ended.result()
        return _outcome(n, inbox, status, cpu_ms)

    def kill(self) -> None:
        """End every forked step at once."""
        for pid in self._ended:
            _signal(pid, signal.SIGKILL)

    def _look(self) -> None:
        for pid, ended in list(self._ended.items()):
            try:
                found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                found = None
            if found is None:
                continue
            # What it left goes with it, while its zombie still keeps the number of the group.
            _signal(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
            del self._ended[pid]
            cpu_ms = round((used.ru_utime + used.ru_stime) * 1000, 3)
            if not ended.done():
                ended.set_result((os.waitstatus_to_exitcode(status), cpu_ms))


class _Inbox:
    """What a forked step says."""

    def __init__(self, ask: Callable[[Ask], None], progress: Callable[[Progress], None]) -> None:
        self.done: Done | None = None
        self.asked = 0
        self.over = asyncio.Event()
        self._ask = ask
        self._progress = progress

    def take(self, data: bytes) -> None:
        try:
            frame = host_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # the code of the step wrote into what it was not given
        if isinstance(frame, Ask):
            self.asked += 1
            self._ask(frame)
        elif isinstance(frame, Progress):
            self._progress(frame)
        elif isinstance(frame, Done) and self.done is None:
            self.done = frame

    def close(self, reason: str) -> None:
        del reason
        self.over.set()


def _outcome(n: int, inbox: _Inbox, status: int, cpu_ms: float) -> Done:
    found = inbox.done.ended if inbox.done is not None else None
    if found is None:
        how = f"by {_name(-status)}" if status < 0 else f"with status {status}"
        error = StepError(
            type="crash", message=f"the process of the step ended {how}", outcome="unknown"
        )
        found = Ended(status="error", error=error)
    usage = msgspec.structs.replace(
        found.usage, cpu_ms=cpu_ms, tool_calls=inbox.asked or found.usage.tool_calls
    )
    return Done(n=n, ended=msgspec.structs.replace(found, usage=usage))


async def _end(pid: int, ended: "asyncio.Future[tuple[int, float]]", grace_s: float) -> None:
    _signal(pid, signal.SIGTERM)
    await asyncio.wait({ended}, timeout=grace_s)
    if not ended.done():
        _signal(pid, signal.SIGKILL)
        await asyncio.wait({ended}, timeout=grace_s)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(group, number)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# In the forked process


def _fork(n: int, work: Work, far: socket.socket) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # Until it has cut its ties, a signal to the new process would wake the loop of this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _live(n, work, far, parent)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # both sides: whoever is first
    return pid


def _live(n: int, work: Work, far: socket.socket, parent: int) -> NoReturn:
    status = _EXIT_BROKEN
    try:
        _settle(far, parent)
        talk = _Talk(n, far)
        try:
            result = ended_with(work(talk, talk.report), tool_calls=talk.calls)
        except BaseException as error:  # noqa: BLE001 - whatever the step raises is its outcome
            result = ended_by(error, tool_calls=talk.calls)
        try:
            data = pack(Done(n=n, ended=result))
        except ValueError as error:  # a text that is not Unicode
            data = pack(Done(n=n, ended=ended_by(error)))
        far.sendall(data)
        status = 0
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _settle(far: socket.socket, parent: int) -> None:
    """Cut the ties to the agent's loop, signals and descriptors."""
    gc.freeze()  # what belongs to the parent is never collected, and so never closed, here
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(_EXIT_BROKEN)
    asyncio._set_running_loop(None)  # noqa: SLF001 - the step may have a loop of its own
    keep = far.fileno()
    top = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.closerange(3, keep)
    os.closerange(keep + 1, min(top, 65_536))


class _Talk:
    """``Tools`` and the reporter of a forked step; threads of the step take turns."""

    def __init__(self, n: int, far: socket.socket) -> None:
        self.calls = 0
        self._n = n
        self._far = far
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._reported = 0.0

    async def call(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        return await asyncio.to_thread(self.call_blocking, name, arguments)

    def call_blocking(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        with self._lock:
            self.calls += 1
            self._far.sendall(pack(ask_tool(name, arguments, n=self._n, call=self.calls)))
            while True:
                for data in unpack(self._buffer):
                    frame = worker_decoder.decode(data)
                    if isinstance(frame, Answered) and frame.call == self.calls:
                        return read_answer(frame)
                more = self._far.recv(65_536)
                if not more:
                    os._exit(_EXIT_BROKEN)  # the agent is gone
                self._buffer += more

    def report(self, progress: float, total: float | None, message: str) -> None:
        now = time.monotonic()
        if now - self._reported < REPORT_GAP_S and progress != total:
            return
        self._reported = now
        frame = Progress(n=self._n, progress=progress, total=total, message=message)
        with self._lock:
            self._far.sendall(pack(frame))
