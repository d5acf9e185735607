"""Plans of a coordinator, as the owner asks for them and takes them."""

from typing import Any

import msgspec
import pytest

from mesh_agents.contract import StepFailedError, StepRejectedError
from swarm_coordinator.core.plan import plan_of, planned
from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.views import AgentView

TYPES = ("coordinator", "reviewer", "tester", "validator")


def _asked(plan: dict, *types: str) -> dict:
    agents = [{"id": f"agent_{name}", "type": name, "capabilities": []} for name in types]
    return {"agents": agents, "input": plan}


def _plan(do: Any, plan: dict, *types: str) -> Any:
    return do("coordinator", _asked(plan, *types), kind="prompt", prompt="is it good?")


def test_quality_gate_is_made_of_who_is_there_and_the_owner_takes_it(do: Any) -> None:
    gate = {"plan": "quality_gate", "root": "proj", "allowed": {"findings": 3}}
    made = _plan(do, gate, *TYPES)
    assert [phase["name"] for phase in made["phases"]] == ["review", "tests", "judge"]
    judge = made["phases"][-1]
    assert judge["input"]["assertions"] == [
        {"pointer": "/review", "is": "max_length", "value": 3},
        {"pointer": "/tests", "is": "at_most", "value": 0},
    ]
    agents = [
        AgentView(id=f"agent_{name}", type=name, capabilities=("plan",) if not i else ())
        for i, name in enumerate(TYPES)
    ]
    spec = TaskSpec(description="is it good?", planner=True)
    assert plan_of(spec, agents).source == "planner"
    _, plan = planned(spec, msgspec.json.encode(made), agents)
    assert [phase.name for phase in plan.phases] == ["review", "tests", "judge"]


def test_question_in_prose_is_left_to_another_planner(do: Any) -> None:
    for plan in ({}, {"plan": "world_peace"}):
        with pytest.raises(StepRejectedError, match="quality_gate"):
            _plan(do, plan, *TYPES)


@pytest.mark.parametrize(
    ("plan", "types", "message"),
    [
        ({}, ("reviewer",), "needs a validator"),
        ({}, ("validator",), "needs a reviewer"),
        ({"rot": "x"}, TYPES, "unknown field `rot`"),
    ],
)
def test_quality_gate_that_cannot_be_made_is_refused(
    do: Any, plan: dict, types: tuple[str, ...], message: str
) -> None:
    with pytest.raises(StepFailedError, match=message):
        _plan(do, {"plan": "quality_gate", **plan}, *types)
