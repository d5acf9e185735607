"""What a swarm refuses at submit, with the place named; and its limits, by exact count."""

from typing import Any

import pytest

from swarm_coordinator.core.limits import OPERATIONS_MAX, QUEUE_MAX, RUNNING_MAX

Room = Any


def phases(*given: dict[str, object]) -> dict[str, object]:
    return {"task": {"description": "d", "phases": list(given)}}


def named(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "prompt": "p", **more}


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "a cycle": (
        phases(
            named("a"),
            named("b", dependencies=["a", "d"]),
            named("c", dependencies=["b"]),
            named("d", dependencies=["c"]),
        ),
        "/task/phases/1/dependencies",
    ),
    "a phase that needs itself": (
        phases(named("a", dependencies=["a"])),
        "/task/phases/0/dependencies",
    ),
    "an unknown phase": (
        phases(named("a"), named("b", dependencies=["a", "x"])),
        "/task/phases/1/dependencies/1",
    ),
    "an unknown agent": (
        phases(named("a"), named("b", agents=["tool", "wizard"])),
        "/task/phases/1/agents/1",
    ),
    "an unknown reducer": (
        {"task": "d", "execution": {"resultAggregation": {"kind": "reduce", "agent": "wizard"}}},
        "/execution/resultAggregation/agent",
    ),
    "an unknown judge": (
        phases(named("a", vote={"equality": {"kind": "judge", "agent": "wizard"}})),
        "/task/phases/0/vote/equality/agent",
    ),
    "an unknown template": ({"task": {"description": "d", "template": "magic"}}, "/task/template"),
    "an unknown strategy": ({"task": {"description": "d", "strategy": "luck"}}, "/task/strategy"),
    "an unknown aggregate": (
        {"task": "d", "execution": {"resultAggregation": "mode"}},
        "/execution/resultAggregation",
    ),
    "an unknown mechanism": (
        {"task": "d", "coordination": {"votingMechanism": "coin"}},
        "/coordination/votingMechanism",
    ),
    "a threshold above one": (
        {"task": "d", "coordination": {"consensusThreshold": 1.01}},
        "/coordination/consensusThreshold",
    ),
    "a threshold below zero": (
        {"task": "d", "execution": {"failureThreshold": -0.1}},
        "/execution/failureThreshold",
    ),
    "a threshold of a phase": (
        phases(named("a", vote={"consensusThreshold": 7})),
        "/task/phases/0/vote/consensusThreshold",
    ),
    "a quorum above one": ({"task": "d", "coordination": {"quorum": 2}}, "/coordination/quorum"),
    "a reference to nothing": (
        phases({"name": "a", "input": {"x": [{"$ref": "/b/output"}]}}),
        "/task/phases/0/input/x/0",
    ),
    "a reference to what is not waited for": (
        phases(named("a"), {"name": "b", "input": {"$ref": "/a/output"}}),
        "/task/phases/1/input",
    ),
    "a fan-out over nothing": (
        phases(named("a", fanout={"itemsFrom": "/b/output"})),
        "/task/phases/0/fanout/itemsFrom",
    ),
    "a task that is not there": (
        {"task": {"description": "d", "dependencies": ["task_x"]}},
        "/task/dependencies/0",
    ),
    "two phases of one name": (phases(named("a"), named("a")), "/task/phases/1/name"),
    "a phase without work": (phases({"name": "a"}), "/task/phases/0"),
    "too large a team": ({"task": {"description": "d", "parallelism": 21}}, "/task/parallelism"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_task_is_refused_at_submit_with_the_place(room: Room, what: str) -> None:
    owner = await room.swarm("tool")
    arguments, where = REFUSED[what]
    error = await room.bad("task_orchestrate", **arguments)

    assert error.data["where"] == where
    assert owner.state.tasks == {}
    assert owner.grants == []
    dry = await room.bad("task_orchestrate", dryRun=True, **arguments)
    assert dry.data["where"] == where


@pytest.mark.parametrize(
    ("arguments", "lacks", "where"),
    [
        (
            {"task": {"description": "d", "requiredCapabilities": ["lint", "fly"]}},
            ["fly"],
            "/task/requiredCapabilities/1",
        ),
        (phases(named("a", requires=["lint", "search"])), ["search"], "/task/phases/0/requires/1"),
        (phases(named("a", agents=["tester"])), ["tester"], "/task/phases/0/agents/0"),
    ],
)
async def test_what_nobody_covers_is_refused_with_the_place(
    room: Room, arguments: dict[str, object], lacks: list[str], where: str
) -> None:
    owner = await room.swarm("reviewer", "researcher")
    error = await room.refused("task_orchestrate", **arguments)

    assert (error["code"], error["reason"]) == ("resource", "missing_capabilities")
    assert (error["missingCapabilities"], error["where"]) == (lacks, where)
    assert error["outcome"] == "not_executed"
    assert owner.state.tasks == {}


async def test_a_thousand_operations_run_ten_thousand_wait_and_the_next_is_told_when(
    room: Room,
) -> None:
    owner = await room.swarm(*["tool"] * 20)
    for agent in owner.state.agents.values():
        agent.slots = 64
    fanned = phases(named("a", fanout={"items": list(range(5_500))}))
    fanned["task"] |= {"parallelism": 20, "strategy": "parallel"}  # type: ignore[operator]
    await room.call("task_orchestrate", **fanned)
    await room.call("task_orchestrate", **fanned)
    status = await room.call("swarm_status")
    assert (status["metrics"]["inFlight"], status["metrics"]["queued"]) == (RUNNING_MAX, QUEUE_MAX)

    error = await room.refused("task_orchestrate", task="one more")
    assert (error["code"], error["reason"]) == ("resource", "limit")
    assert (error["limit"], error["inFlight"]) == (OPERATIONS_MAX, OPERATIONS_MAX)
    assert error["retryAfterMs"] >= 1_000
    assert error["retryable"] is True
    twenty_first = await room.refused("agent_spawn", agentType="tool")
    assert (twenty_first["reason"], twenty_first["limit"]) == ("limit", 20)

    owner.finish(next(iter(owner.work())))
    made = await room.call("task_orchestrate", task="one more")
    assert made["status"] == "orchestrating"
