"""Agents of the Synadia Agent Protocol found and prompted, on a real broker, without any SDK."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import agent_protocol as wire
from mcp_proto.agent_protocol import Prompt
from mesh_chassis import agent_prompts
from mesh_chassis.agent_prompts import AgentPrompts, PromptError, payload_of
from mesh_chassis.bus.connection import Bus

SUBJECT = "agents.prompt.echo.acme.main"


def record(subject: str = SUBJECT, **metadata: str) -> bytes:
    endpoint = {"name": "prompt", "subject": subject, "metadata": {"max_payload": "1KB"}}
    info = {"name": "agents", "id": "1", "metadata": metadata, "endpoints": [endpoint]}
    return msgspec.json.encode(info)


class Elsewhere:
    """A program that answers discovery and prompts by a script."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.records = [record()]
        self.answer: Callable[[str], Any] = lambda _reply: None

    async def start(self) -> None:
        await self.bus.subscribe("$SRV.INFO.agents", self._info)
        await self.bus.subscribe(SUBJECT, self._prompted)

    async def _info(self, message: Any) -> None:
        for one in self.records:
            await self.bus.publish(message.reply, one)

    async def _prompted(self, message: Any) -> None:
        await self.answer(message.reply)


@pytest_asyncio.fixture
async def elsewhere(broker, connect_bus) -> Elsewhere:
    made = Elsewhere(await connect_bus("operator", "operator"))
    await made.start()
    return made


@pytest_asyncio.fixture
async def prompts(broker, connect_bus) -> AsyncIterator[AgentPrompts]:
    made = AgentPrompts(await connect_bus("tool-runner", "runner-1"))
    await made.open()
    yield made
    await made.close()


async def said(prompts: AgentPrompts, *, quiet_s: float = 5.0, subject: str = SUBJECT) -> list[str]:
    async with prompts.prompt(subject, payload_of(Prompt(prompt="hi")), quiet_s=quiet_s) as chunks:
        return [f"{chunk.kind} {chunk.text}" async for chunk in chunks]


async def failure(prompts: AgentPrompts, **options: Any) -> PromptError:
    with pytest.raises(PromptError) as caught:
        await said(prompts, **options)
    return caught.value


async def test_agents_are_found_once_and_those_of_the_mesh_left_out(
    elsewhere: Elsewhere, prompts: AgentPrompts
) -> None:
    other = "agents.prompt.echo.acme.other"
    elsewhere.records = [record(), record(), record(mesh="a:b"), record(other), b"{"]
    found = await prompts.discover(within_s=2.0)
    assert [one.subject for one in found] == [SUBJECT, other]
    one = found[0]
    assert (one.agent, one.owner, one.session, one.bytes_max) == ("echo", "acme", "main", 1024)


async def test_discovery_without_agents_ends_at_once(prompts: AgentPrompts) -> None:
    async with asyncio.timeout(1.0):
        assert await prompts.discover(within_s=30.0) == []


async def test_answer_comes_chunk_by_chunk(elsewhere: Elsewhere, prompts: AgentPrompts) -> None:
    async def answer(reply: str) -> None:
        for chunk in (wire.ACK, b'{"type":"later"}', wire.response("a"), wire.response("b"), b""):
            await elsewhere.bus.publish(reply, chunk)

    elsewhere.answer = answer
    assert await said(prompts) == ["status ack", "response a", "response b"]
    assert (
        await asyncio.gather(said(prompts), said(prompts))
        == [["status ack", "response a", "response b"]] * 2
    )


async def test_failures_say_what_may_have_run(
    elsewhere: Elsewhere, prompts: AgentPrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await failure(prompts, subject="agents.prompt.no.acme.main")).reason == "gone"

    async def silent(reply: str) -> None:
        await elsewhere.bus.publish(reply, wire.ACK)

    async def malformed(reply: str) -> None:
        await elsewhere.bus.publish(reply, b'{"type":"response","data":7}')

    def failing(code: str) -> Callable[[str], Any]:
        async def fail(reply: str) -> None:
            headers = {wire.ERROR_CODE_HEADER: code, wire.ERROR_HEADER: "no"}
            await elsewhere.bus.publish(reply, b"", headers=headers)

        return fail

    for answer, reason, code in (
        (silent, "silent", ""),
        (malformed, "malformed", ""),
        (failing("429"), "refused", "429"),
        (failing("500"), "failed", "500"),
    ):
        elsewhere.answer = answer
        error = await failure(prompts, quiet_s=0.3)
        assert (error.reason, error.code) == (reason, code)

    monkeypatch.setattr(agent_prompts, "QUEUE_MAX", 4)

    async def flood(reply: str) -> None:
        for _ in range(20):
            await elsewhere.bus.publish(reply, wire.response("x"))

    elsewhere.answer = flood
    payload = payload_of(Prompt(prompt="hi"))
    async with prompts.prompt(SUBJECT, payload, quiet_s=2.0) as chunks:
        await asyncio.sleep(0.3)  # nobody reads meanwhile
        with pytest.raises(PromptError, match="faster"):
            async for _ in chunks:
                pass
