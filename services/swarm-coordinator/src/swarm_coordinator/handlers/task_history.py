"""Tasks that the state has forgotten, from their records: how they ended and what they brought."""

import msgspec

from swarm_coordinator.handlers.finding import no_task
from swarm_coordinator.handlers.ports import Owner
from swarm_coordinator.handlers.task_records import TASK_CODE

__all__ = ["Kept", "kept"]

_STATUSES = {"working": "running", "input_required": "waiting"}


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A task as its record tells it; times are Unix ms.

    ``error`` is what ``task_result`` answers where there is no result; None = ``result`` holds.
    """

    id: str
    swarm: str
    status: str
    message: str
    created_ms: int
    updated_ms: int
    result: msgspec.Raw | None
    partial: bool
    failures: list[dict[str, object]]
    votes: dict[str, object]
    error: dict[str, object] | None


class _Error(msgspec.Struct, frozen=True):
    reason: str = ""
    failures: list[dict[str, object]] = []
    votes: dict[str, object] = {}


class _Structured(msgspec.Struct, frozen=True):
    result: msgspec.Raw = msgspec.Raw(b"null")
    partial: bool = False
    failures: list[dict[str, object]] = []
    votes: dict[str, object] = {}
    error: _Error = _Error()


class _CallResult(msgspec.Struct, frozen=True, rename="camel"):
    structured_content: _Structured = _Structured()


_CALL_RESULT = msgspec.json.Decoder(_CallResult)


async def kept(owner: Owner, principal: str, task: str) -> Kept:
    """What is kept of a task of this swarm.

    Raises:
        Refusal: ``swarm not_found``.
    """
    record = await owner.task_record(principal, task)
    if record is None or record.upstream != owner.state.swarm:
        raise no_task(owner.state, task)
    said = _Structured()
    if memoryview(record.result).nbytes:
        said = _CALL_RESULT.decode(record.result).structured_content
    status = "failed" if record.is_error else _STATUSES.get(record.status, record.status)
    error: dict[str, object] | None = None
    if status != "completed":
        error = {
            "code": TASK_CODE,
            "reason": said.error.reason or status,
            "message": record.message or f"the task was {status}",
            "retryable": False,
            "outcome": "executed" if record.terminal else "unknown",
            "taskId": record.id,
            "swarmId": record.upstream,
            "status": status,
            "failures": said.error.failures,
            "votes": said.error.votes,
        }
    return Kept(
        id=record.id,
        swarm=record.upstream,
        status=status,
        message=record.message,
        created_ms=record.created_ms,
        updated_ms=record.updated_ms,
        result=said.result,
        partial=said.partial,
        failures=said.failures or said.error.failures,
        votes=said.votes or said.error.votes,
        error=error,
    )
