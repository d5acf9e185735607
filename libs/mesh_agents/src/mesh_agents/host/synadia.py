"""Agents of the Synadia Agent Protocol as agents of a swarm: found by discovery, prompted per step.

They are programs of somebody else: this host starts and ends nothing. The protocol has no cancel:
an agent whose step was cancelled works on, and nobody hears it. Only agents whose owner token is
the tenant of the swarm are driven.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import cast

import msgspec

from mcp_proto import agent_protocol as wire
from mcp_proto.agent_protocol import Info, Prompt
from mcp_proto.broker_rights import inbox_prefix
from mcp_proto.contracts.swarm import WorkItem, WorkProgress, WorkResult
from mcp_proto.errors import MeshError
from mcp_proto.limits import RESULT_BYTES_MAX
from mesh_agents.contract import Json, Letter, StepFailedError, StepOutput
from mesh_agents.host.process import NotStartedError
from mesh_chassis.bus.connection import Bus, Msg
from mesh_sdk.swarm.outcomes import ended_by, ended_with, result_of
from mesh_sdk.swarm.resident import Job, Measured

__all__ = ["SynadiaBody"]

DISCOVERY_S = 1.0
STALL_S = 0.25
"""A discovery ends so long after the last record."""
AGENTS_MAX = 256
RECORD_BYTES_MAX = 64 * 1024
QUEUE_MAX = 1_024
"""Chunks of one answer that wait to be read; with more the step fails."""
QUIET_S = 120.0
"""Longest silence of an agent; its ``status`` chunks count as words."""
SAID_MAX = 1_000
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_OWN = "mesh"
"""Metadata key of what a gateway of the mesh exposes: those are tools already."""

_INFO = msgspec.json.Decoder(Info)
_encode = msgspec.json.Encoder().encode


class Found(msgspec.Struct, frozen=True):
    """An agent that answers discovery; several instances of one are one."""

    subject: str
    agent: str
    session: str
    bytes_max: int


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
        self._bus = bus
        self._tenant = tenant
        self._wanted = wanted
        self._progress = progress
        self._found: Found | None = None

    @property
    def pid(self) -> int | None:
        """See ``Body``."""
        return None

    async def start(self) -> Found:
        """Find the agent.

        Raises:
            NotStartedError: there is none, or more than one.
        """
        try:
            found = await self._discover()
        except MeshError as error:
            raise NotStartedError(error.message) from error
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
        except MeshError as error:
            why = StepFailedError(error.message, type="agent", outcome=error.outcome.value)
            return result_of(job.item, ended_by(why))
        return result_of(job.item, ended_with(output))

    async def ping(self, timeout_s: float) -> bool:
        """See ``Body``: whether it answers discovery."""
        try:
            async with asyncio.timeout(timeout_s + DISCOVERY_S):
                found = await self._discover()
        except (TimeoutError, MeshError):
            return False
        return self._found in found

    async def hear(self, letter: Letter, timeout_s: float) -> tuple[bool, Json]:
        """See ``Body``: the protocol has no letters."""
        del letter, timeout_s
        return False, None

    async def stop(self, grace_s: float) -> int | None:
        """See ``Body``: it is not ours to end."""
        del grace_s
        return None

    def measure(self) -> Measured:
        """See ``Body``."""
        return Measured()

    # The exchange

    async def _prompt(self, job: Job) -> StepOutput:
        found = self._found
        assert found is not None
        text = _text(job)
        payload = _encode(Prompt(prompt=text))
        if len(payload) > found.bytes_max:
            raise StepFailedError(
                f"the prompt has {len(payload)} bytes; this agent takes {found.bytes_max}",
                type="input", retryable=False, outcome="not_executed",
            )  # fmt: skip
        texts: list[str] = []
        left = RESULT_BYTES_MAX
        async with self._stream() as (reply, queue):
            await self._bus.publish(found.subject, payload, reply=reply)
            while True:
                message = await _next(queue)
                if not self._goes_on(message):
                    return StepOutput(text="".join(texts))
                try:
                    chunk = wire.chunk_of(message.data)
                except ValueError as error:
                    raise StepFailedError(f"a malformed chunk: {error}"[:SAID_MAX]) from None
                if chunk is None:
                    continue
                if chunk.kind == "query":
                    return _question(chunk.text)
                if chunk.kind == "response":
                    left -= len(chunk.text.encode())
                    if left < 0:
                        raise StepFailedError("the answer is too long", type="limit")
                    texts.append(chunk.text)
                elif chunk.text != "ack":
                    self._report(job.item, len(texts), chunk.text)

    def _goes_on(self, message: Msg) -> bool:
        """Whether more follows.

        Raises:
            StepFailedError: nobody is there, or the agent says that it failed.
        """
        headers = message.headers or {}
        if not message.data and headers.get("Status", "").startswith("503"):
            raise StepFailedError("the agent is not there", type="agent", outcome="not_executed")
        if wire.ERROR_CODE_HEADER in headers:
            code = headers[wire.ERROR_CODE_HEADER]
            said = headers.get(wire.ERROR_HEADER, "")[:SAID_MAX]
            raise StepFailedError(
                f"the agent answers {code}: {said}",
                type="agent", retryable=not code.startswith("4"),
            )  # fmt: skip
        return bool(message.data or headers)

    def _report(self, item: WorkItem, at: int, text: str) -> None:
        message = text[:SAID_MAX]
        self._progress(WorkProgress(agent=item.agent, item=item.item, progress=at, message=message))

    async def _discover(self) -> list[Found]:
        found: dict[str, Found] = {}
        loop = asyncio.get_running_loop()
        async with self._stream() as (reply, queue):
            await self._bus.publish(f"$SRV.INFO.{wire.SERVICE}", reply=reply)
            ends = loop.time() + DISCOVERY_S
            wait_s = DISCOVERY_S
            while len(found) < AGENTS_MAX and wait_s > 0:
                try:
                    async with asyncio.timeout(wait_s):
                        message = await queue.get()
                except TimeoutError:
                    break
                if not message.data:
                    break  # nobody serves it
                one = self._read(message.data)
                if one is not None:
                    found.setdefault(one.subject, one)
                wait_s = min(STALL_S, ends - loop.time())
        return list(found.values())

    def _read(self, record: bytes) -> Found | None:
        """An agent of a service record; None = none that may be driven here."""
        if len(record) > RECORD_BYTES_MAX:
            return None
        try:
            info = _INFO.decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        prompt = next((one for one in info.endpoints if one.name == wire.PROMPT_ENDPOINT), None)
        if info.name != wire.SERVICE or _OWN in (info.metadata or {}) or prompt is None:
            return None
        # Never any other subject: a record could name one that its author may not publish to.
        tokens = prompt.subject.split(".")
        if tokens[:2] != [wire.SERVICE, "prompt"] or len(tokens) != 5:
            return None
        agent, owner, session = tokens[2:]
        if owner != self._tenant or not all(_TOKEN.fullmatch(one) for one in (agent, session)):
            return None
        room = self._bus.max_payload
        said = wire.bytes_of((prompt.metadata or {}).get("max_payload", "")) or room
        return Found(prompt.subject, agent, session, min(said, room))

    @asynccontextmanager
    async def _stream(self) -> AsyncGenerator[tuple[str, asyncio.Queue[Msg]]]:
        """An inbox of one exchange, and what comes into it."""
        bus = self._bus
        prefix = inbox_prefix(bus.service, bus.instance)
        inbox = f"{prefix}.synadia.{secrets.token_hex(12)}"
        queue: asyncio.Queue[Msg] = asyncio.Queue(QUEUE_MAX)

        async def heard(message: Msg) -> None:
            if not queue.full():
                queue.put_nowait(message)

        subscription = await bus.subscribe(inbox, heard)
        try:
            yield inbox, queue
        finally:
            await subscription.unsubscribe()


async def _next(queue: asyncio.Queue[Msg]) -> Msg:
    if queue.full():
        raise StepFailedError("the agent talks faster than it is heard", type="limit")
    try:
        async with asyncio.timeout(QUIET_S):
            return await queue.get()
    except TimeoutError:
        text = f"the agent was silent for {QUIET_S:g} s"
        raise StepFailedError(text, type="timeout", outcome="unknown") from None


def _question(text: str) -> StepOutput:
    asked = text[:SAID_MAX]
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
