import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_coordinator.core.spec import Aggregate, Fanout, SwarmConfig, Topology
from swarm_coordinator.core.steps import bound, steps_of
from swarm_coordinator.core.topology import network_of
from swarm_coordinator.core.views import AgentView, MergeForm, PhasePlan, PlanError, StepPlan

REDUCE = Aggregate(kind="reduce", agent="t")
SUM = Aggregate(kind="sum", pointer="/n")


def team(count: int, *capabilities: str) -> list[AgentView]:
    return [
        AgentView(id=f"a{i}", type="t", capabilities=capabilities, joined_ms=i)
        for i in range(count)
    ]


def made(
    topology: Topology,
    there: list[AgentView],
    items: int | None = None,
    fanout: int = 2,
    **members: object,
) -> list[StepPlan]:
    """Steps of a broadcast, or of a fan-out over numbers."""
    if items is not None:
        members["fanout"] = Fanout(items=msgspec.Raw(msgspec.json.encode(list(range(items)))))
    phase = PhasePlan(**{"name": "p", "each": items is None, **members})  # type: ignore[arg-type]
    network = network_of(topology, there, SwarmConfig(fanout=fanout))
    outputs = {"before": msgspec.Raw(b'{"n":100}'), "none": msgspec.Raw(b" null ")}
    return steps_of(phase, outputs, there, network)


def merges(steps: list[StepPlan]) -> list[tuple[str, str, tuple[str, ...], bool]]:
    return [
        (step.step, step.prefer, step.after, step.result)
        for step in steps
        if step.takes == "outputs"
    ]


def test_a_hierarchy_reduces_at_every_inner_node() -> None:
    steps = made("hierarchical", team(7), aggregate=REDUCE)
    assert merges(steps) == [
        ("p-m0", "a2", ("p-2", "p-5", "p-6"), False),
        ("p-m1", "a1", ("p-1", "p-3", "p-4"), False),
        ("p-m2", "a0", ("p-0", "p-m1", "p-m0"), True),
    ]
    assert [step.step for step in steps if step.result] == ["p-m2"]
    assert all(step.kind == "merge" for step in steps if step.takes == "outputs")


def test_a_merge_is_given_outputs_in_order() -> None:
    merge = made("mesh", team(2), aggregate=REDUCE)[-1]
    assert msgspec.json.decode(bound(merge, [b'{"n": 1.0}', b"2"])) == {
        "input": {
            "outputs": [{"n": 1.0}, 2],
            "aggregate": {"kind": "reduce", "agent": "t"},
        }
    }


@pytest.mark.parametrize("topology", ["mesh", "ring", "star"])
def test_elsewhere_one_merge_takes_everything(topology: Topology) -> None:
    steps = made(topology, team(3), aggregate=REDUCE)
    assert merges(steps) == [("p-m0", "a0", ("p-0", "p-1", "p-2"), True)]


def test_who_reduces_need_not_be_who_works() -> None:
    agents = [*team(3), AgentView(id="boss", type="coordinator", joined_ms=9)]
    reduce = Aggregate(kind="reduce", agent="coordinator")
    steps = made("hierarchical", agents, agents=("t",), aggregate=reduce)
    assert [(step.agents, step.after) for step in steps if step.takes == "outputs"] == [
        (("boss",), ("p-0", "p-1", "p-2"))
    ]


def test_a_tool_can_reduce() -> None:
    steps = made("mesh", team(2), items=3, aggregate=Aggregate(kind="reduce", tool="join"))
    merge = steps[-1]
    assert (merge.kind, merge.after) == ("tool", ("p-0", "p-1", "p-2"))
    assert msgspec.json.decode(bound(merge, [b"1", b"2"])) == {
        "tool": "join",
        "arguments": {"outputs": [1, 2]},
    }


def test_one_output_is_reduced_too_and_none_is_not() -> None:
    assert len(merges(made("mesh", team(1), items=1, aggregate=REDUCE))) == 1
    assert made("mesh", team(1), items=0, aggregate=REDUCE) == []


def test_a_single_step_is_not_merged() -> None:
    assert len(made("mesh", team(3), each=False, single=True, aggregate=REDUCE)) == 1


@pytest.mark.parametrize(
    ("topology", "kind", "capable", "expected"),
    [
        ("hierarchical", "sum", True, 3),
        ("hierarchical", "union", True, 3),
        ("hierarchical", "avg", True, 0),
        ("hierarchical", "median", True, 0),
        ("hierarchical", "all", True, 0),
        ("hierarchical", "sum", False, 0),
        ("star", "sum", True, 1),
        ("star", "sum", False, 0),
        ("mesh", "sum", True, 0),
        ("ring", "sum", True, 0),
    ],
)
def test_only_functions_that_may_meet_anywhere_go_up_the_tree(
    topology: Topology, kind: str, capable: bool, expected: int
) -> None:
    agents = team(7, "merge") if capable else team(7)
    aggregate = msgspec.structs.replace(SUM, kind=kind)
    assert len(merges(made(topology, agents, aggregate=aggregate))) == expected


def test_a_node_that_cannot_merge_passes_on() -> None:
    agents = [
        msgspec.structs.replace(agent, capabilities=("merge",) if agent.id != "a1" else ())
        for agent in team(7)
    ]
    assert merges(made("hierarchical", agents, aggregate=SUM)) == [
        ("p-m0", "a2", ("p-2", "p-5", "p-6"), False),
        ("p-m1", "a0", ("p-0", "p-1", "p-3", "p-4", "p-m0"), True),
    ]


def test_a_phase_that_nobody_can_reduce_is_refused() -> None:
    with pytest.raises(PlanError, match="nobody in the team is wizard"):
        made("mesh", team(2), aggregate=Aggregate(kind="reduce", agent="wizard"))


def test_a_merge_has_the_form_its_agents_know() -> None:
    form = MergeForm(input=msgspec.Raw(b'{"do":"merge"}'), member="runs", begin="/before/output")
    steps = made("mesh", team(2), items=2, aggregate=REDUCE, merge=form)
    assert msgspec.json.decode(bound(steps[-1], [b"1", b"2"])) == {
        "input": {"do": "merge", "runs": [{"n": 100}, 1, 2]}
    }


def test_a_merge_with_a_beginning_happens_even_over_nothing() -> None:
    form = MergeForm(begin="/before/output")
    (step,) = made("mesh", team(2), items=0, aggregate=REDUCE, merge=form)
    assert msgspec.json.decode(bound(step, []))["input"]["outputs"] == [{"n": 100}]
    nothing = msgspec.structs.replace(form, begin="/none/output")
    assert made("mesh", team(2), items=0, aggregate=REDUCE, merge=nothing) == []


@given(
    st.sampled_from(["mesh", "star", "ring", "hierarchical"]),
    st.integers(1, 12),
    st.integers(0, 40),
    st.integers(1, 4),
    st.sampled_from([REDUCE, SUM]),
    st.sets(st.integers(0, 11)),
)
def test_whatever_the_shape_every_output_is_taken_up_once(
    topology: Topology,
    count: int,
    items: int,
    fanout: int,
    aggregate: Aggregate,
    able: set[int],
) -> None:
    agents = [
        msgspec.structs.replace(agent, capabilities=("merge",) if i in able else ())
        for i, agent in enumerate(team(count))
    ]
    steps = made(topology, agents, items=items, fanout=fanout, aggregate=aggregate)
    values: dict[str, int] = {}
    for step in steps:
        if step.takes == "outputs":
            outputs = [msgspec.Raw(b"%d" % values[name]) for name in step.after]
            payload = msgspec.json.decode(bound(step, outputs))
            values[step.step] = sum(payload["input"]["outputs"])
        else:
            values[step.step] = msgspec.json.decode(step.payload)["input"]
    results = [step.step for step in steps if step.result]
    assert sum(values[name] for name in results) == sum(range(items))
    assert len({step.step for step in steps}) == len(steps)
    if aggregate is REDUCE:
        assert len(results) == min(items, 1)
