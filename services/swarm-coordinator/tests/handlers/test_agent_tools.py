"""Agents are started, shown, written to and ended; every change is looked for in the state."""

import asyncio
import hashlib
from typing import Any

import msgspec
import pytest

from mcp_proto.contracts.swarm import Commanded
from swarm_coordinator.core import decide
from swarm_coordinator.core.effects import SendMail

Room = Any


async def test_agent_spawn_starts_a_process_and_tells_what_was_measured(room: Room) -> None:
    owner = await room.swarm()
    made = await room.call(
        "agent_spawn",
        agentType="tool",
        name="T",
        capabilities=["fetch"],
        config={"capabilities": ["parse", "fetch"], "tools": ["kv_get"]},
        resources={"cpuLimit": "1500m", "memoryLimit": "2Gi", "gpuAccess": False},
    )

    agent = owner.state.agents[made["agentId"]]
    assert (agent.type, agent.name, agent.capabilities) == ("tool", "T", ("fetch", "parse"))
    config = msgspec.json.decode(agent.config)
    assert config["resources"] == {"cpu": 1.5, "memoryBytes": 2 * 1024**3}
    assert config["tools"] == ["kv_get"]
    assert made["status"] == agent.status == "active"
    assert made["resources"] == {
        "allocated": False, "reason": "this host has no cgroups", "cpu": 1.5,
        "memory": 2 * 1024**3, "gpuDevice": None,
    }  # fmt: skip
    assert made["initialisationMetrics"] == {
        "spawnTime": 12.5, "modelLoadTime": None, "memoryAllocated": 20_000_000,
    }  # fmt: skip
    assert made["connectionPool"]["poolId"] == "host-1"
    assert (made["tcpEndpoint"], made["runtime"]) == (None, "function")
    assert made["estimatedReadyTime"] == 0.0


async def test_agent_spawn_takes_type_without_a_swarm_as_the_known_client_sends_it(
    room: Room,
) -> None:
    owner = await room.swarm()

    made = await room.call("agent_spawn", type="reviewer")

    assert made["swarmId"] == owner.state.swarm
    assert owner.state.agents[made["agentId"]].type == "reviewer"


async def test_agent_spawn_of_a_type_that_nobody_runs_is_an_error_and_no_record(
    room: Room,
) -> None:
    owner = await room.swarm()
    error = await room.refused("agent_spawn", agentType="wizard")

    assert (error["code"], error["reason"]) == ("agent", "no_runtime")
    assert "wizard" in error["message"]
    assert error["outcome"] == "not_executed"
    assert [agent.status for agent in owner.state.agents.values()] == ["terminated"]
    assert (await room.call("agent_list"))["count"] == 0


async def test_agent_spawn_that_takes_long_answers_before_a_second_is_over(room: Room) -> None:
    owner = await room.swarm("tool")
    made = await room.call("agent_spawn", agentType="slow")

    assert made["status"] == "spawning"
    assert made["estimatedReadyTime"] is None
    assert made["initialisationMetrics"]["spawnTime"] is None
    assert made["resources"]["reason"] == "its process does not run yet"
    spawning = next(iter(owner._spawning))
    owner.release.set()
    await spawning
    assert owner.state.agents[made["agentId"]].status == "active"
    later = await room.call("agent_spawn", agentType="slow", wait=True)
    assert later["status"] == "active"


async def test_an_external_agent_gets_a_claim_of_which_the_log_has_the_hash_only(
    room: Room,
) -> None:
    owner = await room.swarm()
    made = await room.call("agent_spawn", agentType="tool", config={"runtime": "external"})

    agent = owner.state.agents[made["agentId"]]
    assert agent.external
    assert agent.status == "spawning"
    assert agent.claim == hashlib.sha256(made["claim"].encode()).hexdigest()
    assert owner._spawning == set()


async def test_the_twenty_first_agent_is_refused(room: Room) -> None:
    owner = await room.swarm(*["tool"] * 20)
    error = await room.refused("agent_spawn", agentType="tool")

    assert (error["code"], error["reason"]) == ("resource", "limit")
    assert error["swarmId"] == owner.state.swarm
    assert len(owner.state.agents) == 20


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({}, "/agentType"),
        ({"agentType": "tool", "resources": {"cpuLimit": "lots"}}, "/resources/cpuLimit"),
        ({"agentType": "tool", "resources": {"memoryLimit": "-1Gi"}}, "/resources/memoryLimit"),
        ({"agentType": "tool", "config": {"runtime": "magic"}}, "/config/runtime"),
        ({"agentType": "tool", "capabilities": "x"}, "/capabilities"),
    ],
)
async def test_bad_arguments_of_agent_spawn_are_refused_with_their_place(
    room: Room, arguments: dict[str, object], where: str
) -> None:
    owner = await room.swarm()
    error = await room.bad("agent_spawn", **arguments)

    assert error.data["where"] == where
    assert owner.state.agents == {}


async def test_agent_list_filters_by_status_and_type(room: Room) -> None:
    owner = await room.swarm("tool", "researcher", "researcher")
    first, _, last = owner.state.agents
    await room.call("agent_terminate", agentId=last)
    await room.call("agent_task", agentId=first, task="go")

    async def ids(**arguments: object) -> list[str]:
        found = await room.call("agent_list", **arguments)
        assert found["count"] == len(found["agents"])
        return [agent["agentId"] for agent in found["agents"]]

    assert len(await ids()) == 2
    assert len(await ids(filter="all")) == 3
    assert await ids(filter="terminated") == [last]
    assert await ids(filter="busy") == [first]
    assert len(await ids(filter="active")) == 2
    assert len(await ids(filter="idle")) == 1
    assert len(await ids(filter="researcher")) == 1


async def test_agent_status_shows_what_an_agent_has_done(room: Room) -> None:
    owner = await room.swarm("tool")
    (agent,) = owner.state.agents
    fresh = await room.call("agent_status", agentId="tool-1")
    assert fresh["stats"]["successRate"] is None
    assert (fresh["health"], fresh["healthDetail"]["failureShare"]) == (100.0, None)
    assert fresh["lastHeartbeat"] == owner.now_ms()

    await room.call("agent_task", agentId=agent, task="a")
    busy = await room.call("agent_status", agentId=agent)
    assert (busy["status"], busy["outstanding"]) == ("busy", 1)
    owner.finish(next(iter(owner.work())), "done")
    await room.call("agent_task", agentId=agent, task="b")
    owner.finish(next(iter(owner.work())), error="broken")

    seen = await room.call("agent_status", agentId=agent)
    assert (seen["stats"]["completed"], seen["stats"]["failed"]) == (1, 1)
    assert seen["stats"]["successRate"] == 0.5
    assert 0 < seen["health"] < 100
    assert seen["healthDetail"]["samples"] == 2


async def test_an_unknown_agent_is_an_agent_error(room: Room) -> None:
    owner = await room.swarm("tool")
    for tool in ("agent_status", "agent_terminate"):
        error = await room.refused(tool, agentId="agent_0")
        assert (error["code"], error["reason"]) == ("agent", "not_found")
        assert (error["agentId"], error["swarmId"]) == ("agent_0", owner.state.swarm)


async def test_agent_terminate_ends_the_process_and_gives_its_work_to_others(room: Room) -> None:
    owner = await room.swarm("tool", "tool")
    plan = {"description": "d", "phases": [{"name": "p", "agents": ["tool"], "prompt": "go"}]}
    task = (await room.call("task_orchestrate", task=plan))["taskId"]
    ((item, agent),) = owner.work().items()

    ended = await room.call("agent_terminate", agentId=agent)

    assert (ended["status"], ended["exitStatus"], ended["stepsReassigned"]) == ("terminated", 0, 1)
    assert owner.state.agents[agent].status == "terminated"
    ((other, successor),) = owner.work().items()
    assert successor != agent
    assert other != item
    owner.finish_all(1)
    assert owner.state.tasks[task].status == "completed"
    again = await room.call("agent_terminate", agentId=agent)
    assert (again["exitStatus"], again["stepsReassigned"]) == (None, 0)


async def test_agent_terminate_with_drain_lets_it_finish(room: Room) -> None:
    owner = await room.swarm("tool")
    (agent,) = owner.state.agents
    await room.call("agent_task", agentId=agent, task="go")

    draining = await room.call("agent_terminate", agentId=agent, drain=True)
    assert draining["status"] == "draining"
    assert [command for _, command in owner.commands if command.stop] == []
    owner.finish_all(1)
    assert owner.state.agents[agent].status == "terminated"


async def test_agent_types_are_those_that_hosts_offer(room: Room) -> None:
    found = await room.call("agent_types")

    by_type = {one["type"]: one["hosts"] for one in found["types"]}
    assert by_type["tool"] == 2
    assert by_type["researcher"] == 1
    assert found["count"] == len(by_type)
    assert all(one["description"] for one in found["types"])


# Messages


async def test_a_durable_message_waits_in_the_mailbox(room: Room) -> None:
    owner = await room.swarm("tool")
    (agent,) = owner.state.agents
    sent = await room.call(
        "agent_message",
        swarmId=owner.state.swarm,
        agentId=agent,
        message={"type": "command", "action": "pause", "params": {"n": 1}},
    )

    (held,) = owner.state.agents[agent].mailbox
    assert held.mail.id == sent["messageId"]
    assert (held.mail.type, held.mail.action) == ("command", "pause")
    assert msgspec.json.decode(held.mail.params) == {"n": 1}
    assert (sent["status"], sent["hops"], sent["reply"]) == ("queued", 1, None)
    assert (await room.call("agent_status", agentId=agent))["mail"] == 1


async def test_a_message_that_is_taken_at_once_is_delivered(room: Room) -> None:
    owner = await room.swarm("tool")
    (agent,) = owner.state.agents
    sending = asyncio.create_task(
        room.call("agent_message", agentId=agent, message={"type": "note"})
    )
    await owner.changed(lambda: bool(owner.state.agents[agent].mailbox))
    (held,) = owner.state.agents[agent].mailbox
    owner.fold(decide.mail_taken(owner.state, agent, (held.mail.id,), owner.now_ms()))

    assert (await sending)["status"] == "delivered"


async def test_a_message_to_all_reaches_every_agent(room: Room) -> None:
    owner = await room.swarm("tool", "researcher", "reviewer")
    sent = await room.call("agent_message", agentId="*", message={"type": "note"})

    assert {one["agentId"] for one in sent["recipients"]} == set(owner.state.agents)
    assert all(len(agent.mailbox) == 1 for agent in owner.state.agents.values())


async def test_a_core_message_is_delivered_now_and_kept_nowhere(room: Room) -> None:
    owner = await room.swarm("tool")
    (agent,) = owner.state.agents
    sent = await room.call(
        "agent_message", agentId=agent, message={"type": "note"}, delivery="core"
    )

    assert sent["status"] == "delivered"
    assert [(to, mail.id) for to, mail in owner.mails] == [(agent, sent["messageId"])]
    assert owner.state.agents[agent].mailbox == []
    assert owner.state.links == {f">{agent}": 1}
    assert not any(isinstance(effect, SendMail) for effect in owner.effects)


async def test_a_reply_comes_back(room: Room) -> None:
    owner = await room.swarm("tool")
    owner.reply = Commanded(mail="replied", reply=msgspec.Raw(b'{"ok":1}'))
    sent = await room.call(
        "agent_message", agentId="tool-1", message={"type": "ask"}, expectReply=True, timeoutMs=900
    )

    assert (sent["status"], sent["reply"]) == ("replied", {"ok": 1})
    assert owner.mails[0][1].expect_reply
    assert owner.mails[0][1].timeout_ms == 900


async def test_what_cannot_be_delivered_is_said(room: Room) -> None:
    owner = await room.swarm("tool")
    owner.reply = Commanded(known=False)
    sent = await room.call(
        "agent_message", agentId="tool-1", message={"type": "x"}, delivery="core"
    )

    assert sent["status"] == "undeliverable"
    assert sent["reason"]


async def test_a_message_that_the_topology_forbids_is_a_swarm_error(room: Room) -> None:
    owner = await room.swarm("tool", "tool", "tool", topology="star")
    _, one, two = owner.state.agents
    error = await room.refused("agent_message", agentId=two, message={"type": "x"}, **{"from": one})

    assert (error["code"], error["reason"]) == ("swarm", "topology_violation")
    assert error["swarmId"] == owner.state.swarm
    assert all(agent.mailbox == [] for agent in owner.state.agents.values())


async def test_a_message_needs_a_type(room: Room) -> None:
    await room.swarm("tool")
    error = await room.bad("agent_message", agentId="tool-1", message={"action": "x"})

    assert error.data["where"] == "/message"


# Agents that have only just been asked for


async def test_a_call_waits_a_moment_for_agents_that_start(room: Room) -> None:
    owner = await room.swarm("slow", "slow", topology="star")
    first, second = owner.state.agents
    calls = (
        room.call("agent_task", agentId=second, task="go"),
        room.call("task_orchestrate", task="go"),
        room.call("agent_message", agentId=second, message={"type": "x"}, **{"from": first}),
    )
    waiting = [asyncio.create_task(one) for one in calls]
    await asyncio.sleep(0)
    owner.release.set()

    given, made, sent = await asyncio.gather(*waiting)
    assert {given["taskId"], made["taskId"]} == set(owner.state.tasks)
    assert sent["status"] == "queued"


# A task for one agent


async def test_agent_task_is_done_by_that_agent(room: Room) -> None:
    owner = await room.swarm("tool", "researcher", "tool")
    last = list(owner.state.agents)[-1]
    given = await room.call(
        "agent_task", agentId=last, task={"description": "d", "tool": "kv_get", "input": {"k": 1}}
    )

    assert set(owner.work().values()) == {last}
    task = owner.state.tasks[given["taskId"]]
    assert (given["status"], given["agentId"]) == ("orchestrating", last)
    (step,) = task.steps.values()
    assert step.kind == "tool"
    assert msgspec.json.decode(step.payload) == {"tool": "kv_get", "arguments": {"k": 1}}
    owner.finish_all({"v": 2})
    assert (await room.call("task_result", taskId=given["taskId"]))["result"] is not None


async def test_agent_task_of_an_ended_agent_is_refused(room: Room) -> None:
    owner = await room.swarm("tool")
    (agent,) = owner.state.agents
    await room.call("agent_terminate", agentId=agent)
    error = await room.refused("agent_task", agentId=agent, task="x")

    assert (error["code"], error["agentId"]) == ("agent", agent)
    assert error["reason"] == "terminated"
    assert owner.state.tasks == {}


async def test_agent_task_of_an_agent_that_still_starts_says_when_to_come_back(
    room: Room,
) -> None:
    owner = await room.swarm("slow")
    (agent,) = owner.state.agents
    error = await room.refused("agent_task", agentId=agent, task="x")

    assert (error["reason"], error["retryable"]) == ("spawning", True)
    owner.release.set()


async def test_the_place_of_a_bad_agent_task_is_in_its_own_arguments(room: Room) -> None:
    await room.swarm("tool")
    wrong = {"description": "d", "tool": "echo", "input": {"$ref": "/nowhere/output"}}
    error = await room.bad("agent_task", agentId="tool-1", task=wrong)

    assert error.data["where"] == "/task"
