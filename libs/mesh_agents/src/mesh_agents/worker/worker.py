"""What runs in an agent's process: steps of one agent, told by its host over one socket.

Coroutines run in this loop, plain functions in forked processes. Pings are answered by the loop,
so an agent whose code blocks it is seen as frozen.
"""

import asyncio
import contextlib
import functools
import inspect
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import msgspec

from mcp_proto.contracts.swarm import StepError
from mesh_agents.contract import (
    AgentType,
    Json,
    Letter,
    StepFailedError,
    StepInput,
    StepKind,
    ToolAnswer,
)
from mesh_agents.runtimes.loading import LoadError, load
from mesh_agents.worker.answers import ask_tool, read_answer
from mesh_agents.worker.forked import Children
from mesh_agents.worker.frames import (
    Answered,
    Ask,
    Channel,
    Done,
    Failed,
    Hear,
    Heard,
    Init,
    Ping,
    Pong,
    Progress,
    Ready,
    Run,
    Stop,
    worker_decoder,
)
from mesh_sdk.swarm.callables import is_async
from mesh_sdk.swarm.outcomes import Ended, ended_by, ended_with

__all__ = ["AskingTools", "Worker"]

STOP_S = 3.0
"""What a cancelled step may still take when the whole agent is told to end."""
REPORT_GAP_S = 0.1
_encode = msgspec.json.Encoder().encode


class Worker:
    """One agent.

    Args:
        sock: the host's other end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(self._heard, self._lost)
        self._children = Children(self._loop)
        self._ending = asyncio.Event()
        self._type: AgentType | None = None
        self._init: Init | None = None
        self._steps: dict[int, asyncio.Task[None]] = {}
        self._letters: set[asyncio.Task[None]] = set()
        self._forked: dict[int, Callable[[Answered], None]] = {}
        self._asked: dict[int, tuple[Callable[[Answered], None], int]] = {}
        self._calls = 0

    async def run(self) -> int:
        """Live until told to end; the exit status."""
        self._loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        await self._loop.create_connection(lambda: self._channel, sock=self._sock)
        await self._ending.wait()
        tasks = {*self._steps.values(), *self._letters}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_S)
        self._children.kill()
        self._channel.finish()
        await asyncio.sleep(0)
        return 0

    # Of the host

    def _heard(self, data: bytes) -> None:
        frame = worker_decoder.decode(data)
        match frame:
            case Run():
                task = self._loop.create_task(self._step(frame))
                self._steps[frame.n] = task
                task.add_done_callback(functools.partial(self._gone, frame.n))
            case Stop():
                if (running := self._steps.get(frame.n)) is not None:
                    running.cancel()
            case Ping():
                self._channel.send(Pong(n=frame.n))
            case Answered():
                self._answered(frame)
            case Hear():
                letter = self._loop.create_task(self._letter(frame))
                self._letters.add(letter)
                letter.add_done_callback(self._letters.discard)
            case Init():
                self._begin(frame)

    def _gone(self, n: int, task: "asyncio.Task[None]") -> None:
        del self._steps[n]
        if task.cancelled():
            # Cancelled before its first turn: nothing ran.
            error = StepError(
                type="cancelled", message="the attempt was cancelled", retryable=False,
                outcome="not_executed",
            )  # fmt: skip
            self._channel.send(Done(n=n, ended=Ended(status="error", error=error)))

    def _lost(self, reason: str) -> None:
        del reason
        self._ending.set()

    def _begin(self, init: Init) -> None:
        try:
            loaded = load(init)
        except LoadError as error:
            self._channel.send(Failed(message=error.message, reason=error.reason))
            self._ending.set()
            return
        except Exception as error:  # noqa: BLE001 - whatever the code of a user raises on import
            self._channel.send(Failed(message=f"{type(error).__name__}: {error}"[:2_000]))
            self._ending.set()
            return
        self._init = init
        self._type = kind = loaded.type
        self._channel.send(
            Ready(
                capabilities=kind.capabilities, slots=kind.slots, model_source=loaded.model_source
            )
        )

    # Steps

    async def _step(self, run: Run) -> None:
        kind, init = self._type, self._init
        assert kind is not None
        assert init is not None
        tools = AskingTools(run.n, self.ask)
        try:
            result = await self._done(run, kind, init, tools)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its outcome
            result = Done(n=run.n, ended=ended_by(error, tool_calls=tools.calls))
        try:
            self._channel.send(result)
        except ValueError as error:  # too long all in all, or a text that is not Unicode
            why = StepFailedError(str(error), type="output", retryable=False)
            self._channel.send(Done(n=run.n, ended=ended_by(why)))

    async def _done(self, run: Run, kind: AgentType, init: Init, tools: "AskingTools") -> Done:
        if run.kind not in kind.kinds:
            message = f"a {kind.name} agent does not take steps of kind {run.kind}"
            error = StepError(type="rejected", message=message, outcome="not_executed")
            return Done(n=run.n, ended=Ended(status="rejected", error=error))
        folder = Path(init.workdir) / str(run.n)
        folder.mkdir()
        try:
            step = _input(run, init, str(folder))
            if not is_async(kind.run):
                return await self._fork(run, kind, step)
            reporter = _Reporter(run.n, self._channel.send, self._loop)
            step = msgspec.structs.replace(step, tools=tools, reported=reporter.report)
            made = kind.run(step)
            value = await made if inspect.isawaitable(made) else made
            return Done(n=run.n, ended=ended_with(value, tool_calls=tools.calls))
        finally:
            try:
                folder.rmdir()  # empty as a rule, and a tenth of the price
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)

    async def _fork(self, run: Run, kind: AgentType, step: StepInput) -> Done:
        def work(tools: object, report: object) -> object:
            os.chdir(step.workdir)
            return kind.run(msgspec.structs.replace(step, tools=tools, reported=report))

        def ask(asked: Ask) -> None:
            def back(answered: Answered) -> None:
                if (send := self._forked.get(run.n)) is not None:
                    send(msgspec.structs.replace(answered, call=asked.call))

            self.ask(run.n, asked, back)

        def answers(send: Callable[[Answered], None]) -> None:
            self._forked[run.n] = send

        try:
            return await self._children.run(
                run.n, work, ask=ask, progress=self._channel.send, answers=answers
            )
        finally:
            self._forked.pop(run.n, None)
            self.forget(run.n)

    # Requests of steps

    def ask(self, n: int, asked: Ask, back: Callable[[Answered], None]) -> None:
        """Have the host make an MCP request for an attempt."""
        self._calls += 1
        self._asked[self._calls] = (back, n)
        self._channel.send(msgspec.structs.replace(asked, n=n, call=self._calls))

    def forget(self, n: int) -> None:
        """Nobody waits any more for the answers of an attempt."""
        for call in [call for call, (_, whose) in self._asked.items() if whose == n]:
            del self._asked[call]

    def _answered(self, answered: Answered) -> None:
        found = self._asked.pop(answered.call, None)
        if found is not None:
            found[0](answered)

    # Letters

    async def _letter(self, hear: Hear) -> None:
        kind = self._type
        if kind is None or kind.hear is None:
            self._channel.send(Heard(n=hear.n, taken=False))
            return
        try:
            made = kind.hear(_letter_of(hear))
            reply = await made if inspect.isawaitable(made) else made
            heard = Heard(n=hear.n, taken=True, reply=msgspec.Raw(_encode(reply)))
        except Exception as error:  # noqa: BLE001 - whatever the agent raises, the sender is told
            why = ended_by(error).error
            heard = Heard(n=hear.n, taken=True, error=why)
        with contextlib.suppress(ValueError):
            self._channel.send(heard)


class AskingTools:
    """``Tools`` of a coroutine step."""

    def __init__(
        self,
        n: int,
        ask: Callable[[int, Ask, Callable[[Answered], None]], None],
    ) -> None:
        self.calls = 0
        self._n = n
        self._ask = ask

    async def call(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        """See ``Tools``."""
        return read_answer(await self.request(ask_tool(name, arguments)))

    def call_blocking(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        """See ``Tools``; a coroutine must not block."""
        raise StepFailedError(
            "a coroutine calls tools with await step.call_tool(…)",
            type="tool", retryable=False, outcome="not_executed",
        )  # fmt: skip

    async def request(self, asked: Ask) -> Answered:
        """Make a request and wait for its answer."""
        if asked.method == "tools/call":
            self.calls += 1
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()

        def back(answered: Answered) -> None:
            if not future.done():
                future.set_result(answered)

        self._ask(self._n, asked, back)
        return await future


class _Reporter:
    """Reports of a coroutine step: the newest, ten times a second at the most."""

    def __init__(
        self, n: int, send: Callable[[Progress], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._n = n
        self._send = send
        self._loop = loop
        self._newest: Progress | None = None
        self._sent_at = float("-inf")

    def report(self, progress: float, total: float | None, message: str) -> None:
        frame = Progress(n=self._n, progress=progress, total=total, message=message)
        wait_s = self._sent_at + REPORT_GAP_S - self._loop.time()
        if wait_s <= 0:
            self._sent_at = self._loop.time()
            self._send(frame)
            return
        if self._newest is None:
            self._loop.call_later(wait_s, self._late)
        self._newest = frame

    def _late(self) -> None:
        newest, self._newest = self._newest, None
        if newest is not None:
            self._sent_at = self._loop.time()
            self._send(newest)


def _input(run: Run, init: Init, workdir: str) -> StepInput:
    return StepInput(
        kind=cast("StepKind", run.kind),
        payload=_object(run.payload),
        workdir=workdir,
        config=_object(init.config),
        agent=init.agent,
        task=run.task,
        step=run.step,
        attempt=run.attempt,
        idempotency=run.idempotency,
        timeout_s=run.timeout_s,
        answers={key: msgspec.json.decode(one) for key, one in run.answers.items()},
        state=msgspec.json.decode(run.state) if memoryview(run.state).nbytes else None,
    )


def _letter_of(hear: Hear) -> Letter:
    params: Json = msgspec.json.decode(hear.params) if memoryview(hear.params).nbytes else None
    return Letter(
        id=hear.id,
        sender=hear.sender,
        type=hear.type,
        action=hear.action,
        params=params,
        expect_reply=hear.expect_reply,
    )


def _object(raw: msgspec.Raw) -> dict[str, Json]:
    value: object = msgspec.json.decode(raw) if memoryview(raw).nbytes else {}
    if not isinstance(value, dict):
        raise StepFailedError(
            "the payload is no JSON object", type="input", retryable=False, outcome="not_executed"
        )
    return cast("dict[str, Json]", value)
