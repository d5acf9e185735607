"""Tasks are given, followed, ended and forgotten; every change is looked for in the state."""

import asyncio
from typing import Any

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.handlers import dispatch

Room = Any

SOURCE_E = {
    "task": {
        "description": "Analyse the code",
        "priority": "high",
        "strategy": "parallel",
        "timeout": 300,
        "requiredCapabilities": ["search", "lint"],
        "parallelism": 2,
    },
    "execution": {
        "mode": "distributed",
        "retryPolicy": "exponential_backoff",
        "resultAggregation": "all",
        "failureThreshold": 0.2,
    },
    "coordination": {
        "consensusThreshold": 0.7,
        "votingMechanism": "weighted",
        "conflictResolution": "expert_priority",
    },
}


async def capable(room: Room) -> Any:
    return await room.swarm(
        initialAgents=[
            {"type": "researcher", "name": "R", "capabilities": ["search"]},
            {"type": "reviewer", "name": "L", "capabilities": ["lint"]},
        ]
    )


async def test_task_orchestrate_stores_the_task_before_it_answers(room: Room) -> None:
    owner = await capable(room)
    made = await room.call("task_orchestrate", **SOURCE_E)

    task = owner.state.tasks[made["taskId"]]
    assert made["status"] == "orchestrating"
    assert {agent["agentId"] for agent in made["assignedAgents"]} == set(owner.state.agents)
    assert (task.spec.priority, task.spec.timeout, task.spec.parallelism) == ("high", 300, 2)
    assert task.spec.execution.failure_threshold == 0.2
    assert made["coordination"]["votingMechanism"] == "weighted"
    assert made["coordination"]["conflictResolution"] == "expert_priority"
    assert made["orchestrationPlan"]["phases"][0]["estimatedDuration"] is None
    assert made["estimatedCompletion"] is None
    assert made["mcpConnections"]["active"] == 2
    assert 0 < made["mcpConnections"]["poolUtilization"] <= 1
    assert task.grant == f"grant-of-{task.id}"
    assert owner.records[task.id].status == "working"
    assert len(owner.work()) == 2


async def test_a_task_in_words_goes_to_the_default_swarm(room: Room) -> None:
    await room.swarm("tool")
    room.swarms.clock.advance(1)
    newest = await room.swarm("tool")
    made = await room.call("task_orchestrate", task="do it", priority="critical", strategy="auto")

    assert made["swarmId"] == newest.state.swarm
    spec = newest.state.tasks[made["taskId"]].spec
    assert (spec.description, spec.priority, spec.strategy) == ("do it", "critical", "adaptive")


async def test_wait_answers_with_the_result(room: Room) -> None:
    owner = await room.swarm("tool")
    waiting = asyncio.create_task(room.call("task_orchestrate", task="go", wait=True))
    await owner.working()
    owner.finish_all({"n": 1})

    done = await waiting
    assert done["status"] == "completed"
    assert done["partial"] is False
    assert done["result"] == (await room.call("task_result", taskId=done["taskId"]))["result"]


async def test_who_does_not_wait_gets_the_id_of_a_task_that_has_failed_already(room: Room) -> None:
    owner = await room.swarm("tool")
    wishes = {"task": "go", "idempotencyKey": "k", "execution": {"retryPolicy": "none"}}
    made = await room.call("task_orchestrate", **wishes)
    owner.finish(next(iter(owner.work())), error="broken")
    again = await room.call("task_orchestrate", **wishes)

    assert (again["taskId"], again["status"]) == (made["taskId"], "failed")


async def test_dry_run_gives_the_plan_and_changes_nothing(room: Room) -> None:
    owner = await capable(room)
    before = owner.state.sequence
    planned = await room.call(
        "task_orchestrate",
        task={
            "description": "d",
            "phases": [
                {"name": "find", "requires": ["search"], "tool": "kv_list"},
                {"name": "judge", "requires": ["lint"], "dependencies": ["find"], "prompt": "p"},
            ],
        },
        dryRun=True,
    )

    assert (planned["taskId"], planned["status"]) == (None, "planned")
    phases = planned["orchestrationPlan"]["phases"]
    assert [phase["name"] for phase in phases] == ["find", "judge"]
    assert phases[1]["dependencies"] == ["find"]
    by_name = {agent.name: agent.id for agent in owner.state.agents.values()}
    assert [phase["agents"] for phase in phases] == [[by_name["R"]], [by_name["L"]]]
    assert owner.state.sequence == before
    assert owner.grants == []


async def test_estimates_are_measured_on_the_same_kind_of_work(room: Room) -> None:
    owner = await room.swarm("tool")
    for _ in range(3):
        await room.call("task_orchestrate", task="go")
        room.swarms.clock.advance(2)
        owner.finish_all(1)
    planned = await room.call("task_orchestrate", task="go", dryRun=True)

    assert planned["orchestrationPlan"]["phases"][0]["estimatedDuration"] == 2.0
    assert planned["estimatedCompletion"] == 2.0


async def test_a_repeat_with_the_same_key_answers_with_the_same_task(room: Room) -> None:
    owner = await room.swarm("tool")
    one = await room.call("task_orchestrate", task="go", idempotencyKey="k")
    two = await room.call("task_orchestrate", task="go", idempotencyKey="k")
    both = await asyncio.gather(
        *(room.call("task_orchestrate", task="other", idempotencyKey="l") for _ in range(2))
    )

    assert one["taskId"] == two["taskId"]
    assert both[0]["taskId"] == both[1]["taskId"]
    assert len(owner.state.tasks) == 2
    error = await room.bad("task_orchestrate", task="another", idempotencyKey="k")
    assert "idempotency" in f"{error.message} {error.data}"


async def test_what_no_agent_can_do_is_refused_with_what_is_missing(room: Room) -> None:
    owner = await room.swarm("tool")
    error = await room.refused(
        "task_orchestrate", task={"description": "d", "requiredCapabilities": ["fly", "swim"]}
    )

    assert (error["code"], error["reason"]) == ("resource", "missing_capabilities")
    assert sorted(error["missingCapabilities"]) == ["fly", "swim"]
    assert owner.state.tasks == {}
    assert owner.grants == []


async def test_auto_spawn_starts_what_a_host_has_and_refuses_the_rest(room: Room) -> None:
    owner = await room.swarm("tool")
    made = await room.call(
        "task_orchestrate",
        task={"description": "d", "requiredCapabilities": ["tester"], "autoSpawn": True},
    )
    assert [agent.type for agent in owner.state.agents.values()] == ["tool", "tester"]
    assert any("tester" in agent["capabilities"] for agent in made["assignedAgents"])

    error = await room.refused(
        "task_orchestrate",
        task={"description": "d", "requiredCapabilities": ["fly"], "autoSpawn": True},
    )
    assert error["reason"] == "missing_capabilities"
    assert error["missingCapabilities"] == ["fly"]
    assert error["where"] == "/task/requiredCapabilities/0"
    assert len(owner.state.tasks) == 1
    assert len(owner.state.agents) == 2


async def test_auto_spawn_starts_the_types_that_hold_what_is_asked_for(room: Room) -> None:
    owner = await room.swarm("tool")
    phases = [{"name": "a", "prompt": "p", "requires": ["lint", "python"]}]
    await room.call(
        "task_orchestrate",
        task={
            "description": "d",
            "requiredCapabilities": ["search", "lint"],
            "phases": phases,
            "autoSpawn": True,
        },
    )
    types = sorted(agent.type for agent in owner.state.agents.values())
    assert types == ["researcher", "reviewer", "tool"]


async def test_auto_spawn_above_the_limit_of_agents_spawns_none(room: Room) -> None:
    owner = await room.swarm("tool", maxAgents=2)
    error = await room.refused(
        "task_orchestrate",
        task={"description": "d", "requiredCapabilities": ["search", "lint"], "autoSpawn": True},
    )
    assert (error["code"], error["reason"]) == ("resource", "limit")
    assert (error["limit"], error["inFlight"]) == (2, 1)
    assert error["retryAfterMs"] > 0
    assert len(owner.state.agents) == 1


async def test_auto_spawn_keeps_nobody_of_whom_one_could_not_be_started(room: Room) -> None:
    owner = await room.swarm("tool")
    offers = owner.offers

    async def boasting(*, local: bool) -> dict[str, tuple[str, ...]]:
        return {**await offers(local=local), "ghost": ("fly",)}

    owner.offers = boasting
    error = await room.refused(
        "task_orchestrate",
        task={"description": "d", "requiredCapabilities": ["fly", "search"], "autoSpawn": True},
    )
    assert error["reason"] == "no_runtime"
    assert owner.state.tasks == {}
    alive = [agent.type for agent in owner.state.agents.values() if agent.status != "terminated"]
    assert alive == ["tool"]


async def test_a_local_task_is_done_beside_the_coordinator_or_refused(room: Room) -> None:
    owner = await room.swarm("tool")
    elsewhere = {"task": "d", "execution": {"mode": "local"}}
    error = await room.refused("task_orchestrate", **elsewhere)
    assert (error["code"], error["reason"]) == ("resource", "missing_capabilities")
    assert "on node n1" in error["message"]

    (near,) = owner.state.agents.values()
    near.node = "n1"
    far = await room.call("agent_spawn", agentType="tool")
    assert owner.state.agents[far["agentId"]].node == "n"
    made = await room.call("task_orchestrate", **elsewhere)
    assert [agent["agentId"] for agent in made["assignedAgents"]] == [near.id]


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({}, "task"),
        ({"task": ""}, "/task"),
        ({"task": 5}, "/task"),
        ({"task": {"description": "d", "phases": [{"prompt": "p"}]}}, "/task/phases/0"),
        (
            {"task": {"description": "d", "phases": [
                {"name": "a", "prompt": "p", "dependencies": ["b"]},
                {"name": "b", "prompt": "p", "dependencies": ["a"]},
            ]}},
            "/task/phases",
        ),
        (
            {"task": {"description": "d", "phases": [{"name": "a", "dependencies": ["zz"]}]}},
            "/task/phases/0",
        ),
        ({"task": "x", "execution": {"resultAggregation": "sort"}}, "/execution/resultAggregation"),
        ({"task": "x", "coordination": {"consensusThreshold": 7}}, "consensusThreshold"),
        ({"task": {"description": "d", "timeout": 0}}, "/task/timeout"),
        ({"task": {"description": "d", "timeout": 86_401}}, "/task/timeout"),
        ({"task": {"description": "d", "parallelism": 21}}, "/task/parallelism"),
        ({"task": "x", "priority": "soon"}, "/priority"),
    ],
)  # fmt: skip
async def test_a_bad_plan_is_refused_with_its_place(
    room: Room, arguments: dict[str, object], where: str
) -> None:
    owner = await room.swarm("tool")
    error = await room.bad("task_orchestrate", **arguments)

    assert where in error.message
    assert owner.state.tasks == {}


async def test_unknown_arguments_are_named_and_not_obeyed(room: Room) -> None:
    await room.swarm("tool")
    made = await room.call(
        "task_orchestrate", task={"description": "d", "colour": 1}, speed=9, swarmId=None
    )

    text = " ".join(made["warnings"])
    assert "colour" in text
    assert "speed" in text
    assert len(made["warnings"]) == 2


# Following


async def test_task_status_follows_a_task_to_its_end(room: Room) -> None:
    owner = await room.swarm("tool", "tool")
    made = await room.call(
        "task_orchestrate",
        task={
            "description": "d",
            "phases": [
                {"name": "one", "prompt": "p"},
                {"name": "two", "prompt": "q", "dependencies": ["one"]},
            ],
        },
    )
    begun = await room.call("task_status", taskId=made["taskId"])
    assert begun["status"] == "running"
    assert [phase["status"] for phase in begun["phases"]] == ["running", "pending"]
    assert begun["progress"]["done"] == 0
    assert "result" not in begun

    owner.finish(next(iter(owner.work())), "a")
    halfway = await room.call("task_status", fresh=True)
    assert halfway["taskId"] == made["taskId"]
    assert halfway["progress"]["done"] == 1
    assert halfway["phases"][0]["status"] == "done"

    owner.finish_all("b")
    ended = await room.call("task_status", taskId=made["taskId"])
    assert ended["status"] == "completed"
    assert ended["progress"] == {"done": 2, "total": 2}
    assert ended["result"] is not None
    assert ended["failures"] == []
    assert ended["usage"]["retries"] == 0


async def test_a_failed_task_says_what_failed(room: Room) -> None:
    owner = await room.swarm("tool")
    made = await room.call("task_orchestrate", task="go", execution={"retryPolicy": "none"})
    owner.finish(next(iter(owner.work())), error="broken")

    seen = await room.call("task_status", taskId=made["taskId"])
    assert seen["status"] == "failed"
    assert seen["failures"][0]["message"] == "broken"
    error = await room.refused("task_result", taskId=made["taskId"])
    assert (error["code"], error["taskId"], error["status"]) == ("task", made["taskId"], "failed")
    assert error["failures"] == seen["failures"]


async def test_task_result_of_a_running_task_says_to_wait(room: Room) -> None:
    owner = await room.swarm("tool")
    made = await room.call("task_orchestrate", task="go")
    error = await room.refused("task_result", taskId=made["taskId"])
    assert (error["reason"], error["retryable"]) == ("not_ended", True)
    assert error["retryAfterMs"] > 0

    waiting = asyncio.create_task(room.call("task_result", taskId=made["taskId"], wait=True))
    await asyncio.sleep(0)
    owner.finish_all({"n": 3})
    done = await waiting
    assert done["status"] == "completed"
    assert done["result"] is not None


async def test_a_large_result_is_loaded_from_where_it_lies(room: Room) -> None:
    owner = await room.swarm("tool")
    made = await room.call("task_orchestrate", task="go")
    owner.finish_all(1)
    task = owner.state.tasks[made["taskId"]]
    task.result, task.result_ref = msgspec.Raw(b""), await owner.save(b'{"large":true}')

    assert (await room.call("task_result", taskId=task.id))["result"] == {"large": True}
    assert (await room.call("task_status"))["result"] == {"large": True}


async def test_unknown_tasks_and_those_of_others_are_not_found(room: Room) -> None:
    owner = await room.swarm("tool")
    none = await room.refused("task_status")
    assert (none["code"], none["reason"]) == ("swarm", "not_found")
    made = await room.call("task_orchestrate", task="go")
    for tool in ("task_status", "task_result", "task_cancel"):
        unknown = await room.refused(tool, taskId="task_0")
        assert (unknown["code"], unknown["reason"]) == ("swarm", "not_found")
        assert unknown["swarmId"] == owner.state.swarm
        stranger = await room.someone_else("bob").refused(
            tool, taskId=made["taskId"], swarmId=owner.state.swarm
        )
        assert (stranger["code"], stranger["reason"]) == ("swarm", "not_found")


async def test_task_cancel_stops_what_runs(room: Room) -> None:
    owner = await room.swarm("tool")
    made = await room.call("task_orchestrate", task="go")
    ((item, agent),) = owner.work().items()

    ended = await room.call("task_cancel", taskId=made["taskId"], reason="enough")

    task = owner.state.tasks[made["taskId"]]
    assert ended["cancelled"] is True
    assert ended["status"] == task.status == "cancelling"
    assert ended["stepsRunning"] == 1
    assert any(item in getattr(effect, "items", ()) for effect in owner.effects)
    owner.beat(agent)  # the attempt is not among what it has: it is gone
    room.swarms.clock.advance(30)
    again = await room.call("task_cancel", taskId=made["taskId"])
    assert again["cancelled"] is False


async def test_task_list_pages_the_callers_tasks_newest_first(room: Room) -> None:
    owner = await room.swarm("tool")
    made = [(await room.call("task_orchestrate", task=f"t{n}"))["taskId"] for n in range(3)]
    await room.call("task_cancel", taskId=made[0])

    page = await room.call("task_list", limit=2)
    rest = await room.call("task_list", cursor=page["cursor"])
    running = await room.call("task_list", status="running")

    assert [one["taskId"] for one in page["tasks"]] == [made[2], made[1]]
    assert [one["taskId"] for one in rest["tasks"]] == [made[0]]
    assert page["tasks"][0]["description"] == "t2"
    assert made[0] not in {one["taskId"] for one in running["tasks"]}
    assert owner.state.tasks.keys() == set(made)


async def test_a_task_that_the_state_has_forgotten_is_told_from_its_record(room: Room) -> None:
    owner = await room.swarm("tool")
    good = (await room.call("task_orchestrate", task="go"))["taskId"]
    owner.finish_all({"n": 4})
    result = (await room.call("task_result", taskId=good))["result"]
    bad = (await room.call("task_orchestrate", task="go", execution={"retryPolicy": "none"}))[
        "taskId"
    ]
    owner.finish(next(iter(owner.work())), error="broken")
    owner.forget(good)
    owner.forget(bad)

    assert (await room.call("task_result", taskId=good))["result"] == result
    status = await room.call("task_status", taskId=good)
    assert (status["status"], status["result"]) == ("completed", result)
    assert status["warnings"]
    error = await room.refused("task_result", taskId=bad)
    assert error["failures"][0]["message"] == "broken"
    assert (await room.call("task_status", taskId=bad))["status"] == "failed"
    assert (await room.call("task_cancel", taskId=good))["cancelled"] is False
    stranger = await room.someone_else("bob").swarm("tool")
    assert stranger.state.tasks == {}


# As an MCP task


def params(tool: str, **arguments: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode({"name": tool, "arguments": arguments}))


async def test_a_call_becomes_an_mcp_task_of_the_same_id(room: Room) -> None:
    owner = await room.swarm("tool")
    asked = params("task_orchestrate", task="go", wait=True)
    record = await dispatch.begin_task(owner, room.caller, "task_orchestrate", asked)

    assert record.id in owner.state.tasks
    assert (record.server, record.status, record.owner) == ("swarm", "working", "")
    assert record.upstream == owner.state.swarm
    assert (await room.call("task_status", taskId=record.id))["status"] == "running"


async def test_a_refused_call_becomes_no_task(room: Room) -> None:
    owner = await room.swarm("tool")
    asked = params("task_orchestrate", task={"description": "d", "requiredCapabilities": ["fly"]})
    refused = await dispatch.begin_task(owner, room.caller, "task_orchestrate", asked)
    planned = await dispatch.begin_task(
        owner, room.caller, "task_orchestrate", params("task_orchestrate", task="d", dryRun=True)
    )

    assert refused.id == planned.id == ""
    assert msgspec.json.decode(refused.result)["isError"] is True
    assert msgspec.json.decode(planned.result)["structuredContent"]["status"] == "planned"
    with pytest.raises(MeshError) as caught:
        await dispatch.begin_task(owner, room.caller, "swarm_status", params("swarm_status"))
    assert caught.value.kind is ErrorKind.METHOD
