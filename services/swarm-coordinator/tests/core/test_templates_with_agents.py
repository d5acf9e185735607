"""Templates against the real agent types: what a plan sends is what an agent takes."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mesh_agents.contract import StepInput
from mesh_agents.types import TYPES
from mesh_agents.types.places import ROOTS_VARIABLE
from swarm_coordinator.core.aggregate import Output, aggregate
from swarm_coordinator.core.arguments import orchestrate_of
from swarm_coordinator.core.ballots import ballot_of, tally
from swarm_coordinator.core.plan import plan_of
from swarm_coordinator.core.spec import SwarmConfig, TaskSpec, Topology
from swarm_coordinator.core.steps import bound, steps_of
from swarm_coordinator.core.topology import network_of
from swarm_coordinator.core.views import AgentView, PhasePlan, StepPlan
from swarm_coordinator.core.votes import Cast
from swarm_coordinator.core.weights import Voter, weights_of

TOPOLOGIES: tuple[Topology, ...] = ("mesh", "star", "hierarchical", "ring")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setenv(ROOTS_VARIABLE, str(folder))
    return folder


class Stage:
    """Runs a plan as the owner and its hosts would, one step after the other."""

    def __init__(self, workdir: Path, team: list[AgentView], topology: Topology) -> None:
        self.workdir = workdir
        self.team = team
        self.network = network_of(topology, team, SwarmConfig(fanout=2))
        self.outputs: dict[str, msgspec.Raw] = {}
        self.ran: list[tuple[str, str]] = []

    def play(self, spec: TaskSpec) -> Any:
        plan = plan_of(spec, self.team)
        assert not plan.warnings
        for phase in plan.phases:
            steps = steps_of(phase, self.outputs, self.team, self.network)
            done: dict[str, msgspec.Raw] = {}
            for step in steps:
                done[step.step] = self._step(step, [done[name] for name in step.after])
            self.outputs[phase.name] = self._output(phase, steps, done)
        return msgspec.json.decode(self.outputs[plan.outputs[0]])

    def _step(self, step: StepPlan, before: list[msgspec.Raw]) -> msgspec.Raw:
        able = [name for name in step.agents if name not in step.avoid] or list(step.agents)
        agent = step.prefer or able[len(self.ran) % len(able)]
        self.ran.append((step.step, agent))
        (view,) = [one for one in self.team if one.id == agent]
        workdir = self.workdir / f"work-{len(self.ran)}"
        workdir.mkdir()
        kind = TYPES[view.type]
        assert step.kind in kind.kinds
        found = kind.run(
            StepInput(
                kind=step.kind,
                payload=msgspec.json.decode(bound(step, before)),
                workdir=str(workdir),
                config={"capabilities": list(view.capabilities)},
                agent=agent,
                step=step.step,
                timeout_s=200.0,
            )
        )
        return msgspec.Raw(msgspec.json.encode(found.structured))  # type: ignore[union-attr]

    def _output(
        self, phase: PhasePlan, steps: list[StepPlan], done: dict[str, msgspec.Raw]
    ) -> msgspec.Raw:
        results = [step for step in steps if step.result]
        if phase.vote is not None:
            return self._voted(phase, steps, done)
        if phase.single or phase.aggregate.kind == "reduce":
            return done[results[0].step] if results else msgspec.Raw(b"null")
        outputs = [Output(step=step.step, value=done[step.step]) for step in results]
        return aggregate(phase.aggregate, outputs).value

    def _voted(
        self, phase: PhasePlan, steps: list[StepPlan], done: dict[str, msgspec.Raw]
    ) -> msgspec.Raw:
        assert phase.vote is not None
        voters = [Voter(id=one.id, capabilities=one.capabilities) for one in self.team]
        voters = [voter for voter in voters if any(voter.id in step.agents for step in steps)]
        decisions: list[Output] = []
        for group in sorted({step.group for step in steps}):
            casts = [
                Cast(voter=step.agents[0], ballot=_ballot(step, done[step.step]), step=step.step)
                for step in steps
                if step.group == group
            ]
            told = tally(casts, phase.vote, voters, weights_of(voters, phase.vote.weights, ()))
            assert told.reached, told
            decisions.append(Output(step=str(group), value=told.decision))
        return aggregate(phase.aggregate, decisions).value


def _ballot(step: StepPlan, output: msgspec.Raw) -> Any:
    from mcp_proto.contracts.swarm import WorkResult

    return ballot_of(
        WorkResult(agent=step.agents[0], epoch=1, item="i", status="ok", structured=output)
    )


def team(*agents: tuple[str, tuple[str, ...]]) -> list[AgentView]:
    return [
        AgentView(id=f"a{i}", type=kind, capabilities=held, joined_ms=i, slots=2)
        for i, (kind, held) in enumerate(agents)
    ]


def spec_of(template: str, **given: object) -> TaskSpec:
    task = {"description": "d", "template": template, "input": given}
    return orchestrate_of(msgspec.json.encode({"task": task}), SwarmConfig()).spec


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_an_analysis_of_many_gives_what_one_agent_gives(
    topology: Topology, root: Path, tmp_path: Path
) -> None:
    rows = [{"level": ["INFO", "WARN"][i % 2], "ms": i * 0.37} for i in range(500)]
    (root / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "sources": [{"path": "log.jsonl"}],
        "analysis": {"groupBy": ["level"], "numbers": ["ms"]},
    }
    many = Stage(tmp_path, team(*[("analyst", ())] * 7), topology)
    one = Stage(tmp_path / "root", team(("analyst", ())), "mesh")
    found = many.play(spec_of("map_reduce", **given, shards=11))
    assert found["rows"] == 500
    assert found == one.play(spec_of("map_reduce", **given, shards=1))
    merges = [step for step, _ in many.ran if step.startswith("map-m")]
    assert len(merges) == (3 if topology == "hierarchical" else 1)


SUITE = """
from pathlib import Path
def test_good(): pass
def test_bad(): assert 1 == 2
def test_flaky():
    mark = Path(__file__).with_name("mark")
    first = not mark.exists()
    mark.write_text("x")
    assert not first
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_test_run_tells_flaky_from_failed_by_another_agent(root: Path, tmp_path: Path) -> None:
    (root / "proj").mkdir()
    (root / "proj" / "test_a.py").write_text(SUITE)
    (root / "proj" / "pytest.ini").write_text("[pytest]\n")
    stage = Stage(tmp_path, team(("tester", ()), ("tester", ())), "hierarchical")
    report = stage.play(spec_of("test_run", root="proj", shards=2))
    assert {one["id"]: one["outcome"] for one in report["tests"]} == {
        "test_a.py::test_good": "passed",
        "test_a.py::test_bad": "failed",
        "test_a.py::test_flaky": "flaky",
    }
    assert "<testsuite" in report["junit"]
    ran = dict(stage.ran)
    failures = msgspec.json.decode(stage.outputs["run"])["failures"]
    assert len(failures) == 2
    for i, failure in enumerate(failures):
        assert ran[f"again-{i}"] != failure["agent"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_test_run_without_failures_is_a_report_too(root: Path, tmp_path: Path) -> None:
    (root / "test_a.py").write_text("def test_good(): pass\n")
    (root / "pytest.ini").write_text("[pytest]\n")
    stage = Stage(tmp_path, team(("tester", ())), "mesh")
    report = stage.play(spec_of("test_run", root="."))
    assert (report["passed"], len(report["tests"])) == (1, 1)


def test_a_review_accepts_what_those_who_know_the_class_agree_on(
    root: Path, tmp_path: Path
) -> None:
    (root / "a.py").write_text("import os\nimport sys\nprint(sys)\n")
    (root / "b.py").write_text("import pickle\nx = pickle.loads(b'')\ny = eval('1')\n")
    reviewers = team(
        ("reviewer", ("lint", "ruff")), ("reviewer", ("lint", "pyflakes")), ("security", ("ast",))
    )
    stage = Stage(tmp_path, reviewers, "mesh")
    found = stage.play(spec_of("code_review", files=["a.py", "b.py"], shards=2))
    kinds = {(one["file"], one["line"], one["class"]) for one in found}
    assert ("a.py", 1, "unused-import") in kinds
    assert ("b.py", 3, "eval") in kinds
    assert len(stage.ran) == 6
