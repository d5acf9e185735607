"""What docs/guides/swarm-plans.md shows works, and what it refuses is refused in its words."""

import re
from pathlib import Path

import msgspec
import pytest

from mesh_agents.types import TYPES
from swarm_coordinator.core.arguments import Orchestrate, init_of, orchestrate_of
from swarm_coordinator.core.plan import plan_of
from swarm_coordinator.core.spec import Aggregate, Fanout, SwarmConfig
from swarm_coordinator.core.steps import steps_of
from swarm_coordinator.core.team import choose_team
from swarm_coordinator.core.topology import network_of, route
from swarm_coordinator.core.views import AgentView, PhasePlan, PlanError

PAGE = (Path(__file__).parents[4] / "docs" / "guides" / "swarm-plans.md").read_text("utf-8")
BLOCKS = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TASKS = [block for block in BLOCKS if block.startswith('{"task"')]
SWARMS = [block for block in BLOCKS if block.startswith('{"topology"')]
REFUSALS = re.findall(r"^\| `([\[{].*)` \| `(/.*?)` \| (.*) \|$", PAGE, re.MULTILINE)

THERE = (
    "reviewer", "reviewer", "security", "tester", "tester", "analyst", "analyst", "analyst",
    "validator", "tool", "llm", "coordinator",
)  # fmt: skip
AGENTS = [
    AgentView(
        id=f"agent_{i:02}",
        type=kind,
        joined_ms=i,
        capabilities=TYPES[kind].capabilities if kind in TYPES else (),
    )
    for i, kind in enumerate(THERE)
]


def named(word: str) -> Orchestrate:
    (block,) = [block for block in TASKS if word in block]
    return orchestrate_of(block.encode(), SwarmConfig())


@pytest.mark.parametrize("block", TASKS)
def test_every_task_on_the_page_is_planned_without_a_warning(block: str) -> None:
    asked = orchestrate_of(block.encode(), SwarmConfig())
    plan = plan_of(asked.spec, AGENTS, topology="mesh")
    assert not asked.warnings
    team = choose_team(asked.spec, plan, AGENTS)
    assert team.complete
    members = [agent for agent in AGENTS if agent.id in team.ids]
    steps = steps_of(plan.phases[0], {}, members, network_of("mesh", AGENTS, SwarmConfig()))
    assert steps


def test_the_page_has_its_examples() -> None:
    assert (len(TASKS), len(SWARMS), len(REFUSALS)) == (10, 1, 9)


@pytest.mark.parametrize(("given", "where", "message"), REFUSALS)
def test_every_refusal_on_the_page_is_one(given: str, where: str, message: str) -> None:
    value = msgspec.json.decode(given)
    members = {"phases": value} if isinstance(value, list) else value
    body = msgspec.json.encode({"task": {"description": "d", **members}})
    with pytest.raises(PlanError) as caught:
        plan_of(orchestrate_of(body, SwarmConfig()).spec, AGENTS, topology="mesh")
    assert (caught.value.where, caught.value.message) == (where, message)


def test_the_team_on_the_page_is_a_cover_and_one_more() -> None:
    spec = named("requiredCapabilities").spec
    team = choose_team(spec, plan_of(spec, AGENTS), AGENTS)
    types = [agent.type for one in team.ids for agent in AGENTS if agent.id == one]
    assert sorted(types[:3]) == ["analyst", "reviewer", "security"]
    assert len(types) == 4


def test_the_chain_on_the_page_hands_on_the_draft() -> None:
    plan = plan_of(named("shorten").spec, AGENTS)
    network = network_of("mesh", AGENTS, SwarmConfig())
    first, second = steps_of(plan.phases[1], {"draft": b'"long"'}, AGENTS, network)
    assert msgspec.json.decode(first.payload)["input"] == {"rounds": 0, "text": "long"}
    assert (second.after, second.holes) == ((first.step,), (("/input/text", ""),))


def test_the_swarm_on_the_page_is_the_tree_it_says() -> None:
    (block,) = SWARMS
    asked = init_of(block.encode())
    assert not asked.warnings
    agents = [
        AgentView(id=str(i), type=one.type, parent="1" if one.parent else "", joined_ms=i)
        for i, one in enumerate(asked.agents)
    ]
    network = network_of(asked.topology, agents, asked.config)
    assert network.parents == {"1": "0", "2": "0", "3": "1"}
    assert route(network, "2", "3") == ()
    assert route(network, "1", "2")


def test_seven_analysts_merge_as_the_page_says() -> None:
    analysts = [AgentView(id=f"a{i}", type="analyst", joined_ms=i) for i in range(7)]
    items = msgspec.Raw(msgspec.json.encode([{}] * 14))
    phase = PhasePlan(
        name="count",
        fanout=Fanout(items=items),
        aggregate=Aggregate(kind="reduce", agent="analyst"),
    )
    network = network_of("hierarchical", analysts, SwarmConfig(fanout=2))
    merges = [
        (step.step, step.prefer)
        for step in steps_of(phase, {}, analysts, network)
        if step.kind == "merge"
    ]
    assert merges == [("count-m0", "a2"), ("count-m1", "a1"), ("count-m2", "a0")]
