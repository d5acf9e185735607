"""Agents of the Synadia Agent Protocol as agents of a swarm: found by discovery, prompted per step.

They are programs of somebody else: this host starts and ends nothing. The protocol has no cancel:
an agent whose step was cancelled works on, and nobody hears it. Only agents whose owner token is
the tenant of the swarm are driven.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec

from mcp_proto.agent_protocol import FoundAgent, Prompt
from mcp_proto.contracts.swarm import WorkItem, WorkProgress, WorkResult
from mcp_proto.errors import MeshError
from mcp_proto.limits import RESULT_BYTES_MAX
from mesh_agents.contract import Json, Letter, StepFailedError, StepOutput
from mesh_agents.host.process import PROGRESS_GAP_S, NotStartedError
from mesh_chassis.agent_prompts import SAID_CHARS_MAX, AgentPrompts, PromptError, payload_of
from mesh_chassis.bus.connection import Bus
from mesh_sdk.swarm.outcomes import ended_by, ended_with, result_of
from mesh_sdk.swarm.resident import Job, Measured

__all__ = ["SynadiaBody"]

DISCOVERY_S = 1.0
QUIET_S = 120.0
"""Longest silence of an agent; its ``status`` chunks count as words."""
_encode = msgspec.json.Encoder().encode


class SynadiaBody:
    """``Body`` that prompts an agent elsewhere.

    Args:
        bus: of the host.
        tenant: of the swarm; the owner token of its agents.
        wanted: ``agent`` or ``agent.session`` from the spawn's ``config.agent``; "" = the only
            one there is.
        progress: takes reports.
    """

    def __init__(
        self, bus: Bus, tenant: str, wanted: str, progress: Callable[[WorkProgress], None]
    ) -> None:
        self._prompts = AgentPrompts(bus)
        self._tenant = tenant
        self._wanted = wanted
        self._progress = progress
        self._found: FoundAgent | None = None

    @property
    def pid(self) -> int | None:
        """See ``Body``."""
        return None

    async def start(self) -> FoundAgent:
        """Find the agent.

        Raises:
            NotStartedError: there is none, or more than one.
        """
        try:
            await self._prompts.open()
            return await self._find()
        except MeshError as error:
            await self._prompts.close()
            raise NotStartedError(error.message) from error
        except BaseException:
            await self._prompts.close()
            raise

    async def _find(self) -> FoundAgent:
        found = await self._discover()
        fitting = [
            one for one in found
            if self._wanted in {"", one.agent, f"{one.agent}.{one.session}"}
        ]  # fmt: skip
        if len(fitting) != 1:
            names = ", ".join(sorted(f"{one.agent}.{one.session}" for one in found)) or "none"
            raise NotStartedError(
                f"config.agent must name one agent of {self._tenant}; found: {names}", "no_runtime"
            )
        self._found = fitting[0]
        return self._found

    async def run(self, job: Job) -> WorkResult:
        """See ``Body``."""
        try:
            output = await self._prompt(job)
        except StepFailedError as error:
            return result_of(job.item, ended_by(error))
        except PromptError as error:
            return result_of(job.item, ended_by(_failure(error)))
        except MeshError as error:
            why = StepFailedError(error.message, type="agent", outcome=error.outcome.value)
            return result_of(job.item, ended_by(why))
        return result_of(job.item, ended_with(output))

    async def ping(self, timeout_s: float) -> bool:
        """See ``Body``: whether it answers discovery."""
        try:
            found = await self._discover(timeout_s + DISCOVERY_S)
        except MeshError:
            return False
        return self._found in found

    async def hear(self, letter: Letter, timeout_s: float) -> tuple[bool, Json]:
        """See ``Body``: the protocol has no letters."""
        del letter, timeout_s
        return False, None

    async def stop(self, grace_s: float) -> int | None:
        """See ``Body``: it is not ours to end."""
        del grace_s
        await self._prompts.close()
        return None

    def measure(self) -> Measured:
        """See ``Body``."""
        return Measured()

    # The exchange

    async def _prompt(self, job: Job) -> StepOutput:
        found = self._found
        assert found is not None
        payload = payload_of(Prompt(prompt=_text(job)))
        if len(payload) > found.bytes_max:
            raise StepFailedError(
                f"the prompt has {len(payload)} bytes; this agent takes {found.bytes_max}",
                type="input", retryable=False, outcome="not_executed",
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        texts: list[str] = []
        left = RESULT_BYTES_MAX
        reports, next_at = 0, 0.0
        async with self._prompts.prompt(found.subject, payload, quiet_s=QUIET_S) as chunks:
            async for chunk in chunks:
                if chunk.kind == "query":
                    return _question(chunk.text)
                if chunk.kind == "response":
                    left -= len(chunk.text.encode())
                    if left < 0:
                        raise StepFailedError("the answer is too long", type="limit")
                    texts.append(chunk.text)
                elif chunk.text != "ack":
                    reports += 1
                    if loop.time() >= next_at:
                        next_at = loop.time() + PROGRESS_GAP_S
                        self._report(job.item, reports, chunk.text)
        return StepOutput(text="".join(texts))

    def _report(self, item: WorkItem, at: int, text: str) -> None:
        message = text[:SAID_CHARS_MAX]
        self._progress(WorkProgress(agent=item.agent, item=item.item, progress=at, message=message))

    async def _discover(self, within_s: float = DISCOVERY_S) -> list[FoundAgent]:
        """Agents of the tenant; of nobody else."""
        found = await self._prompts.discover(within_s=within_s)
        return [one for one in found if one.owner == self._tenant]


def _failure(error: PromptError) -> StepFailedError:
    match error.reason:
        case "gone":
            return StepFailedError(error.said, type="agent", outcome="not_executed")
        case "refused" | "failed":
            return StepFailedError(
                f"the agent answers {error.code}: {error.said}",
                type="agent", retryable=error.reason == "failed",
            )  # fmt: skip
        case "silent":
            return StepFailedError(error.said, type="timeout", outcome="unknown")
        case "flood":
            return StepFailedError(error.said, type="limit")
        case "malformed":
            return StepFailedError(error.said)


def _question(text: str) -> StepOutput:
    asked = text[:SAID_CHARS_MAX]
    schema: Json = {
        "type": "object",
        "properties": {"answer": {"type": "string"}},
        "required": ["answer"],
    }
    params: Json = {"mode": "form", "message": asked, "requestedSchema": schema}
    return StepOutput(
        requests={"query": {"method": "elicitation/create", "params": params}}, state=asked
    )


def _text(job: Job) -> str:
    """What the agent is told: prompt, input, and the answer to what it asked."""
    payload = cast("dict[str, Json]", msgspec.json.decode(job.item.payload))
    parts: list[str] = []
    prompt = payload.get("prompt")
    if isinstance(prompt, str) and prompt:
        parts.append(prompt)
    given = payload.get("input", payload.get("arguments"))
    if given is not None:
        parts.append(given if isinstance(given, str) else _encode(given).decode())
    if not parts:
        raise StepFailedError(
            "the step has neither prompt nor input",
            type="input", retryable=False, outcome="not_executed",
        )  # fmt: skip
    answer = job.answers.get("query")
    if answer is not None:
        question = cast("str", msgspec.json.decode(job.state))
        found = cast("Json", msgspec.json.decode(answer))
        content = found.get("content") if isinstance(found, dict) else None
        said = content.get("answer") if isinstance(content, dict) else "(no answer)"
        parts.append(f"You asked: {question}\nThe answer: {said}")
    return "\n\n".join(parts)
