"""A call as a durable task: made now, fetched later, from any gateway, also after a restart."""

import asyncio
from typing import Any

import msgspec

from mcp_proto.errors import ErrorKind, ErrorObject, Outcome
from mcp_proto.types.tasks import TERMINAL
from mesh_sdk.client.caller import Caller
from mesh_sdk.client.errors import MeshCallError, too_late
from mesh_sdk.client.inputs import Inputs, Question
from mesh_sdk.client.requests import Asked
from mesh_sdk.client.results import ToolResult, decoded, tool_result

__all__ = ["Task", "TaskStatus"]

WAIT_META = "mesh/wait"
"""Member of ``_meta`` of ``tasks/get``: answer once the task is another than ``since``."""
LONG_POLL_S = 20.0
POLL_MIN_S = 0.1
POLL_MAX_S = 5.0
_WORKING = "working"
_ASKS = "input_required"


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a task is.

    Attributes:
        status: ``working``, ``input_required``, ``completed``, ``failed`` or ``cancelled``.
        status_message: what it is doing, or why it ended.
        ttl_ms: kept so long from its creation; None = without limit.
        poll_interval_ms: how often to ask.
        result: of the call, once completed (``Task.result`` decodes it).
        error: the JSON-RPC error object, once failed.
        input_requests: what is asked, while ``input_required``.
    """

    task_id: str
    status: str
    status_message: str = ""
    created_at: str = ""
    last_updated_at: str = ""
    ttl_ms: int | None = None
    poll_interval_ms: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: ErrorObject | None = None
    input_requests: dict[str, msgspec.Raw] = {}

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in TERMINAL


class Task:
    """A handle. Made by ``Client.call_tool_as_task`` or, for an id from earlier, ``Client.task``.

    Attributes:
        id: unguessable; only its submitter can reach the task.
    """

    def __init__(self, task_id: str, caller: Caller, inputs: Inputs, *, timeout_s: float) -> None:
        self.id = task_id
        self._caller = caller
        self._inputs = inputs
        self._timeout_s = timeout_s
        self._answered: set[str] = set()
        self._done: ToolResult | None = None

    @classmethod
    def done(cls, result: ToolResult, caller: Caller, inputs: Inputs) -> "Task":
        """A call that a server answered at once instead of making a task of it."""
        made = cls("", caller, inputs, timeout_s=0.0)
        made._done = result
        return made

    async def status(self) -> TaskStatus:
        """Where it is now.

        Raises:
            MeshCallError: ``params`` for a task that is not (any more) the caller's.
        """
        if self._done is not None:
            raw = msgspec.Raw(self._done.raw)
            return TaskStatus(task_id="", status="completed", result=raw)
        return await self._get({})

    async def wait(self, timeout_s: float | None = None) -> TaskStatus:
        """Wait until it has ended; questions of the server go to the client's handlers.

        Args:
            timeout_s: longest wait; None = as long as it takes. The task goes on after it.

        Raises:
            MeshCallError: ``deadline`` when the wait is over; ``params`` for an unknown task;
                ``capability`` when it asks what nobody here answers.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ended()
        except TimeoutError:
            raise too_late(Outcome.UNKNOWN) from None

    async def result(self, timeout_s: float | None = None) -> ToolResult:
        """Wait for the result of the call.

        Raises:
            MeshCallError: as ``wait``; the call's own error when it failed; ``lost`` when it was
                cancelled.
        """
        if self._done is not None:
            return self._done
        status = await self.wait(timeout_s)
        if status.status == "completed":
            return tool_result(status.result)
        if status.error is not None:
            raise MeshCallError.of_answer(status.error)
        raise MeshCallError(
            ErrorKind.LOST,
            f"the task was {status.status}: {status.status_message}".rstrip(": "),
            outcome=Outcome.UNKNOWN,
        )

    async def cancel(self) -> None:
        """Ask for its end; it may still complete. Harmless when it has ended.

        Raises:
            MeshCallError: ``params`` for an unknown task.
        """
        if self._done is None:
            await self._caller.send("tasks/cancel", {"taskId": self.id}, self._asked({}))

    async def _ended(self) -> TaskStatus:
        known = await self.status()
        while not known.ended:
            if known.status == _ASKS and await self._answer(known):
                known = await self.status()
                continue
            began = asyncio.get_running_loop().time()
            wait = {"ms": int(LONG_POLL_S * 1000), "since": known.last_updated_at}
            latest = await self._get({WAIT_META: wait})
            took = asyncio.get_running_loop().time() - began
            if latest.status == known.status and took < POLL_MIN_S:
                # A server that does not wait for us.
                await asyncio.sleep(_pause_s(latest))
            known = latest
        return known

    async def _answer(self, status: TaskStatus) -> bool:
        """Answer what has not been answered; False when nothing is open."""
        open_ones = {
            key: raw for key, raw in status.input_requests.items() if key not in self._answered
        }
        if not open_ones:
            return False
        questions = decoded(msgspec.json.encode({"inputRequests": open_ones}), _Questions)
        answers: dict[str, Any] = await self._inputs.answers(questions.input_requests)
        params = {"taskId": self.id, "inputResponses": answers}
        await self._caller.send("tasks/update", params, self._asked({}))
        self._answered |= answers.keys()
        return True

    async def _get(self, meta: dict[str, Any]) -> TaskStatus:
        raw = await self._caller.send("tasks/get", {"taskId": self.id}, self._asked(meta))
        return decoded(raw, TaskStatus)

    def _asked(self, meta: dict[str, Any]) -> Asked:
        room = LONG_POLL_S if meta else 0.0
        return Asked(timeout_s=self._timeout_s + room, meta=meta, takes_tasks=True)


def _pause_s(status: TaskStatus) -> float:
    asked = (status.poll_interval_ms or 1_000) / 1000
    return min(POLL_MAX_S, max(POLL_MIN_S, asked))


class _Questions(msgspec.Struct, rename="camel"):
    input_requests: dict[str, Question]
