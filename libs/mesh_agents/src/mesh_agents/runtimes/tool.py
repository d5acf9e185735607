"""An agent that runs tools of the mesh, with the rights of whoever submitted the task."""

from fnmatch import fnmatchcase
from typing import Protocol, cast

import msgspec

from mesh_agents.contract import (
    AgentType,
    Json,
    StepFailedError,
    StepInput,
    StepOutput,
    StepRejectedError,
)
from mesh_agents.worker.answers import ask_tool, read_answer
from mesh_agents.worker.frames import Answered, Ask, Init
from mesh_sdk.swarm.tool_answers import InputNeededError

__all__ = ["SLOTS", "load"]

SLOTS = 8


class _Config(msgspec.Struct):
    """``config`` of a spawn: globs of tools that it may call; empty = whatever the caller may."""

    tools: tuple[str, ...] | None = None


class _Requesting(Protocol):
    async def request(self, asked: Ask) -> Answered: ...


def load(init: Init) -> AgentType:
    """See ``loading.load``."""
    allowed = msgspec.json.decode(init.config, type=_Config).tools or ()

    async def run(step: StepInput) -> StepOutput:
        name, arguments = _chosen(step, allowed)
        if allowed and not any(fnmatchcase(name, one) for one in allowed):
            raise StepRejectedError(f"this agent may not call {name}")
        return await _call(step, name, arguments)

    return AgentType(
        name=init.name,
        description="Calls tools of the mesh with the submitter's rights.",
        capabilities=("tool",),
        run=run,
        slots=SLOTS,
    )


def _chosen(step: StepInput, allowed: tuple[str, ...]) -> tuple[str, dict[str, Json]]:
    payload = step.payload
    name = payload.get("tool")
    given = payload.get("arguments") if name is not None else payload.get("input")
    if name is None and len(allowed) == 1:
        name = allowed[0]
    if not isinstance(name, str) or not name:
        raise StepRejectedError("the step names no tool, and the agent has none of its own")
    if given is None:
        given = {}
    return name, given if isinstance(given, dict) else {"input": given}


async def _call(step: StepInput, name: str, arguments: dict[str, Json]) -> StepOutput:
    tools = cast("_Requesting", step.tools)
    asked = ask_tool(
        name, arguments, answers=step.answers, state=step.state, questions=True
    )  # fmt: skip
    try:
        answer = read_answer(await tools.request(asked))
    except InputNeededError as needed:
        return StepOutput(requests=needed.requests, state=needed.state)
    if answer.is_error:
        raise StepFailedError(answer.text or f"{name} reported an error", type="tool")
    return StepOutput(structured=answer.structured, text=answer.text)
