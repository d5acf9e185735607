import tomllib
from importlib.resources import files

import msgspec
import pytest

from swarm_coordinator.core.arguments import orchestrate_of
from swarm_coordinator.core.electorate import electorate_fault
from swarm_coordinator.core.plan import plan_of
from swarm_coordinator.core.rule_classes import LINTERS, SCANNERS, electorate
from swarm_coordinator.core.spec import SwarmConfig, TaskSpec
from swarm_coordinator.core.steps import bound, steps_of
from swarm_coordinator.core.team import choose_team
from swarm_coordinator.core.topology import network_of
from swarm_coordinator.core.views import AgentView, Plan, PlanError, StepPlan


def agents(*types: str, capabilities: tuple[tuple[str, ...], ...] = ()) -> list[AgentView]:
    held = capabilities or ((),) * len(types)
    return [
        AgentView(id=f"a{i}", type=kind, capabilities=held[i], joined_ms=i, slots=2)
        for i, kind in enumerate(types)
    ]


def spec_of(template: str, given: object = None, **task: object) -> TaskSpec:
    members = {"description": "d", "template": template, "input": given, **task}
    return orchestrate_of(msgspec.json.encode({"task": members}), SwarmConfig()).spec


def steps(
    plan: Plan, name: str, there: list[AgentView], topology: str = "mesh", **outputs: object
) -> list[StepPlan]:
    (phase,) = [phase for phase in plan.phases if phase.name == name]
    encoded = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in outputs.items()}
    return steps_of(phase, encoded, there, network_of(topology, there, SwarmConfig()))  # type: ignore[arg-type]


def inputs(made: list[StepPlan]) -> list[object]:
    return [msgspec.json.decode(step.payload)["input"] for step in made]


REVIEWERS = agents(
    "reviewer", "reviewer", "security", "tester",
    capabilities=(("lint", "ruff"), ("lint", "pylint"), ("security", "bandit"), ()),
)  # fmt: skip


def test_a_review_shards_files_and_lets_every_reviewer_vote_on_each() -> None:
    given = {"root": "src", "files": ["a.py", "b.py", "c.py"], "shards": 2, "unmapped": True}
    plan = plan_of(spec_of("code_review", given), REVIEWERS)
    made = steps(plan, "review", REVIEWERS)
    assert [(step.agents[0], step.group) for step in made] == [
        ("a0", 0), ("a1", 0), ("a2", 0), ("a0", 1), ("a1", 1), ("a2", 1),
    ]  # fmt: skip
    assert inputs(made)[0] == {"root": "src", "unmapped": True, "files": ["a.py"]}
    assert inputs(made)[-1] == {"root": "src", "unmapped": True, "files": ["b.py", "c.py"]}
    assert all(step.kind == "vote" and step.ballot for step in made)
    assert plan.phases[0].aggregate.kind == "concat"
    assert plan.outputs == ("review",)
    assert not plan.warnings


def test_a_review_shards_by_a_hundred_files() -> None:
    given = {"files": [f"f{i}.py" for i in range(250)]}
    plan = plan_of(spec_of("code_review", given), REVIEWERS)
    sizes = [len(one["files"]) for one in inputs(steps(plan, "review", REVIEWERS))[::3]]  # type: ignore[index]
    assert sizes == [83, 83, 84]


def test_a_review_is_done_by_whom_the_caller_names() -> None:
    plan = plan_of(spec_of("code_review", {"files": ["a"], "reviewers": ["a1"]}), REVIEWERS)
    assert [step.agents for step in steps(plan, "review", REVIEWERS)] == [("a1",)]


def test_the_default_electorate_is_fitted_to_what_voters_declare() -> None:
    silent = agents("reviewer", "security", capabilities=(("lint",), ("security", "bandit")))
    rules = plan_of(spec_of("code_review", {"files": ["a"]}), silent).phases[0].vote
    assert rules is not None
    classes = msgspec.json.decode(rules.electorate)
    assert classes["unused-import"] == ["ruff", "lint", "pyflakes", "pylint"]
    assert "security" not in classes["shell"]
    mixed = agents("reviewer", "reviewer", capabilities=(("lint",), ("lint", "ruff")))
    plan = plan_of(spec_of("code_review", {"files": ["a"]}), mixed)
    assert [warning.split(":")[0] for warning in plan.warnings] == ["a0"]


def test_an_electorate_of_the_caller_stays_as_it_is() -> None:
    body = {
        "task": {"description": "d", "template": "code_review", "input": {"files": ["a"]}},
        "coordination": {"electorate": "declared"},
    }
    spec = orchestrate_of(msgspec.json.encode(body), SwarmConfig()).spec
    rules = plan_of(spec, REVIEWERS).phases[0].vote
    assert rules is not None
    assert bytes(rules.electorate) == b'"declared"'


def test_the_classes_of_tools_are_those_of_the_agents() -> None:
    table = tomllib.loads(
        files("mesh_agents.types").joinpath("rule_classes.toml").read_text("utf-8")
    )
    known = {name: set(tools) for name, tools in table.items()}
    assert {name: set(tools) for name, tools in msgspec.json.decode(electorate()).items()} == known
    assert set().union(*known.values()) == {*LINTERS, *SCANNERS}
    assert not electorate_fault(electorate(("lint", "security")))


TESTERS = agents("tester", "tester", "reviewer")
SHARDS = [
    {"do": "run", "root": "proj", "tests": ["t::1"], "retry": False, "seconds": 1.0},
    {"do": "run", "root": "proj", "tests": ["t::2"], "retry": False, "seconds": 1.0},
]


def test_a_test_run_collects_runs_and_tries_failures_elsewhere() -> None:
    given = {"root": "proj", "durations": {"t::1": 0.25}}
    plan = plan_of(spec_of("test_run", given), TESTERS)
    assert [phase.name for phase in plan.phases] == ["collect", "run", "again"]
    assert plan.outputs == ("again",)
    assert choose_team(spec_of("test_run", given), plan, TESTERS).ids == ("a0", "a1")
    (collect,) = steps(plan, "collect", TESTERS)
    assert inputs([collect]) == [
        {
            "do": "collect", "root": "proj", "durations": {"t::1": 0.25}, "shards": 8,
            "retry": False,
        }
    ]  # fmt: skip
    *shards, merge = steps(plan, "run", TESTERS, collect={"shards": SHARDS})
    assert inputs(shards) == SHARDS
    assert {step.agents for step in shards} == {("a0", "a1")}
    assert msgspec.json.decode(bound(merge, [b'{"tests":[]}', b"{}"])) == {
        "input": {"do": "merge", "runs": [{"tests": []}, {}]}
    }
    failure = {"do": "run", "root": "proj", "tests": ["t::1"], "retry": False, "agent": "a1"}
    report = {"tests": [1], "failures": [failure]}
    again, last = steps(plan, "again", TESTERS, run=report)
    assert (inputs([again]), again.avoid) == ([failure], ("a1",))
    assert msgspec.json.decode(bound(last, [b'{"tests":[2]}']))["input"] == {
        "do": "merge",
        "runs": [report, {"tests": [2]}],
    }


def test_a_test_run_without_failures_still_reports() -> None:
    plan = plan_of(spec_of("test_run", {"root": "proj"}), TESTERS)
    (last,) = steps(plan, "again", TESTERS, run={"tests": [1]})
    assert msgspec.json.decode(bound(last, []))["input"]["runs"] == [{"tests": [1]}]
    assert last.result


def test_a_test_run_that_finds_no_tests_fails() -> None:
    plan = plan_of(spec_of("test_run", {"root": "proj"}), TESTERS)
    with pytest.raises(PlanError, match="0 items; at least 1"):
        steps(plan, "run", TESTERS, collect={"shards": []})


def test_an_analysis_is_split_mapped_and_reduced_in_a_tree() -> None:
    analysts = agents(*["analyst"] * 7)
    given = {"sources": [{"path": "a.jsonl"}], "analysis": {"counts": ["level"]}}
    plan = plan_of(spec_of("map_reduce", given), analysts)
    (split,) = steps(plan, "split", analysts)
    assert inputs([split]) == [{"do": "split", **given, "shards": 28}]
    shards = [{"do": "analyse", "n": i} for i in range(14)]
    made = steps(plan, "map", analysts, "hierarchical", split={"shards": shards})
    assert inputs(made[:14]) == shards
    merges = made[14:]
    assert [step.prefer for step in merges] == ["a1", "a0"]
    assert msgspec.json.decode(bound(merges[0], [b"{}"]))["input"]["outputs"] == [{}]


def test_a_map_over_items_uses_what_the_caller_names() -> None:
    there = agents("tool", "analyst")
    given = {
        "items": ["k1", "k2"],
        "map": {"tool": "kv_get", "input": {"key": {"$ref": "/item"}}},
        "reduce": "concat",
    }
    plan = plan_of(spec_of("map_reduce", given), there)
    made = steps(plan, "map", there)
    assert [msgspec.json.decode(step.payload) for step in made] == [
        {"tool": "kv_get", "arguments": {"key": "k1"}},
        {"tool": "kv_get", "arguments": {"key": "k2"}},
    ]
    assert plan.phases[0].aggregate.kind == "concat"
    by_agent = {"items": [1], "map": {"agent": "analyst"}}
    plan = plan_of(spec_of("map_reduce", by_agent), there)
    assert [step.agents for step in steps(plan, "map", there)] == [("a1",)]


def test_a_broadcast_is_a_template_too() -> None:
    plan = plan_of(spec_of("broadcast", {"q": 1}, parallelism=2), TESTERS)
    assert (plan.source, plan.phases[0].each) == ("template", True)


def test_a_template_without_its_agents_says_which_are_absent() -> None:
    for template, given, absent in (
        ("code_review", {"files": ["a"]}, ("reviewer",)),
        ("test_run", {}, ("tester",)),
        ("map_reduce", {"sources": [1]}, ("analyst",)),
    ):
        spec = spec_of(template, given)
        assert choose_team(spec, plan_of(spec, []), []).absent == absent


@pytest.mark.parametrize(
    ("template", "given", "where"),
    [
        ("code_review", None, "/task/input"),
        ("code_review", "src", "/task/input"),
        ("code_review", {}, "/task/input/files"),
        ("code_review", {"files": [1]}, "/task/input/files/0"),
        ("code_review", {"files": ["a"], "shards": 0}, "/task/input/shards"),
        ("code_review", {"files": ["a"], "reviewers": ["nobody"]}, "/task/input"),
        ("test_run", None, "/task/input"),
        ("test_run", {"shards": "many"}, "/task/input/shards"),
        ("test_run", {"durations": [1]}, "/task/input/durations"),
        ("test_run", {"tests": "all"}, "/task/input/tests"),
        ("map_reduce", {}, "/task/input/items"),
        ("map_reduce", {"items": {}}, "/task/input/items"),
        ("map_reduce", {"items": [1]}, "/task/input/map"),
        ("map_reduce", {"items": [1], "map": {"tool": "t", "prompt": "p"}}, "/task/input/map"),
        ("map_reduce", {"items": [1], "map": {"tool": "t"}, "reduce": "x"}, "/task/input/reduce"),
    ],
)
def test_a_wrong_input_of_a_template_is_refused_with_its_place(
    template: str, given: object, where: str
) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(spec_of(template, given), TESTERS)
    assert caught.value.where == where


def test_an_unknown_member_of_an_input_is_a_warning() -> None:
    plan = plan_of(spec_of("test_run", {"rot": "x"}), TESTERS)
    assert plan.warnings == ("/task/input/rot is unknown and was ignored",)
