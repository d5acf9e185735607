"""Steps as functions of this very program: coroutines in its loop, plain functions in threads.

Python cannot end a thread: a cancelled plain function runs on unheard, and keeps its slot until
it returns. Agents whose steps must be killed are those of an agent host.
"""

import asyncio
import contextlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import msgspec

from mcp_proto.contracts.swarm import StepError, WorkItem, WorkProgress, WorkResult
from mesh_sdk.swarm.callables import Function, Hear, Run, is_async
from mesh_sdk.swarm.gateway import Gateway
from mesh_sdk.swarm.large_outputs import deliverable
from mesh_sdk.swarm.measuring import measured
from mesh_sdk.swarm.outcomes import Ended, ended_by, ended_with, result_of
from mesh_sdk.swarm.resident import Job, Measured
from mesh_sdk.swarm.steps import Json, Letter, StepFailedError, StepInput, ToolAnswer
from mesh_sdk.swarm.tool_answers import read_result, tool_params

__all__ = ["FunctionBody"]

REPORT_GAP_S = 0.1


class FunctionBody:
    """``Body`` whose steps are functions.

    Args:
        functions: by kind of step; "" = of every other kind.
        hear: gets letters; None = they are undeliverable.
        tenant: of the swarm.
        gateway: for tool calls.
        progress: takes reports.
        threads: plain functions at once.
    """

    def __init__(
        self,
        functions: Mapping[str, Run],
        hear: Hear | None,
        *,
        tenant: str,
        gateway: Gateway,
        progress: Callable[[WorkProgress], None],
        threads: int,
    ) -> None:
        self._functions = functions
        self._hear = hear
        self._tenant = tenant
        self._gateway = gateway
        self._progress = progress
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="swarm-step")
        self._loop = asyncio.get_running_loop()

    @property
    def pid(self) -> int:
        """See ``Body``."""
        return os.getpid()

    async def run(self, job: Job) -> WorkResult:
        """See ``Body``."""
        item = job.item
        function = self._functions.get(item.kind) or self._functions.get("")
        if function is None:
            message = f"this agent does not take steps of kind {item.kind}"
            error = StepError(type="rejected", message=message, outcome="not_executed")
            return result_of(item, Ended(status="rejected", error=error))
        folder = tempfile.mkdtemp(prefix="mesh-step-")
        tools = _Tools(self._gateway, self._tenant, item, self._loop, job.timeout_s)
        reporter = _Reporter(item, self._progress, self._loop)
        try:
            step = _step(job, folder, tools, reporter)
            value = await self._call(function, step)
            ended = result_of(item, ended_with(value, tool_calls=tools.calls))
            return await deliverable(self._gateway, self._tenant, item, ended)
        except Exception as error:  # noqa: BLE001 - whatever a step raises is its outcome
            return result_of(item, ended_by(error, tool_calls=tools.calls))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def ping(self, timeout_s: float) -> bool:
        """See ``Body``: whoever runs this reacts."""
        del timeout_s
        return True

    async def hear(self, letter: Letter, timeout_s: float) -> tuple[bool, Json]:
        """See ``Body``."""
        if self._hear is None:
            return False, None
        async with asyncio.timeout(timeout_s):
            try:
                return True, cast("Json", await self._call(self._hear, letter))
            except TimeoutError:
                raise
            except Exception as error:
                why = ended_by(error).error
                raise StepFailedError(why.message if why else "failed") from error

    async def stop(self, grace_s: float) -> int | None:
        """See ``Body``; the process is the program's own and stays."""
        del grace_s
        self._pool.shutdown(wait=False, cancel_futures=True)
        return None

    def measure(self) -> Measured:
        """See ``Body``."""
        return measured(os.getpid())

    async def _call(self, function: Function, given: object) -> object:
        if is_async(function):
            made = function(given)
        else:
            made = await self._loop.run_in_executor(self._pool, function, given)
        return await made if inspect.isawaitable(made) else made


class _Tools:
    """``Tools`` of one step."""

    def __init__(
        self,
        gateway: Gateway,
        tenant: str,
        item: WorkItem,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
    ) -> None:
        self.calls = 0
        self._gateway = gateway
        self._tenant = tenant
        self._item = item
        self._loop = loop
        self._ends = loop.time() + timeout_s

    async def call(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        self.calls += 1
        raw = await self._gateway.request(
            self._tenant,
            self._item,
            "tools/call",
            tool_params(name, arguments),
            timeout_s=max(0.001, self._ends - self._loop.time()),
        )
        return read_result(raw)

    def call_blocking(self, name: str, arguments: Mapping[str, Json]) -> ToolAnswer:
        return asyncio.run_coroutine_threadsafe(self.call(name, arguments), self._loop).result()


class _Reporter:
    def __init__(
        self,
        item: WorkItem,
        progress: Callable[[WorkProgress], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._item = item
        self._progress = progress
        self._loop = loop
        self._next = 0.0

    def report(self, progress: float, total: float | None, message: str) -> None:
        now = self._loop.time()
        if now < self._next and progress != total:
            return
        self._next = now + REPORT_GAP_S
        item = self._item
        said = WorkProgress(
            agent=item.agent, item=item.item, progress=progress, total=total,
            message=message[:1_000],
        )  # fmt: skip
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._progress, said)


def _step(job: Job, folder: str, tools: _Tools, reporter: _Reporter) -> StepInput:
    item = job.item
    payload: object = msgspec.json.decode(item.payload)
    if not isinstance(payload, dict):
        raise StepFailedError(
            "the payload is no JSON object",
            type="input", retryable=False, outcome="not_executed",
        )  # fmt: skip
    return StepInput(
        kind=item.kind,
        payload=cast("dict[str, Json]", payload),
        workdir=folder,
        agent=item.agent,
        task=item.task,
        step=item.step,
        attempt=item.attempt,
        idempotency=item.idempotency,
        timeout_s=job.timeout_s,
        answers={key: msgspec.json.decode(one) for key, one in job.answers.items()},
        state=msgspec.json.decode(job.state) if memoryview(job.state).nbytes else None,
        tools=tools,
        reported=reporter.report,
    )
