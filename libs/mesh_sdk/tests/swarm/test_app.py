"""A program in the place of an external agent, on a real broker with a scripted owner."""

import asyncio
import json
import os
import signal
import sys
import textwrap

import msgspec
import pytest
from libs.mesh_sdk.tests.swarm.rig import DEMO, owning

from mcp_proto import buckets
from mcp_proto.contracts.swarm import Attached, Mail
from mesh_chassis.bucket import KV
from mesh_chassis.testing.conditions import eventually
from mesh_sdk.swarm import (
    Letter,
    RefusedError,
    StepFailedError,
    StepInput,
    StepOutput,
    SwarmAgent,
)

HOST = "agent-1"


@pytest.fixture
async def owner(connect_bus, request):
    await KV.ensure(await connect_bus("registry", "registry-1"), buckets.INSTANCES)
    bus = await connect_bus("swarm-coordinator", "swarm-1")
    async with owning(bus, f"swarm_{abs(hash(request.node.name))}", HOST) as one:
        yield one


@pytest.fixture
def place(owner, shared_broker, monkeypatch):
    """Environment of the program; arguments of its ``SwarmAgent``."""
    monkeypatch.setenv("MESH_NKEY_SEED", shared_broker.seed_for("agent", HOST))
    monkeypatch.setenv("MESH_INSTANCE", HOST)
    monkeypatch.setenv("MESH_SWARM_ID", owner.swarm)
    monkeypatch.setenv("MESH_SWARM_AGENT", "agent_1")
    monkeypatch.setenv("MESH_SWARM_CLAIM", "claim-1")
    return {"url": shared_broker.url, "tenant": DEMO}


def value(result):
    return json.loads(bytes(result.structured))


def sample(place, **more) -> SwarmAgent:
    agent = SwarmAgent(**place, capabilities=["sample"], slots=2, **more)

    @agent.step
    async def add(a: int, b: int) -> dict[str, int]:
        return {"sum": a + b}

    @agent.step(kind="prompt")
    def upper(step: StepInput) -> StepOutput:
        if step.payload["prompt"] == "fail":
            raise StepFailedError("no such prompt", type="input", retryable=False)
        step.report(1, 1, "read")
        return StepOutput(text=str(step.payload["prompt"]).upper())

    @agent.step(kind="vote")
    async def slow(step: StepInput) -> None:
        await asyncio.sleep(100)

    @agent.hear
    def reply(letter: Letter) -> dict[str, object]:
        return {"echo": letter.params}

    return agent


async def test_agent_attaches_with_its_claim_and_does_steps(owner, place):
    async with sample(place).running() as live:
        async with asyncio.timeout(5):
            await live.attached.wait()
        attach = owner.attaches[0]
        assert (attach.agent, attach.claim, attach.capabilities) == (
            "agent_1", "claim-1", ("sample",),
        )  # fmt: skip
        assert value(await owner.do({"input": {"a": 1, "b": 2}})) == {"sum": 3}
        assert (await owner.do({"prompt": "hi"}, kind="prompt")).text == "HI"
        failed = await owner.do({"prompt": "fail"}, kind="prompt")
        assert (failed.error.type, failed.error.retryable) == ("input", False)
        wrong = await owner.do({"input": {"a": 1}})
        assert wrong.error.type == "input"
        await eventually(lambda: [one.message for one in owner.progress] == ["read"])
        beat = await owner.said("active")
        assert (beat.pid, beat.epoch) == (os.getpid(), 1)
        letter = Mail(
            id="m", sender="agent_2", type="command", params=msgspec.Raw(b"[1]"), expect_reply=True
        )
        assert bytes((await owner.command("agent_1", mail=letter)).reply) == b'{"echo":[1]}'
        slow = owner.item({"input": {}}, kind="vote")
        await owner.send(slow)
        await owner.command(cancel=(slow.item,))
        assert (await owner.result(slow.item)).error.type == "cancelled"
    # Its place is kept for the next start: nobody says that the agent has gone.
    assert owner.beats[-1].agents[0].state == "draining"


async def test_agent_that_lost_its_place_takes_it_again_in_a_new_life(owner, place):
    async with sample(place).running() as live:
        await eventually(lambda: live.epoch == 1)
        owner.stop.add("agent_1")
        await owner.said("gone")
        owner.stop.clear()
        await eventually(lambda: live.epoch >= 2 and live.attached.is_set())
        result = await owner.do({"input": {"a": 2, "b": 2}}, epoch=live.epoch)
        assert value(result) == {"sum": 4}
        assert {attach.boot for attach in owner.attaches} == {owner.attaches[0].boot}


async def test_agent_with_a_wrong_claim_ends(owner, place):
    owner.attach_answers.append(Attached(refused="claim"))
    async with sample(place).running() as live:
        with pytest.raises(RefusedError, match="claim"):
            await live.ended
        assert not live.attached.is_set()


@pytest.mark.slow
async def test_agent_waits_for_an_owner(place, connect_bus, monkeypatch):
    monkeypatch.setenv("MESH_SWARM_ID", "swarm_late")
    async with sample(place).running() as live:
        bus = await connect_bus("swarm-coordinator", "swarm-2")
        assert not live.attached.is_set()
        async with owning(bus, "swarm_late", HOST), asyncio.timeout(5):
            await live.attached.wait()


@pytest.mark.slow
async def test_ten_lines_are_a_program(owner, place, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            from mesh_sdk.swarm import SwarmAgent

            agent = SwarmAgent(url={place["url"]!r}, tenant={DEMO!r})

            @agent.step
            def double(n: int) -> int:
                return 2 * n

            agent.run()
            """
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    try:
        await eventually(lambda: owner.attaches and owner.beats, timeout_s=15)
        assert value(await owner.do({"input": 21})) == 42
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    # Its place is kept for the next start: nobody says that the agent has gone.
    assert owner.beats[-1].agents[0].state == "draining"


async def test_program_without_a_place_says_what_is_missing(place, tmp_path, monkeypatch):
    monkeypatch.delenv("MESH_SWARM_CLAIM")
    program = tmp_path / "program.py"
    program.write_text(
        "from mesh_sdk.swarm import SwarmAgent\n"
        f"a = SwarmAgent(url={place['url']!r}, tenant={DEMO!r})\n"
        "a.step(lambda step: None)\na.run()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 78
    assert b"claim" in said


def test_agent_is_described_before_it_runs():
    agent = SwarmAgent()
    with pytest.raises(ValueError, match="no function"):
        agent.described()
    with pytest.raises(ValueError, match="no kind"):
        agent.step(kind="dance")
    agent.step(kind="vote")(lambda step: None)
    with pytest.raises(ValueError, match="two functions"):
        agent.step(kind="vote")(lambda step: None)
    with pytest.raises(ValueError, match="one slot"):
        SwarmAgent(slots=0)
