"""Arguments of ``task_orchestrate`` and ``swarm_init``: every spelling in, one vocabulary out.

What is absent gets its default, of the swarm where the swarm has one; what is unknown becomes a
warning; what is wrong is refused with its place (-32602).
"""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.limits import AGENTS_MAX, PARALLELISM_MAX, TIMEOUT_MAX_S
from swarm_coordinator.core.phase_arguments import CAPABILITIES_MAX, phases_of
from swarm_coordinator.core.reading import Table
from swarm_coordinator.core.rule_arguments import (
    CONFLICTS,
    MECHANISMS,
    NAME_CHARS_MAX,
    budget_of,
    coordination_of,
    execution_of,
    strategy_of,
)
from swarm_coordinator.core.spec import Priority, SwarmConfig, TaskSpec, Topology
from swarm_coordinator.core.templates import TEMPLATES, Template, rules_of
from swarm_coordinator.core.views import PlanError

__all__ = ["AgentWanted", "Init", "Orchestrate", "init_of", "orchestrate_of"]

DESCRIPTION_CHARS_MAX = 32_768
DEPENDENCIES_MAX = 100
KEY_CHARS_MAX = 128
TTL_MAX_S = 2_592_000

TOPOLOGIES: tuple[Topology, ...] = ("mesh", "hierarchical", "ring", "star")
PRIORITIES: tuple[Priority, ...] = ("low", "medium", "high", "critical")


class Orchestrate(msgspec.Struct, frozen=True, kw_only=True):
    """``task_orchestrate``.

    Attributes:
        spec: the task.
        swarm: id; "" = the default swarm.
        wait: answer when the task has ended.
        dry_run: only plan.
        idempotency: key; "" = none.
        warnings: public texts.
    """

    spec: TaskSpec
    swarm: str = ""
    wait: bool = False
    dry_run: bool = False
    idempotency: str = ""
    warnings: tuple[str, ...] = ()


class AgentWanted(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``initialAgents``; ``parent`` is the name of an earlier one."""

    type: str
    name: str = ""
    capabilities: tuple[str, ...] = ()
    config: msgspec.Raw = ABSENT
    parent: str = ""


class Init(msgspec.Struct, frozen=True, kw_only=True):
    """``swarm_init``."""

    topology: Topology
    config: SwarmConfig
    agents: tuple[AgentWanted, ...] = ()
    name: str = ""
    idempotency: str = ""
    warnings: tuple[str, ...] = ()


def orchestrate_of(body: msgspec.Raw | bytes, config: SwarmConfig) -> Orchestrate:
    """Read the arguments of ``task_orchestrate``.

    Args:
        body: JSON object.
        config: of the swarm, for defaults.

    Raises:
        PlanError: with the JSON pointer of what is wrong, and what was expected.
    """
    warnings: list[str] = []
    top = Table(body, "", warnings)
    task = _task(top)
    template: Template = task.word("template", TEMPLATES, "")
    rules = coordination_of(top.table("coordination"), rules_of(template, config))
    spec = TaskSpec(
        description=task.text("description", least=1, most=DESCRIPTION_CHARS_MAX),
        priority=_either(task, top, "priority").word("priority", PRIORITIES, "medium"),
        strategy=strategy_of(_either(task, top, "strategy"), config.strategy),
        timeout=task.integer("timeout", 3600, 1, TIMEOUT_MAX_S),
        required_capabilities=_capabilities(task, "requiredCapabilities"),
        parallelism=task.integer("parallelism", 1, 1, PARALLELISM_MAX),
        consensus_required=task.flag("consensusRequired", default=False),
        auto_spawn=task.flag("autoSpawn", default=False),
        template=template,
        input=task.raw("input"),
        planner=task.flag("planner", default=False),
        budget=budget_of(task.table("budget")),
        phases=phases_of(task, rules),
        execution=execution_of(top.table("execution")),
        coordination=rules,
        dependencies=_either(task, top, "dependencies").texts(
            "dependencies", most=DEPENDENCIES_MAX, chars=NAME_CHARS_MAX
        ),
    )
    if spec.phases and spec.template:
        task.warn(f"{task.at('template')} was ignored: there are phases")
    if spec.phases and spec.planner:
        task.warn(f"{task.at('planner')} was ignored: there are phases")
    found = Orchestrate(
        spec=spec,
        swarm=top.text("swarmId", most=NAME_CHARS_MAX),
        wait=top.flag("wait", default=False),
        dry_run=top.flag("dryRun", default=False),
        idempotency=top.text("idempotencyKey", most=KEY_CHARS_MAX),
    )
    task.end()
    top.end()
    return msgspec.structs.replace(found, warnings=tuple(warnings))


def _task(top: Table) -> Table:
    """``task``, of which a string is the description."""
    kind = top.kind("task")
    if kind == "a string":
        text = top.text("task", least=1, most=DESCRIPTION_CHARS_MAX)
        return Table(msgspec.json.encode({"description": text}), "/task", top.warnings)
    if kind != "an object":
        raise PlanError("/task", f"expected a string or an object, got {kind}")
    return top.table("task")


def _either(inner: Table, outer: Table, name: str) -> Table:
    """Who has a member that may stand in either place; the inner one holds."""
    both = outer.has(name), inner.has(name)
    if all(both):
        outer.warn(f"{outer.at(name)} was ignored: {inner.at(name)} holds")
    return inner if both[1] else outer


def _capabilities(table: Table, name: str) -> tuple[str, ...]:
    return table.texts(name, most=CAPABILITIES_MAX, chars=NAME_CHARS_MAX)


def init_of(body: msgspec.Raw | bytes) -> Init:
    """Read the arguments of ``swarm_init``.

    Raises:
        PlanError: with the JSON pointer of what is wrong, and what was expected.
    """
    warnings: list[str] = []
    top = Table(body, "", warnings)
    if not top.has("topology"):
        raise PlanError("/topology", "is missing")
    topology: Topology = top.word("topology", TOPOLOGIES, "mesh")
    config = _config(top.table("config"), top)
    agents = top.each("initialAgents", AGENTS_MAX, _wanted)
    if len(agents) > config.max_agents:
        wrong = f"expected at most maxAgents, {config.max_agents}, got {len(agents)}"
        raise PlanError("/initialAgents", wrong)
    _check_parents(agents, topology)
    found = Init(
        topology=topology,
        config=config,
        agents=agents,
        name=top.text("name", most=NAME_CHARS_MAX),
        idempotency=top.text("idempotencyKey", most=KEY_CHARS_MAX),
    )
    top.end()
    return msgspec.structs.replace(found, warnings=tuple(warnings))


def _config(table: Table, top: Table) -> SwarmConfig:
    plain = SwarmConfig()
    most = _either(table, top, "maxAgents")
    config = SwarmConfig(
        max_agents=most.integer("maxAgents", plain.max_agents, 1, AGENTS_MAX),
        consensus_threshold=table.number("consensusThreshold", plain.consensus_threshold, 0.0, 1.0),
        voting_mechanism=table.word("votingMechanism", MECHANISMS, plain.voting_mechanism),
        conflict_resolution=table.word("conflictResolution", CONFLICTS, plain.conflict_resolution),
        strategy=strategy_of(_either(table, top, "strategy"), plain.strategy),
        relay=table.flag("relay", default=False),
        siblings=table.flag("siblings", default=False),
        predecessor=table.flag("predecessor", default=False),
        fanout=table.integer("fanout", plain.fanout, 1, AGENTS_MAX),
        memory_ttl=table.integer("memoryTtl", 0, 0, TTL_MAX_S),
    )
    table.end()
    return config


def _wanted(table: Table) -> AgentWanted:
    config = table.table("config")  # its members are read by the host that runs the agent
    return AgentWanted(
        type=table.text("type", least=1, most=NAME_CHARS_MAX),
        name=table.text("name", most=NAME_CHARS_MAX),
        capabilities=_capabilities(table, "capabilities") or _capabilities(config, "capabilities"),
        config=table.raw("config"),
        parent=table.text("parent", most=NAME_CHARS_MAX),
    )


def _check_parents(agents: tuple[AgentWanted, ...], topology: Topology) -> None:
    names: list[str] = []
    for i, agent in enumerate(agents):
        where = f"/initialAgents/{i}/parent"
        if agent.parent and topology != "hierarchical":
            raise PlanError(where, f"expected none: a {topology} has no parents")
        if agent.parent and names.count(agent.parent) != 1:
            raise PlanError(where, "expected the name of one agent before it")
        names.append(agent.name)
