"""From a task to a checked plan: explicit phases, a template, a planner's phases, or a broadcast.

Everything that can be known to be wrong before an agent has done anything is refused here, with
its place: unknown names, cycles, phases that would never be reached, references to what a phase
does not wait for. What only outputs can tell is found by ``steps.steps_of`` when a phase begins.
"""

from collections.abc import Mapping, Sequence

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.fanning import input_where, template_of
from swarm_coordinator.core.gathering import gathering
from swarm_coordinator.core.graph import CycleError, ancestors, ordered
from swarm_coordinator.core.phase_arguments import phases_of
from swarm_coordinator.core.reading import Table
from swarm_coordinator.core.references import RESERVED, Template, source_of
from swarm_coordinator.core.spec import PhaseSpec, TaskSpec, Topology
from swarm_coordinator.core.team import named
from swarm_coordinator.core.templates import broadcast_of, expanded
from swarm_coordinator.core.views import AgentView, Kind, PhasePlan, Plan, PlanError

__all__ = ["BUILT_IN", "PLANNER", "plan_of", "planned"]

BUILT_IN = frozenset((
    "coordinator", "researcher", "reviewer", "security", "coder", "tester", "analyst", "validator",
    "tool", "command", "function", "llm", "external", "synadia", "a2a",
))  # fmt: skip
"""Types that a phase may name before an agent of them is there."""

PLANNER = "plan"
"""Capability of agents that make phases of a description."""

NAMES_SHOWN = 10


def plan_of(
    spec: TaskSpec, agents: Sequence[AgentView], *, topology: Topology | None = None
) -> Plan:
    """The plan of a task.

    Args:
        spec: the task.
        agents: of the swarm.
        topology: of the swarm, for references to the step before; None = not checked here.

    Raises:
        PlanError: with the place of what is wrong in the arguments.
    """
    warnings: list[str] = []
    if spec.phases:
        phases = tuple(_phase(one, i, spec, agents) for i, one in enumerate(spec.phases))
        return _checked("phases", phases, spec, agents, topology, warnings)
    if spec.template:
        phases = expanded(spec, agents, warnings)
        return _checked("template", phases, spec, agents, topology, warnings)
    if spec.planner:
        planners = tuple(agent.id for agent in agents if PLANNER in agent.capabilities)
        if planners:
            return Plan(phases=(_planning(spec, planners, agents),), source="planner")
        warnings.append(f"no agent has the capability {PLANNER}: the task is a broadcast")
    return _checked("broadcast", broadcast_of(spec), spec, agents, topology, warnings)


def planned(
    spec: TaskSpec,
    output: msgspec.Raw | bytes,
    agents: Sequence[AgentView],
    *,
    topology: Topology | None = None,
) -> tuple[TaskSpec, Plan]:
    """The task with the phases that a planner agent made, and their plan.

    Args:
        spec: the task that was planned.
        output: of the planning phase: ``{"phases": […]}``.
        agents: of the swarm.
        topology: as in ``plan_of``.

    Raises:
        PlanError: the planner's phases are as wrong as a caller's could be.
    """
    warnings: list[str] = []
    table = Table(output, "/plan/output", warnings)
    phases = phases_of(table, spec.coordination)
    if not phases:
        raise PlanError("/plan/output/phases", "expected at least one phase")
    table.end()
    full = msgspec.structs.replace(spec, phases=phases, planner=False, template="")
    plan = plan_of(full, agents, topology=topology)
    return full, msgspec.structs.replace(plan, warnings=(*warnings, *plan.warnings))


def _planning(spec: TaskSpec, planners: tuple[str, ...], agents: Sequence[AgentView]) -> PhasePlan:
    """The phase that asks a planner; it is told who there is to plan with."""
    there = [{"id": a.id, "type": a.type, "capabilities": a.capabilities} for a in agents]
    given: dict[str, object] = {"agents": there}
    if spec.input is not ABSENT:
        given["input"] = spec.input
    return PhasePlan(
        name="plan",
        agents=planners,
        kind="prompt",
        prompt=spec.description,
        input=msgspec.Raw(msgspec.json.encode(given)),
        single=True,
        retry=spec.execution.retry,
    )


def _phase(phase: PhaseSpec, index: int, spec: TaskSpec, agents: Sequence[AgentView]) -> PhasePlan:
    plain = phase.fanout is None and phase.vote is None
    return PhasePlan(
        name=phase.name,
        where=f"/task/phases/{index}",
        agents=phase.agents,
        requires=phase.requires,
        kind=_kind(phase, agents),
        tool=phase.tool,
        prompt=phase.prompt,
        input=phase.input,
        dependencies=phase.dependencies,
        fanout=phase.fanout,
        single=plain and phase.aggregate is None,
        aggregate=phase.aggregate or spec.execution.aggregate,
        vote=phase.vote,
        timeout_s=phase.timeout,
        retry=phase.retry or spec.execution.retry,
        idempotent=phase.idempotent,
        on_failure=phase.on_failure,
        approval=phase.approval,
    )


def _kind(phase: PhaseSpec, agents: Sequence[AgentView]) -> Kind:
    """What its steps are; a validator whose whole input is an output judges it (``validate``)."""
    if phase.tool:
        return "tool"
    if phase.vote is not None:
        return "vote"
    if phase.prompt:
        return "prompt"
    types = {agent.type for name in phase.agents for agent in named(name, agents)}
    judges = types == {"validator"} or (not types and phase.agents == ("validator",))
    return "validate" if judges and _is_reference(phase.input) else "call"


def _is_reference(value: msgspec.Raw) -> bool:
    if value is ABSENT:
        return False
    decoded = msgspec.json.decode(value)
    return isinstance(decoded, dict) and str(decoded.get("$ref", "")).startswith("/")


def _checked(
    source: str,
    phases: tuple[PhasePlan, ...],
    spec: TaskSpec,
    agents: Sequence[AgentView],
    topology: Topology | None,
    warnings: list[str],
) -> Plan:
    by_name: dict[str, PhasePlan] = {}
    reducer = spec.execution.aggregate.agent
    _check_name(reducer, "/execution/resultAggregation/agent", spec, agents)
    for phase in phases:
        if phase.name in by_name:
            raise PlanError(f"{phase.where}/name", f"two phases are called {phase.name}")
        by_name[phase.name] = phase
        _check_agents(phase, spec, agents)
        _check_decisions(phase)
    order = _order(by_name)
    arranged = [by_name[name] for name in order]
    if spec.strategy == "sequential":
        arranged = _in_sequence(arranged)
    last = _last(arranged)
    arranged += gathering(spec, arranged, last)
    needs = {phase.name: phase.dependencies for phase in arranged}
    before = ancestors(needs, [phase.name for phase in arranged])
    for phase in arranged:
        _check_references(phase, before[phase.name], by_name, topology)
    return Plan(
        phases=tuple(arranged),
        source=source,  # type: ignore[arg-type]
        outputs=_last(arranged),
        warnings=tuple(warnings),
    )


def _last(phases: Sequence[PhasePlan]) -> tuple[str, ...]:
    """Those that nobody waits for."""
    wanted = {name for phase in phases for name in phase.dependencies}
    return tuple(phase.name for phase in phases if phase.name not in wanted)


def _check_agents(phase: PhasePlan, spec: TaskSpec, agents: Sequence[AgentView]) -> None:
    """Every name is an agent or a type; types that can be spawned may be missing still."""
    helpers = [(f"{phase.where}/agents/{i}", name) for i, name in enumerate(phase.agents)]
    helpers.append((f"{phase.where}/aggregate/agent", phase.aggregate.agent))
    judge = phase.vote.equality.agent if phase.vote else ""
    helpers.append((f"{phase.where}/vote/equality/agent", judge))
    for where, name in helpers:
        _check_name(name, where if phase.where else "/task/input", spec, agents)


def _check_name(name: str, where: str, spec: TaskSpec, agents: Sequence[AgentView]) -> None:
    if not name or name in BUILT_IN or spec.auto_spawn or named(name, agents):
        return
    there = sorted({agent.name or agent.id for agent in agents})
    shown = ", ".join(there[:NAMES_SHOWN]) + (", …" if len(there) > NAMES_SHOWN else "")
    agents_there = f"; there are {shown}" if there else "; there are no agents"
    raise PlanError(where, f"no agent has the id, name or type {name}{agents_there}")


def _check_decisions(phase: PhasePlan) -> None:
    if phase.vote is not None and phase.fanout is not None and phase.aggregate.kind == "reduce":
        raise PlanError(
            f"{phase.where}/aggregate" if phase.where else "/execution/resultAggregation",
            "expected another aggregate: decisions of votes are put together by the owner. "
            "Reduce them in a phase behind this one",
        )


def _order(phases: Mapping[str, PhasePlan]) -> tuple[str, ...]:
    for phase in phases.values():
        for i, name in enumerate(phase.dependencies):
            if name not in phases:
                raise PlanError(f"{phase.where}/dependencies/{i}", f"no phase is called {name}")
    try:
        return ordered({name: phase.dependencies for name, phase in phases.items()})
    except CycleError as error:
        behind = f"; {', '.join(error.behind)} would never be reached" if error.behind else ""
        where = f"{phases[error.cycle[0]].where}/dependencies"
        message = f"phases wait for each other: {' → '.join(error.cycle)}{behind}"
        raise PlanError(where, message) from None


def _in_sequence(phases: Sequence[PhasePlan]) -> list[PhasePlan]:
    """One step at a time, outputs handed on: from step to step, and from phase to phase."""
    found: list[PhasePlan] = []
    for i, phase in enumerate(phases):
        before = phases[i - 1].name if i else ""
        needs = dict.fromkeys((*phase.dependencies, *([before] if before else [])))
        found.append(
            msgspec.structs.replace(phase, chained=True, previous=before, dependencies=tuple(needs))
        )
    return found


def _check_references(
    phase: PhasePlan,
    before: frozenset[str],
    phases: Mapping[str, PhasePlan],
    topology: Topology | None,
) -> None:
    template = template_of(phase)
    places = [] if template is None else _places(phase, template)
    if phase.fanout and phase.fanout.items_from:
        where = f"{phase.where}/fanout/itemsFrom"
        places.append((where, source_of(phase.fanout.items_from, where)[0]))
    for where, source in places:
        if source in RESERVED:
            _check_reserved(phase, source, where, topology)
        elif source not in phases:
            raise PlanError(where, f"no phase is called {source}")
        elif source == phase.name:
            raise PlanError(where, "a phase cannot refer to its own output")
        elif source not in before:
            message = f"{phase.name} does not wait for {source}: add it to dependencies"
            raise PlanError(where, message)


def _places(phase: PhasePlan, template: Template) -> list[tuple[str, str]]:
    where = input_where(phase)
    return [(where + one.place, one.source) for one in template.references]


def _check_reserved(phase: PhasePlan, source: str, where: str, topology: Topology | None) -> None:
    if where.endswith("/itemsFrom"):
        raise PlanError(where, f"expected /phase/output/…: {source} is known to steps only")
    if source in ("item", "index"):
        if phase.fanout is None or phase.fanout.shards:
            raise PlanError(where, "only a phase with fanout items has an item")
        return
    chained = phase.vote is None and (phase.chained or topology in ("ring", None))
    if not chained and not phase.previous:
        raise PlanError(where, "only a step of a chain (strategy sequential, ring) has a previous")
