import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_coordinator.core.plan import plan_of
from swarm_coordinator.core.spec import (
    Aggregate,
    Coordination,
    Equality,
    PhaseSpec,
    TaskSpec,
)
from swarm_coordinator.core.team import (
    candidates,
    choose_team,
    covering,
    estimate_ms,
    named,
    require_team,
)
from swarm_coordinator.core.views import AgentView, Pace, PhasePlan, PlanError


def agent(id_: str, *capabilities: str, **more: object) -> AgentView:
    return AgentView(id=id_, capabilities=capabilities, **{"type": "t", **more})  # type: ignore[arg-type]


def team(spec: TaskSpec, *agents: AgentView) -> object:
    return choose_team(spec, plan_of(spec, agents), agents)


WORDS = st.sampled_from("abcdef")
AGENTS = st.lists(
    st.tuples(st.sets(WORDS, max_size=3), st.integers(0, 5), st.floats(0, 1) | st.none()),
    max_size=8,
).map(
    lambda rows: [
        agent(f"a{i}", *sorted(held), load=load, success_rate=rate)
        for i, (held, load, rate) in enumerate(rows)
    ]
)


@given(AGENTS, st.lists(WORDS, max_size=6))
def test_a_cover_holds_all_that_anybody_holds(agents: list[AgentView], required: list[str]) -> None:
    cover, missing = covering(required, agents)
    held = {one for member in cover for one in member.capabilities}
    everything = {one for member in agents for one in member.capabilities}
    assert set(missing) == set(required) - everything
    assert set(required) - set(missing) <= held
    for i, member in enumerate(cover):
        before = {one for other in cover[:i] for one in other.capabilities}
        assert set(member.capabilities) & set(required) - before, "each adds something"
    assert covering(required, agents[::-1]) == (cover, missing)


@given(AGENTS, st.lists(WORDS, max_size=6, unique=True), st.integers(1, 20))
def test_a_team_is_the_same_in_any_order_of_agents(
    agents: list[AgentView], required: list[str], size: int
) -> None:
    spec = TaskSpec(description="x", required_capabilities=tuple(required), parallelism=size)
    forth = choose_team(spec, plan_of(spec, agents), agents)
    assert forth == choose_team(spec, plan_of(spec, agents), agents[::-1])
    assert len(set(forth.ids)) == len(forth.ids)
    assert len(forth.ids) + forth.short >= min(size, len(agents))
    assert forth.short == max(0, size - len(forth.ids))


@pytest.mark.parametrize(
    ("agents", "expected"),
    [
        ([agent("b", "x"), agent("a", "x")], "a"),
        ([agent("b", "x"), agent("a", "x", load=1)], "b"),
        ([agent("b", "x", load=1, slots=4), agent("a", "x", load=1)], "b"),
        ([agent("b", "x"), agent("a", "x", success_rate=0.9)], "b"),
        ([agent("b", "x", success_rate=1.0), agent("a", "x", success_rate=0.2)], "b"),
        ([agent("b", "x", "y", load=5), agent("a", "x")], "a"),
    ],
)
def test_a_tie_goes_by_load_then_success_then_id(agents: list[AgentView], expected: str) -> None:
    cover, _ = covering(["x"], agents)
    assert [one.id for one in cover] == [expected]


def test_the_union_of_a_team_covers_what_no_single_agent_holds() -> None:
    spec = TaskSpec(description="x", required_capabilities=("a", "b", "c"))
    chosen = team(spec, agent("one", "a", "b"), agent("two", "c"), agent("three", "a"))
    assert chosen.ids == ("one", "two")  # type: ignore[attr-defined]
    assert chosen.complete  # type: ignore[attr-defined]


def test_an_uncovered_capability_is_listed() -> None:
    spec = TaskSpec(description="x", required_capabilities=("z", "a", "y"))
    chosen = choose_team(spec, plan_of(spec, [agent("one", "a")]), [agent("one", "a")])
    assert chosen.missing == ("z", "y")
    assert not chosen.complete


def test_what_a_phase_requires_must_be_held_by_one_agent() -> None:
    spec = TaskSpec(
        description="x", phases=(PhaseSpec(name="p", prompt="do", requires=("a", "b", "c")),)
    )
    halves = [agent("one", "a", "b"), agent("two", "c")]
    chosen = choose_team(spec, plan_of(spec, halves), halves)
    assert chosen.missing == ("c",)
    whole = [*halves, agent("three", "a", "b", "c")]
    chosen = choose_team(spec, plan_of(spec, whole), whole)
    assert "three" in chosen.ids
    assert chosen.complete


def test_naming_a_type_means_every_agent_of_it() -> None:
    spec = TaskSpec(description="x", phases=(PhaseSpec(name="p", prompt="x", agents=("tester",)),))
    there = [agent("a", type="tester"), agent("b", type="other"), agent("c", type="tester")]
    assert choose_team(spec, plan_of(spec, there), there).ids == ("a", "c")


def test_a_type_that_nobody_is_of_is_absent() -> None:
    spec = TaskSpec(description="x", phases=(PhaseSpec(name="p", prompt="x", agents=("tester",)),))
    chosen = choose_team(spec, plan_of(spec, []), [])
    assert (chosen.absent, chosen.complete) == (("tester",), False)


def test_a_team_has_who_reduces_and_who_judges() -> None:
    vote = Coordination(equality=Equality(kind="judge", agent="judge"))
    spec = TaskSpec(
        description="x",
        phases=(
            PhaseSpec(name="p", prompt="x", agents=("w",), vote=vote),
            PhaseSpec(
                name="q", prompt="x", agents=("w",), aggregate=Aggregate(kind="reduce", agent="red")
            ),
        ),
    )
    there = [agent("w"), agent("judge"), agent("red"), agent("idle")]
    chosen = choose_team(spec, plan_of(spec, there), there)
    assert chosen.ids == ("w", "judge", "red")
    roles = {member.agent_id: member.role for member in chosen.members}
    assert roles == {"w": "worker", "judge": "validator", "red": "coordinator"}


def test_a_team_is_filled_with_the_skilled_first() -> None:
    spec = TaskSpec(description="x", required_capabilities=("a",), parallelism=3)
    there = [agent("a0"), agent("a1", "a", load=3), agent("a2", "a"), agent("a3")]
    chosen = choose_team(spec, plan_of(spec, there), there)
    assert chosen.ids == ("a2", "a1", "a0")


def test_a_team_that_is_too_small_says_by_how_many() -> None:
    spec = TaskSpec(description="x", parallelism=5)
    there = [agent("a"), agent("b")]
    assert choose_team(spec, plan_of(spec, there), there).short == 3


def test_a_team_of_nobody_is_not_complete() -> None:
    spec = TaskSpec(description="x")
    assert not choose_team(spec, plan_of(spec, []), []).complete


def test_a_tool_phase_that_names_nobody_goes_to_tool_agents() -> None:
    phase = PhasePlan(name="p", kind="tool", tool="kv_get")
    there = [agent("a"), agent("b", type="tool")]
    assert [one.id for one in candidates(phase, there)] == ["b"]
    assert [one.id for one in candidates(phase, there[:1])] == ["a"]
    spec = TaskSpec(description="x", phases=(PhaseSpec(name="p", tool="kv_get"),))
    assert choose_team(spec, plan_of(spec, there), there).ids == ("b",)


def test_a_name_is_an_id_before_a_name_before_a_type() -> None:
    there = [agent("x", name="y"), agent("y", name="z"), agent("q", type="z")]
    assert [one.id for one in named("y", there)] == ["y"]
    assert [one.id for one in named("z", there)] == ["y"]
    assert [one.id for one in named("t", there)] == ["x", "y"]
    assert named("nobody", there) == ()


def test_a_phase_without_anybody_is_an_error_that_says_who_was_wanted() -> None:
    phase = PhasePlan(name="p", where="/task/phases/0", agents=("tester",), requires=("gpu",))
    with pytest.raises(PlanError, match="nobody in the team of tester that holds gpu"):
        require_team(phase, [agent("a")])


def pace(ms: float, samples: int = 3) -> dict[str, Pace]:
    return {"call": Pace(ewma_ms=ms, samples=samples)}


@pytest.mark.parametrize(
    ("phase", "agents", "steps", "expected"),
    [
        (PhasePlan(name="p"), [agent("a")], 1, None),
        (PhasePlan(name="p"), [agent("a", durations=pace(100, 2))], 1, None),
        (PhasePlan(name="p"), [agent("a", durations=pace(100))], 1, 100),
        (PhasePlan(name="p"), [agent("a", durations=pace(100))], 10, 1000),
        (PhasePlan(name="p"), [agent("a", durations=pace(100), slots=5)], 10, 200),
        (PhasePlan(name="p"), [agent("a", durations=pace(100)), agent("b")], 10, None),
        (PhasePlan(name="p", kind="vote"), [agent("a", durations=pace(100))], 1, None),
        (
            PhasePlan(name="p", each=True),
            [agent("a", durations=pace(100)), agent("b", durations=pace(300))],
            2,
            300,
        ),
        (
            PhasePlan(name="p", chained=True),
            [agent("a", durations=pace(100)), agent("b", durations=pace(300))],
            4,
            800,
        ),
    ],
)
def test_an_estimate_is_of_measured_durations_or_none(
    phase: PhasePlan, agents: list[AgentView], steps: int, expected: float | None
) -> None:
    assert estimate_ms(phase, agents, steps) == (
        None if expected is None else pytest.approx(expected)
    )
