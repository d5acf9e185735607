"""Tool calls of steps: the params a step sends, and what the result is to it."""

from collections.abc import Mapping
from typing import cast

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mesh_sdk.swarm.steps import Json, StepFailedError, ToolAnswer

__all__ = ["InputNeededError", "read_result", "tool_params"]

_encode = msgspec.json.Encoder().encode


class _Block(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""


class _Result(msgspec.Struct, frozen=True, rename="camel"):
    result_type: str = "complete"
    content: tuple[msgspec.Raw, ...] = ()
    structured_content: msgspec.Raw = ABSENT
    is_error: bool = False
    input_requests: dict[str, msgspec.Raw] = {}
    request_state: msgspec.Raw = ABSENT


_RESULT = msgspec.json.Decoder(_Result)
_BLOCK = msgspec.json.Decoder(_Block)


class InputNeededError(StepFailedError):
    """The tool asks for input; whoever can pass that on does (``StepOutput.requests``)."""

    def __init__(self, requests: Mapping[str, Json], state: Json) -> None:
        """``state`` goes back with the answers."""
        super().__init__(
            "the tool asks for input, which this step cannot give", type="input", retryable=False
        )
        self.requests = requests
        self.state = state


def tool_params(
    name: str,
    arguments: Mapping[str, Json],
    *,
    answers: Mapping[str, Json] | None = None,
    state: Json = None,
) -> msgspec.Raw:
    """Params of ``tools/call``.

    Args:
        name: of the tool, as listed.
        arguments: JSON object.
        answers: to what the tool asked in an earlier round.
        state: of that round.

    Raises:
        StepFailedError: the arguments are not JSON.
    """
    params: dict[str, object] = {"name": name, "arguments": dict(arguments)}
    if answers:
        params["inputResponses"] = dict(answers)
        if state is not None:
            params["requestState"] = state
    try:
        return msgspec.Raw(_encode(params))
    except (TypeError, ValueError, RecursionError) as error:
        raise StepFailedError(
            f"the arguments of {name} are not JSON: {error}",
            type="input", retryable=False, outcome="not_executed",
        ) from None  # fmt: skip


def read_result(raw: msgspec.Raw) -> ToolAnswer:
    """The result of a tool call.

    Raises:
        StepFailedError: it cannot be read; ``InputNeededError`` when the tool asks back.
    """
    try:
        result = _RESULT.decode(raw)
        texts = [block.text for block in map(_BLOCK.decode, result.content) if block.text]
        content = tuple(cast("Json", msgspec.json.decode(one)) for one in result.content)
        structured = _json(result.structured_content)
        requests = {key: _json(one) for key, one in result.input_requests.items()}
        state = _json(result.request_state)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise StepFailedError("the tool's answer cannot be read", type="tool") from None
    if result.result_type == "input_required":
        asked = {key: one for key, one in requests.items() if one is not msgspec.UNSET}
        raise InputNeededError(asked, None if state is msgspec.UNSET else state)
    return ToolAnswer(
        structured=structured, text="\n".join(texts), content=content, is_error=result.is_error
    )


def _json(raw: msgspec.Raw) -> Json | msgspec.UnsetType:
    if not memoryview(raw).nbytes:
        return msgspec.UNSET
    return cast("Json", msgspec.json.decode(raw))
