import msgspec
import pytest

from swarm_coordinator.core.arguments import orchestrate_of
from swarm_coordinator.core.plan import plan_of, planned
from swarm_coordinator.core.spec import Aggregate, SwarmConfig, TaskSpec, Topology
from swarm_coordinator.core.views import AgentView, PhasePlan, Plan, PlanError

AGENTS = [
    AgentView(id="agent_1", type="tester", name="bob"),
    AgentView(id="agent_2", type="validator"),
]


def spec_of(**task: object) -> TaskSpec:
    body = msgspec.json.encode({"task": {"description": "do it", **task}})
    return orchestrate_of(body, SwarmConfig()).spec


def phases(*given: dict[str, object], topology: Topology | None = None, **task: object) -> Plan:
    every = [{"prompt": "x", **phase} if "tool" not in phase else phase for phase in given]
    return plan_of(spec_of(phases=every, **task), AGENTS, topology=topology)


def refused(
    *given: dict[str, object], topology: Topology | None = None, **task: object
) -> PlanError:
    with pytest.raises(PlanError) as caught:
        phases(*given, topology=topology, **task)
    return caught.value


def ref(pointer: str) -> dict[str, str]:
    return {"$ref": pointer}


def test_phases_stand_behind_their_dependencies() -> None:
    plan = phases(
        {"name": "c", "dependencies": ["a", "b"]},
        {"name": "b", "dependencies": ["a"]},
        {"name": "a"},
        {"name": "d"},
    )
    assert [phase.name for phase in plan.phases] == ["a", "b", "c", "d"]
    assert plan.outputs == ("c", "d")
    assert plan.source == "phases"


@pytest.mark.parametrize(
    ("given", "where", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "/task/phases/1/name", "two phases are called a"),
        (
            [{"name": "a", "dependencies": ["b"]}],
            "/task/phases/0/dependencies/0",
            "no phase is called b",
        ),
        (
            [{"name": "a", "dependencies": ["a"]}],
            "/task/phases/0/dependencies",
            "phases wait for each other: a → a",
        ),
        (
            [
                {"name": "x", "dependencies": ["b"]},
                {"name": "a", "dependencies": ["c"]},
                {"name": "b", "dependencies": ["a"]},
                {"name": "c", "dependencies": ["b"]},
            ],
            "/task/phases/2/dependencies",
            "phases wait for each other: b → a → c → b; x would never be reached",
        ),
        (
            [{"name": "a", "agents": ["bob", "alice"]}],
            "/task/phases/0/agents/1",
            "no agent has the id, name or type alice; there are agent_2, bob",
        ),
        (
            [{"name": "a", "aggregate": {"kind": "reduce", "agent": "alice"}}],
            "/task/phases/0/aggregate/agent",
            "no agent has the id, name or type alice; there are agent_2, bob",
        ),
        (
            [{"name": "a", "vote": {"equality": {"kind": "judge", "agent": "alice"}}}],
            "/task/phases/0/vote/equality/agent",
            "no agent has the id, name or type alice; there are agent_2, bob",
        ),
        (
            [{"name": "a", "input": {"x": [ref("/b/output")]}}],
            "/task/phases/0/input/x/0",
            "no phase is called b",
        ),
        (
            [{"name": "b"}, {"name": "a", "input": ref("/b/output/x")}],
            "/task/phases/1/input",
            "a does not wait for b: add it to dependencies",
        ),
        (
            [{"name": "a", "input": ref("/a/output")}],
            "/task/phases/0/input",
            "a phase cannot refer to its own output",
        ),
        (
            [{"name": "b"}, {"name": "a", "fanout": {"itemsFrom": "/b/output"}}],
            "/task/phases/1/fanout/itemsFrom",
            "a does not wait for b: add it to dependencies",
        ),
        (
            [{"name": "a", "fanout": {"itemsFrom": "/item/x"}}],
            "/task/phases/0/fanout/itemsFrom",
            "expected /phase/output/…: item is known to steps only",
        ),
        (
            [{"name": "a", "fanout": {"itemsFrom": "/b/x"}}],
            "/task/phases/0/fanout/itemsFrom",
            "expected /phase/output/…, /item/…, /index or /previous/…",
        ),
        (
            [{"name": "a", "input": {"x": ref("/item")}}],
            "/task/phases/0/input/x",
            "only a phase with fanout items has an item",
        ),
        (
            [{"name": "a", "input": ref("/index"), "fanout": {"shards": 2}}],
            "/task/phases/0/input",
            "only a phase with fanout items has an item",
        ),
    ],
)
def test_a_wrong_plan_is_refused_with_its_place(
    given: list[dict[str, object]], where: str, message: str
) -> None:
    error = refused(*given)
    assert (error.where, error.message) == (where, message)


def test_a_reference_may_reach_over_several_phases() -> None:
    plan = phases(
        {"name": "a"},
        {"name": "b", "dependencies": ["a"]},
        {"name": "c", "dependencies": ["b"], "input": ref("/a/output")},
    )
    assert len(plan.phases) == 3


def test_a_reference_to_the_step_before_needs_a_chain() -> None:
    given: dict[str, object] = {"name": "a", "input": {"x": {"$ref": "/previous", "first": 0}}}
    assert refused(given, topology="mesh").where == "/task/phases/0/input/x"
    assert phases(given, topology="ring")
    assert phases(given, topology="mesh", strategy="sequential")
    assert refused({**given, "vote": {}}, topology="ring").where == "/task/phases/0/input/x"


def test_a_sequential_plan_is_one_chain_in_order() -> None:
    plan = phases(
        {"name": "z", "dependencies": ["m"]},
        {"name": "m"},
        {"name": "a"},
        strategy="sequential",
    )
    assert [(phase.name, phase.dependencies, phase.previous) for phase in plan.phases] == [
        ("m", (), ""),
        ("z", ("m",), "m"),
        ("a", ("z",), "z"),
    ]
    assert all(phase.chained for phase in plan.phases)
    assert plan.outputs == ("a",)


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        ({"prompt": "x"}, "prompt"),
        ({"tool": "t"}, "tool"),
        ({"input": 1}, "call"),
        ({"prompt": "x", "vote": {}}, "vote"),
        ({"tool": "t", "vote": {}}, "tool"),
        ({"input": ref("/q/output"), "agents": ["validator"]}, "validate"),
        ({"input": ref("/q/output"), "agents": ["agent_2"]}, "validate"),
        ({"input": ref("/q/output"), "agents": ["agent_2", "bob"]}, "call"),
        ({"input": {"value": ref("/q/output"), "schema": {}}, "agents": ["validator"]}, "call"),
    ],
)
def test_a_phase_has_the_kind_of_what_it_says(phase: dict[str, object], kind: str) -> None:
    given = [{"name": "q", "prompt": "x"}, {"name": "p", "dependencies": ["q"], **phase}]
    plan = plan_of(spec_of(phases=given), AGENTS)
    assert plan.phases[1].kind == kind


def test_a_phase_takes_from_the_task_what_it_does_not_say() -> None:
    body = {
        "task": {
            "description": "d",
            "phases": [
                {"name": "a", "prompt": "x"},
                {"name": "b", "prompt": "x", "aggregate": "sum", "retryPolicy": "none"},
                {"name": "c", "prompt": "x", "fanout": {"items": [1]}},
            ],
        },
        "execution": {"resultAggregation": "union", "retryPolicy": "fixed"},
    }
    plan = plan_of(orchestrate_of(msgspec.json.encode(body), SwarmConfig()).spec, [])
    assert [phase.single for phase in plan.phases] == [True, False, False]
    assert [phase.aggregate.kind for phase in plan.phases] == ["union", "sum", "union"]
    assert [phase.retry.max_attempts for phase in plan.phases] == [3, 1, 3]


def test_a_name_that_can_be_spawned_may_be_missing() -> None:
    assert phases({"name": "a", "agents": ["analyst"]})
    assert refused({"name": "a", "agents": ["wizard"]})
    assert phases({"name": "a", "agents": ["wizard"]}, autoSpawn=True)


def test_a_task_without_a_plan_is_a_broadcast() -> None:
    (phase,) = plan_of(spec_of(parallelism=3), AGENTS).phases
    assert (phase.kind, phase.prompt, phase.each, bytes(phase.input)) == (
        "prompt", "do it", True, b"",
    )  # fmt: skip
    (phase,) = plan_of(spec_of(input={"q": 1}), AGENTS).phases
    assert (phase.kind, phase.prompt, bytes(phase.input)) == ("call", "do it", b'{"q":1}')
    (phase,) = plan_of(spec_of(consensusRequired=True), AGENTS).phases
    assert phase.kind == "vote"
    assert phase.vote is not None


def test_a_planner_is_asked_where_there_is_one() -> None:
    planner = AgentView(id="agent_p", type="llm", capabilities=("plan",))
    spec = spec_of(planner=True, input={"q": 1})
    plan = plan_of(spec, [planner])
    assert (plan.source, plan.phases[0].agents) == ("planner", ("agent_p",))
    assert msgspec.json.decode(plan.phases[0].input) == {
        "agents": [{"id": "agent_p", "type": "llm", "capabilities": ["plan"]}],
        "input": {"q": 1},
    }
    without = plan_of(spec, AGENTS)
    assert (without.source, len(without.warnings)) == ("broadcast", 1)


def test_the_phases_of_a_planner_are_checked_like_those_of_a_caller() -> None:
    spec = spec_of(planner=True)
    full, plan = planned(spec, b'{"phases":[{"name":"a","prompt":"x"}],"why":1}', AGENTS)
    assert (plan.source, [one.name for one in full.phases]) == ("phases", ["a"])
    assert plan.warnings == ("/plan/output/why is unknown and was ignored",)
    for output, where in (
        (b'"a plan"', "/plan/output"),
        (b"{}", "/plan/output/phases"),
        (b'{"phases":[{"name":"a"}]}', "/plan/output/phases/0"),
    ):
        with pytest.raises(PlanError) as caught:
            planned(spec, output, AGENTS)
        assert caught.value.where == where


def test_a_plan_survives_the_log() -> None:
    plan = phases({"name": "a", "fanout": {"items": [1, 2]}, "input": {"x": ref("/item")}})
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert msgspec.json.decode(b'{"name":"a"}', type=PhasePlan).aggregate == Aggregate()
