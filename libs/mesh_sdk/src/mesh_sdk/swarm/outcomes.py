"""From what a step returned or raised to how its attempt ended."""

import asyncio

import msgspec

from mcp_proto.contracts.swarm import Ballot, Status, StepError, Usage, WorkItem, WorkResult
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.limits import RESULT_BYTES_MAX
from mesh_sdk.swarm.steps import Outcome, StepFailedError, StepOutput, StepRejectedError

__all__ = ["Ended", "ended_by", "ended_with", "result_of"]

MESSAGE_MAX = 2_000
"""Characters of an error's text."""

_encode = msgspec.json.Encoder().encode


class Ended(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an attempt ended; fields as in ``WorkResult``, without whose it is."""

    status: Status
    structured: msgspec.Raw = ABSENT
    text: str = ""
    ballot: Ballot | None = None
    usage: Usage = Usage()
    artifacts: tuple[str, ...] = ()
    error: StepError | None = None
    requests: dict[str, msgspec.Raw] = {}
    state: msgspec.Raw = ABSENT


def ended_with(value: object, *, tool_calls: int = 0) -> Ended:
    """How an attempt ended that returned ``value``.

    Args:
        value: a ``StepOutput``; text stands for its ``text``, None for nothing, anything else for
            its ``structured``.
        tool_calls: how many it made.
    """
    output = _output(value)
    usage = Usage(tokens=output.tokens, tool_calls=tool_calls or None)
    try:
        structured = _raw(output.structured)
        state = _raw(output.state) if output.requests else ABSENT
        requests = {key: _raw(one) for key, one in output.requests.items()}
        size = len(output.text.encode())
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        text = f"the output is not JSON: {error}"
        return Ended(status="error", usage=usage, error=_error("output", text))
    size += sum(memoryview(one).nbytes for one in (structured, state, *requests.values()))
    if output.ballot is not None:
        size += memoryview(output.ballot.choice).nbytes
    if size > RESULT_BYTES_MAX:
        text = f"the output has {size} bytes; at most {RESULT_BYTES_MAX} can be delivered"
        return Ended(status="error", usage=usage, error=_error("limit", text))
    return Ended(
        status="input_required" if output.requests else "ok",
        structured=structured,
        text=output.text,
        ballot=output.ballot,
        usage=usage,
        artifacts=output.artifacts,
        requests=requests,
        state=state,
    )


def ended_by(error: BaseException, *, tool_calls: int = 0) -> Ended:
    """How an attempt ended that raised."""
    usage = Usage(tool_calls=tool_calls or None)
    if isinstance(error, StepRejectedError):
        why = _error("rejected", error.message, outcome="not_executed", retryable=True)
        return Ended(status="rejected", usage=usage, error=why)
    if isinstance(error, StepFailedError):
        why = _error(error.type, error.message, retryable=error.retryable, outcome=error.outcome)
    elif isinstance(error, asyncio.CancelledError):
        why = _error("cancelled", "the attempt was cancelled", outcome="unknown")
    elif isinstance(error, MemoryError):
        why = _error("limit", "the agent's memory is used up", retryable=True)
    else:
        why = _error("error", f"{type(error).__name__}: {error}", retryable=True)
    return Ended(status="error", usage=usage, error=why)


def result_of(item: WorkItem, ended: Ended) -> WorkResult:
    """The result to send."""
    return WorkResult(
        agent=item.agent,
        epoch=item.epoch,
        item=item.item,
        status=ended.status,
        structured=ended.structured,
        text=ended.text,
        ballot=ended.ballot,
        usage=ended.usage,
        artifacts=ended.artifacts,
        error=ended.error,
        requests=ended.requests,
        state=ended.state,
    )


def _error(
    kind: str, message: str, *, retryable: bool = False, outcome: Outcome = "executed"
) -> StepError:
    # What code of users says need not be Unicode.
    text = message.encode(errors="replace").decode()
    text = text if len(text) <= MESSAGE_MAX else text[: MESSAGE_MAX - 1] + "…"
    return StepError(type=kind or "error", message=text, retryable=retryable, outcome=outcome)


def _output(value: object) -> StepOutput:
    if isinstance(value, StepOutput):
        return value
    if value is None:
        return StepOutput()
    return StepOutput(text=value) if isinstance(value, str) else StepOutput(structured=value)


def _raw(value: object) -> msgspec.Raw:
    return ABSENT if value is msgspec.UNSET else msgspec.Raw(_encode(value))
