"""A call of ours that the server turned into a task of its own: follow that task to its end.

Only servers of the modern era do this here, and only when the submitter declared that it takes
tasks (MCP, tasks extension). Their status becomes ours, their questions become ours, and their
result is the result of the call.
"""

import asyncio

import msgspec

from mcp_proto import subjects
from mcp_proto.codec import encode
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION, TASKS_EXTENSION
from mcp_proto.versions import MODERN
from tool_runner.tasks.execution import Execution, ServerError, WaitsError

__all__ = ["cancel_upstream", "follow"]

POLL_MIN_S = 0.1
POLL_MAX_S = 5.0
ASK_S = 10.0
FAILURES_MAX = 5
"""Polls in a row that found nobody before the task counts as lost."""


class _Task(msgspec.Struct, frozen=True, rename="camel"):
    status: str
    poll_interval_ms: int | None = None
    status_message: str | None = None
    result: msgspec.Raw = ABSENT
    error: ErrorObject | None = None
    input_requests: dict[str, msgspec.Raw] = {}


_TASK = msgspec.json.Decoder(_Task)
_META = encode(
    {
        PROTOCOL_VERSION: MODERN.value,
        CLIENT_CAPABILITIES: {"extensions": {TASKS_EXTENSION: {}}},
    }
)


def _params(task_id: str, **members: bytes) -> bytes:
    head = b'{"taskId":%b,"_meta":%b' % (encode(task_id), _META)
    return head + b"".join(b',"%b":%b' % (k.encode(), v) for k, v in members.items()) + b"}"


async def _ask(execution: Execution, method: str, task_id: str, **members: bytes) -> bytes:
    record = execution.record
    subject = subjects.rpc(record.tenant, record.server, method)
    return await execution.ask(subject, method, _params(task_id, **members), ASK_S, name=task_id)


async def follow(execution: Execution, task_id: str, answers: dict[str, msgspec.Raw]) -> bytes:
    """Wait for the end of the server's task.

    Args:
        execution: of the call that it came from.
        task_id: the server's id.
        answers: to what it asked before; passed on first.

    Returns:
        The result of the call.

    Raises:
        ServerError: the task failed.
        WaitsError: it asks for input, and so does ours now.
        MeshError: the server cannot be asked any more.
    """
    try:
        if answers:
            body = b",".join(encode(key) + b":" + bytes(raw) for key, raw in answers.items())
            await _ask(execution, "tasks/update", task_id, inputResponses=b"{%b}" % body)
        return await _follow(execution, task_id, frozenset(answers))
    except asyncio.CancelledError:
        await cancel_upstream(execution, task_id)
        raise


async def _follow(execution: Execution, task_id: str, answered: frozenset[str]) -> bytes:
    failures = 0
    while True:
        try:
            task = _TASK.decode(await _ask(execution, "tasks/get", task_id))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _lost("gave an unusable answer about its task") from None
        except MeshError as error:
            failures += 1
            if failures >= FAILURES_MAX:
                raise _lost(f"does not answer about its task: {error.message}") from error
            await asyncio.sleep(1.0)
            continue
        failures = 0
        if task.status == "completed":
            return bytes(task.result)
        if task.status == "failed":
            raise ServerError(task.error or ErrorObject(code=-32603, message="the task failed"))
        if task.status == "cancelled":
            raise _lost("cancelled its task")
        # It may show for a moment more what it has an answer to.
        asked = {key: raw for key, raw in task.input_requests.items() if key not in answered}
        if task.status == "input_required" and asked:
            await _ask_submitter(execution, task_id, asked)
            raise WaitsError
        if task.status_message:
            execution.note(task.status_message)
        pause_s = (task.poll_interval_ms or 1000) / 1000
        await asyncio.sleep(min(max(pause_s, POLL_MIN_S), POLL_MAX_S))


async def _ask_submitter(execution: Execution, task_id: str, asked: dict[str, msgspec.Raw]) -> None:
    try:
        await execution.wait(asked, ABSENT, upstream_task=task_id)
    except MeshError:
        # It asks what nobody can answer, so it would wait for ever.
        await cancel_upstream(execution, task_id)
        raise


async def cancel_upstream(execution: Execution, task_id: str) -> None:
    """Tell the server that nobody waits for its task; it may be gone already."""
    try:
        async with asyncio.timeout(ASK_S):
            await _ask(execution, "tasks/cancel", task_id)
    except (MeshError, ServerError, TimeoutError):
        return


def _lost(what: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, f"the server {what}", outcome=Outcome.UNKNOWN)
