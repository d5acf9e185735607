"""Agents that the published SDK of the Synadia Agent Protocol hosts, as agents of a swarm."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import nats
import pytest
from libs.mesh_agents.tests.rig import hosting
from libs.mesh_sdk.tests.swarm.rig import DEMO
from synadia_ai.agent_service import AgentService, PromptStream
from synadia_ai.agents import Envelope, StatusChunk


async def echo(envelope: Envelope, stream: PromptStream) -> None:
    match envelope.prompt.partition("\n")[0]:
        case "break":
            raise RuntimeError("a defect")
        case "ask" if "The answer:" not in envelope.prompt:
            await stream.ask("Which one?", timeout=0.2)
        case "hang":
            await asyncio.sleep(30)
        case "steps":
            await stream.send(StatusChunk(status="thinking"))
    await stream.send(f"echo: {envelope.prompt}")


@contextlib.asynccontextmanager
async def hosted(broker, owner=DEMO, session="main") -> AsyncIterator[AgentService]:
    client = await nats.connect(broker.url, nkeys_seed=broker.seed_for("operator", "operator"))
    service = AgentService(
        agent="echo", owner=owner, session_name=session, nc=client, description="says it again"
    )
    service.on_prompt(echo)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        await client.close()


@pytest.fixture
async def owner(broker, connect_bus, tmp_path):
    async with hosting(connect_bus, tmp_path, "swarm_synadia") as one:
        yield one


async def test_agent_elsewhere_is_prompted_for_each_step(owner, broker):
    async with hosted(broker), hosted(broker, owner="another-tenant"):
        spawned = await owner.spawn("synadia")
        assert (spawned.refused, spawned.runtime, spawned.pid) == ("", "synadia", None), spawned
        result = await owner.do({"prompt": "hi", "input": {"n": 1}}, kind="prompt")
        assert result.text == 'echo: hi\n\n{"n":1}'
        assert (await owner.do({"prompt": "steps"}, kind="prompt")).status == "ok"
        assert owner.progress[-1].message == "thinking"
        broken = await owner.do({"prompt": "break"}, kind="prompt")
        assert (broken.status, broken.error.type) == ("error", "agent")
        item = owner.item({"prompt": "hang"}, kind="prompt")
        await owner.send(item)
        await owner.command(cancel=(item.item,))
        assert (await owner.result(item.item)).error.type == "cancelled"
        assert (await owner.command("agent_1", ping=True)).alive
        stopped = await owner.command("agent_1", stop=True)
        assert (stopped.known, stopped.exited) == (True, None)
        await owner.said("gone")


async def test_question_of_the_agent_waits_for_its_answer(owner, broker):
    async with hosted(broker):
        await owner.spawn("synadia", config={"agent": "echo.main"})
        item = owner.item({"prompt": "ask"}, kind="prompt")
        await owner.send(item)
        asked = await owner.result(item.item)
        assert asked.status == "input_required"
        answer = msgspec.Raw(b'{"action":"accept","content":{"answer":"blue"}}')
        await owner.command(answers={item.item: {"query": answer}})
        result = await owner.result(item.item, nth=2)
        assert "The answer: blue" in result.text


async def test_spawn_of_an_agent_that_is_not_there_names_those_that_are(owner, broker):
    assert (await owner.spawn("synadia")).refused == "no_runtime"
    async with hosted(broker), hosted(broker, session="other"):
        several = await owner.spawn("synadia")
        assert several.refused == "no_runtime"
        assert "echo.main, echo.other" in several.message
        assert (await owner.spawn("synadia", config={"agent": "echo.other"})).refused == ""
