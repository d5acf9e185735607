"""Swarms begin, are shown as they are, and end; every change is looked for in the state."""

import asyncio
from typing import Any

import pytest

from mcp_proto.contracts.swarm import AgentCommand

Room = Any


async def test_swarm_init_makes_a_swarm_with_running_agents(room: Room) -> None:
    made = await room.call(
        "swarm_init",
        topology="star",
        initialAgents=[
            {"type": "researcher", "name": "R", "capabilities": ["search"]},
            {"type": "reviewer"},
        ],
        config={"maxAgents": 5, "consensusThreshold": 0.8, "relay": True},
        name="first",
    )

    state = room.swarms.owners[made["swarmId"]].state
    assert (state.topology, state.name, state.principal) == ("star", "first", "alice")
    assert state.config.max_agents == made["maxAgents"] == made["config"]["maxAgents"] == 5
    assert state.config.consensus_threshold == made["config"]["consensusThreshold"] == 0.8
    assert made["config"]["relay"] is True
    assert made["status"] == "initialized"
    assert made["success"] is True
    assert [agent["agentId"] for agent in made["agents"]] == list(state.agents)
    assert {agent["status"] for agent in made["agents"]} == {"active"}
    assert state.agents[made["agents"][0]["agentId"]].capabilities == ("search",)


async def test_swarm_init_takes_the_spelling_of_the_known_client(room: Room) -> None:
    made = await room.call("swarm_init", topology="mesh", maxAgents=8, strategy="auto")

    assert (made["maxAgents"], made["strategy"]) == (8, "adaptive")
    assert made["warnings"] == []


async def test_an_initial_agent_that_nobody_runs_is_said(room: Room) -> None:
    made = await room.call(
        "swarm_init", topology="mesh", initialAgents=[{"type": "tool"}, {"type": "wizard"}]
    )

    assert made["success"] is False
    assert [agent["status"] for agent in made["agents"]] == ["active", "terminated"]
    assert made["agents"][1]["message"]


async def test_swarm_init_does_not_wait_for_slow_agents(room: Room) -> None:
    made = await room.call(
        "swarm_init", topology="mesh", initialAgents=[{"type": "slow"}, {"type": "tool"}]
    )
    owner = room.swarms.owners[made["swarmId"]]

    assert [agent["status"] for agent in made["agents"]] == ["spawning", "active"]
    spawning = next(iter(owner._spawning))
    owner.release.set()
    await spawning
    assert {agent.status for agent in owner.state.agents.values()} == {"active"}


async def test_an_initial_agent_that_attaches_by_itself_gets_its_claim_once(room: Room) -> None:
    arguments = {
        "topology": "mesh",
        "initialAgents": [{"type": "external", "name": "E"}, {"type": "tool"}],
        "idempotencyKey": "k",
    }
    made = await room.call("swarm_init", **arguments)
    again = await room.call("swarm_init", **arguments)

    assert [("claim" in agent, agent["status"]) for agent in made["agents"]] == [
        (True, "spawning"), (False, "active"),
    ]  # fmt: skip
    assert not any("claim" in agent for agent in again["agents"])


async def test_a_repeat_with_the_same_key_answers_with_the_same_swarm(room: Room) -> None:
    one = await room.call("swarm_init", topology="mesh", idempotencyKey="k")
    two = await room.call("swarm_init", topology="mesh", idempotencyKey="k")
    other = await room.call("swarm_init", topology="mesh", idempotencyKey="l")
    stranger = await room.someone_else("bob").call(
        "swarm_init", topology="mesh", idempotencyKey="k"
    )

    assert one["swarmId"] == two["swarmId"]
    assert len({one["swarmId"], other["swarmId"], stranger["swarmId"]}) == 3


async def test_calls_with_one_key_at_once_make_one_swarm(room: Room) -> None:
    answers = await asyncio.gather(
        *(room.call("swarm_init", topology="mesh", idempotencyKey="k") for _ in range(8))
    )

    assert len({answer["swarmId"] for answer in answers}) == 1
    assert len(room.swarms.owners) == 1


async def test_a_call_that_stood_still_gives_way_to_the_older_swarm(room: Room) -> None:
    older = await room.call("swarm_init", topology="mesh", idempotencyKey="k")
    state = room.swarms.owners[older["swarmId"]].state
    state.idempotency = ""  # not seen by the look that comes first …
    room.swarms.held = False
    made = room.swarms.create

    async def create(caller: object, events: object) -> object:
        state.idempotency = "k"  # … and by the one that follows, once the lease is lost
        return await made(caller, events)

    room.swarms.create = create
    again = await room.call("swarm_init", topology="mesh", idempotencyKey="k")

    assert again["swarmId"] == older["swarmId"]
    statuses = sorted(owner.state.status for owner in room.swarms.owners.values())
    assert statuses == ["active", "destroyed"]


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({}, "topology"),
        ({"topology": "tree"}, "/topology"),
        ({"topology": "mesh", "config": {"maxAgents": 21}}, "/config/maxAgents"),
        ({"topology": "mesh", "maxAgents": 0}, "/maxAgents"),
        ({"topology": "mesh", "config": {"consensusThreshold": 2}}, "/config/consensusThreshold"),
        ({"topology": "mesh", "initialAgents": [{"name": "x"}]}, "/initialAgents/0"),
        ({"topology": "mesh", "initialAgents": [{"type": "tool"}] * 3, "maxAgents": 2}, "initial"),
        ({"topology": "mesh", "strategy": "guess"}, "/strategy"),
    ],
)
async def test_bad_arguments_of_swarm_init_are_refused_with_their_place(
    room: Room, arguments: dict[str, object], where: str
) -> None:
    error = await room.bad("swarm_init", **arguments)

    assert where in error.message
    assert room.swarms.owners == {}


async def test_swarm_status_shows_what_is_measured_and_null_for_the_rest(room: Room) -> None:
    owner = await room.swarm("researcher", "tool")
    empty = await room.call("swarm_status")

    assert empty["metrics"] == {
        "tasksCompleted": 0, "avgCompletionTime": None, "successRate": None, "samples": 0,
        "inFlight": 0, "queued": 0,
    }  # fmt: skip
    assert (empty["agentCount"], empty["activeAgents"], empty["taskCount"]) == (2, 2, 0)
    assert empty["links"]["count"] == 2
    assert empty["links"]["messages"] == {}
    assert empty["owner"] == "swarm-1"

    await room.call("task_orchestrate", task="count")
    busy = await room.call("swarm_status")
    assert busy["metrics"]["inFlight"] == 1
    assert busy["pendingTasks"] == busy["taskCount"] == 1
    assert {agent["status"] for agent in busy["agents"]} == {"busy", "active"}
    assert any(agent["currentTask"] for agent in busy["agents"])

    room.swarms.clock.advance(4)
    owner.finish_all({"n": 1})
    done = await room.call("swarm_status", verbose=True)
    assert done["metrics"]["tasksCompleted"] == done["completedTasks"] == 1
    assert done["metrics"]["avgCompletionTime"] == 4.0
    assert done["metrics"]["successRate"] == 1.0
    assert done["pendingTasks"] == 0
    assert done["tasks"][0]["status"] == "completed"


async def test_swarm_status_counts_messages_per_link(room: Room) -> None:
    owner = await room.swarm("researcher", "reviewer", topology="star")
    hub, spoke = owner.state.agents
    await room.call("agent_message", agentId=spoke, message={"type": "note"}, **{"from": hub})

    links = (await room.call("swarm_status"))["links"]
    assert links["messages"] == {f"{hub}>{spoke}": 1}
    assert links["adjacency"] == {hub: [spoke], spoke: [hub]}


async def test_swarm_status_tells_another_principal_nothing(room: Room) -> None:
    owner = await room.swarm("tool")
    stranger = room.someone_else("bob")

    error = await stranger.refused("swarm_status", swarmId=owner.state.swarm)
    none = await stranger.refused("swarm_status")

    assert (error["code"], error["reason"]) == ("swarm", "not_found")
    assert error["swarmId"] == owner.state.swarm
    unknown = await stranger.refused("swarm_status", swarmId="swarm_1790000000000_x")
    assert {**unknown, "swarmId": "", "message": ""} == {**error, "swarmId": "", "message": ""}
    assert "swarm_init" in none["message"]


async def test_swarm_destroy_ends_tasks_agents_and_memory(room: Room) -> None:
    owner = await room.swarm("tool", "researcher")
    await room.call("memory_store", key="k", value=1)
    task = (await room.call("task_orchestrate", task="go"))["taskId"]

    gone = await room.call("swarm_destroy", swarmId=owner.state.swarm)

    assert gone["status"] == owner.state.status == "destroyed"
    assert (gone["agentsTerminated"], gone["agentsUnconfirmed"]) == (2, 0)
    assert gone["tasksCancelled"] == gone["memoryKeysRemoved"] == 1
    assert owner.memory.values == {}
    assert {agent.status for agent in owner.state.agents.values()} == {"terminated"}
    assert owner.state.tasks[task].status in {"cancelling", "cancelled"}
    stops = [agent for agent, command in owner.commands if command.stop]
    assert sorted(stops) == sorted(owner.state.agents)
    assert all(isinstance(command, AgentCommand) for _, command in owner.commands)
    again = await room.call("swarm_destroy", swarmId=owner.state.swarm)
    assert (again["agentsTerminated"], again["tasksCancelled"]) == (0, 0)
    refused = await room.refused("task_orchestrate", task="x", swarmId=owner.state.swarm)
    assert (refused["code"], refused["reason"]) == ("swarm", "destroyed")


async def test_swarm_destroy_needs_the_swarm_named(room: Room) -> None:
    await room.swarm("tool")

    assert "swarmId" in (await room.bad("swarm_destroy")).message


async def test_swarm_list_pages_the_callers_swarms_newest_first(room: Room) -> None:
    made: list[str] = []
    for _ in range(3):
        room.swarms.clock.advance(1)
        made.append((await room.call("swarm_init", topology="ring"))["swarmId"])
    await room.someone_else("bob").call("swarm_init", topology="mesh")
    await room.call("swarm_destroy", swarmId=made[2])

    page = await room.call("swarm_list", limit=1)
    rest = await room.call("swarm_list", limit=5, cursor=page["cursor"])
    every = await room.call("swarm_list", includeDestroyed=True)

    assert [one["swarmId"] for one in page["swarms"]] == [made[1]]
    assert page["swarms"][0]["default"] is True
    assert [one["swarmId"] for one in rest["swarms"]] == [made[0]]
    assert "cursor" not in rest
    assert [one["status"] for one in every["swarms"]] == ["destroyed", "active", "active"]
    assert "cursor" in (await room.bad("swarm_list", cursor="nothing")).message
