"""``reduce`` over several last phases is a phase of its own, by an agent or a tool."""

import pytest
from tests.swarm_world import World, fanned, raw, task_of, value_of

from swarm_coordinator.core import decide
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.spec import Aggregate, Coordination, Execution, PhaseSpec


def reducing(**how: object) -> Execution:
    aggregate = Aggregate(kind="reduce", **how)  # type: ignore[arg-type]
    return Execution(aggregate=aggregate, failure_threshold=1.0)


def single(name: str, *needs: str, **more: object) -> PhaseSpec:
    return PhaseSpec(name=name, input=raw({}), dependencies=needs, **more)  # type: ignore[arg-type]


def test_an_agent_reduces_the_outputs_of_all_last_phases() -> None:
    world = World(2)
    boss = world.agent("boss", type="coordinator")
    task = world.submit(
        task_of(single("a"), single("b"), single("c", "b"), execution=reducing(agent="boss"))
    )
    assert [one.name for one in world.task(task).plan.phases] == ["a", "b", "c", "result"]
    world.ok(world.item("a-0"), {"n": 1})
    world.ok(world.item("b-0"), {"n": 2})
    world.ok(world.item("c-0"), {"n": 3})
    sent = world.sent[world.item("result-0")][1]
    assert (sent.agent, sent.kind) == (boss, "merge")
    assert value_of(sent.payload) == {
        "input": {
            "outputs": [{"n": 1}, {"n": 3}],
            "aggregate": {"kind": "reduce", "agent": "boss"},
        }
    }
    world.ok(sent.item, {"n": 4})
    assert world.result_of(task) == {"n": 4}
    assert not world.task(task).partial


def test_a_tool_reduces_the_named_part_of_them() -> None:
    world = World(1)
    world.agent("caller", type="tool")
    task = world.submit(
        task_of(
            single("a"),
            single("b"),
            parallelism=2,
            execution=reducing(tool="join", pointer="/n"),
        )
    )
    world.ok(world.item("a-0"), {"n": 1.50})
    world.ok(world.item("b-0"), {"n": [2]})
    sent = world.sent[world.item("result-0")][1]
    assert sent.agent == "caller"
    assert value_of(sent.payload) == {"tool": "join", "arguments": {"outputs": [1.5, [2]]}}
    world.ok(sent.item, "1.5,2")
    assert world.result_of(task) == "1.5,2"


def test_what_failed_is_left_out_and_the_result_is_partial() -> None:
    world = World(1)
    world.agent("boss", type="coordinator")
    spoiled = fanned(1, "a", on_failure="skip_dependents", aggregate=Aggregate())
    task = world.submit(task_of(spoiled, single("b"), execution=reducing(agent="boss")))
    world.fail(world.item("a-0"))
    world.ok(world.item("b-0"), 2)
    sent = world.sent[world.item("result-0")][1]
    assert value_of(sent.payload)["input"]["outputs"] == [2]  # type: ignore[index]
    world.ok(sent.item, 2)
    assert world.result_of(task) == 2
    assert world.task(task).partial


def test_nothing_is_reduced_when_nothing_came() -> None:
    world = World(1)
    world.agent("boss", type="coordinator")
    phases = [
        fanned(1, name, on_failure="skip_dependents", aggregate=Aggregate()) for name in ("a", "b")
    ]
    task = world.submit(task_of(*phases, execution=reducing(agent="boss")))
    world.fail(world.item("a-0"))
    world.fail(world.item("b-0"))
    found = world.task(task)
    assert (found.status, found.reason) == ("failed", "no_result")
    assert "none of 1 steps" in found.message


def test_one_last_phase_is_the_result_as_it_is() -> None:
    world = World(1)
    world.agent("boss", type="coordinator")
    task = world.submit(task_of(single("a"), single("b", "a"), execution=reducing(agent="boss")))
    assert [one.name for one in world.task(task).plan.phases] == ["a", "b"]


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    world = World(1)
    world.agent("boss", type="coordinator")
    task = world.submit(task_of(single("result"), single("b"), execution=reducing(agent="boss")))
    assert world.task(task).plan.outputs == ("result-",)


@pytest.mark.parametrize(
    ("phases", "where"),
    [
        ([single("a", aggregate=Aggregate())], "/execution/resultAggregation/agent"),
        (
            [fanned(2, "a", vote=Coordination(), aggregate=Aggregate(kind="reduce", tool="t"))],
            "/task/phases/0/aggregate",
        ),
    ],
)
def test_a_reduce_that_cannot_be_is_refused_with_its_place(
    phases: list[PhaseSpec], where: str
) -> None:
    world = World(1)
    who = "wizard" if where.startswith("/execution") else "agent_01"
    with pytest.raises(Refusal) as caught:
        decide.plan_for(world.state, task_of(*phases, execution=reducing(agent=who)))
    assert (caught.value.code, caught.value.data["where"]) == ("params", where)
