"""Requests of steps as frames."""

from collections.abc import Mapping

from mesh_agents.contract import Json, StepFailedError, ToolAnswer
from mesh_agents.worker.frames import Answered, Ask
from mesh_sdk.swarm.tool_answers import read_result, tool_params

__all__ = ["ask_tool", "read_answer"]


def ask_tool(
    name: str,
    arguments: Mapping[str, Json],
    *,
    n: int = 0,
    call: int = 0,
    answers: Mapping[str, Json] | None = None,
    state: Json = None,
    questions: bool = False,
) -> Ask:
    """The request of a tool call.

    Args:
        name: of the tool, as listed.
        arguments: JSON object.
        n: number of the attempt.
        call: number of the request within it.
        answers: to what the tool asked in an earlier round.
        state: of that round.
        questions: as in ``Ask``.

    Raises:
        StepFailedError: the arguments are not JSON.
    """
    params = tool_params(name, arguments, answers=answers, state=state)
    return Ask(n=n, call=call, method="tools/call", params=params, questions=questions)


def read_answer(answered: Answered) -> ToolAnswer:
    """The result of a tool call.

    Raises:
        StepFailedError: there is none; ``InputNeededError`` when the tool asks back.
    """
    error = answered.error
    if error is not None:
        raise StepFailedError(
            error.message, type=error.type, retryable=error.retryable, outcome=error.outcome
        )
    return read_result(answered.result)
