"""Which agents do a task: those its phases name, a cover of its capabilities, and others to fill.

The required capabilities of a task must be held by the team together; those of a phase by one
agent. The cover is greedy: the agent with most of what is missing comes next, ties go by load,
success rate and id, so that the same swarm gives the same team.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.views import AgentView, Kind, PhasePlan, Plan, PlanError

__all__ = ["Member", "Team", "candidates", "choose_team", "covering", "estimate_ms", "named"]

SAMPLES_MIN = 3
"""Durations below which an estimate is a guess, and is not given."""

TOOL_TYPE = "tool"
"""Agent type that exists to call tools: it gets the tool phases that name nobody."""

Role = Literal["coordinator", "validator", "worker"]


class Member(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An agent of a team, and what it is there for.

    Attributes:
        agent_id: its id.
        role: ``coordinator`` merges or breaks ties, ``validator`` only judges results,
            ``worker`` does the other steps.
        capabilities: all it declared.
    """

    agent_id: str
    role: Role
    capabilities: tuple[str, ...] = ()


class Team(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who does a task.

    Attributes:
        members: by load, success rate and id, in the order they were chosen.
        missing: capabilities that nobody holds, in the order they were asked for; of a phase
            those that its best agent lacks.
        absent: agent types that phases name and nobody is of.
        short: how many fewer agents than ``parallelism`` there are.
    """

    members: tuple[Member, ...]
    missing: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    short: int = 0

    @property
    def complete(self) -> bool:
        """Whether there is anybody, for every phase somebody, and every capability is held."""
        return bool(self.members) and not self.missing and not self.absent

    @property
    def ids(self) -> tuple[str, ...]:
        """Agent ids."""
        return tuple(member.agent_id for member in self.members)


def _preference(agent: AgentView) -> tuple[float, float, str]:
    """Least load per slot first; against who has done nothing yet nothing speaks."""
    rate = 1.0 if agent.success_rate is None else agent.success_rate
    return (agent.load / max(1, agent.slots), -rate, agent.id)


def named(name: str, agents: Iterable[AgentView]) -> tuple[AgentView, ...]:
    """Agents with that id; if there is none, with that name; if there is none, of that type."""
    every = list(agents) if name else []
    tests: tuple[Callable[[AgentView], bool], ...] = (
        lambda agent: agent.id == name,
        lambda agent: agent.name == name,
        lambda agent: agent.type == name,
    )
    for test in tests:
        found = tuple(agent for agent in every if test(agent))
        if found:
            return found
    return ()


def candidates(phase: PhasePlan, agents: Sequence[AgentView]) -> tuple[AgentView, ...]:
    """Agents that may do steps of a phase, in the given order; () = nobody."""
    able = tuple(agent for agent in agents if set(phase.requires) <= set(agent.capabilities))
    if phase.agents:
        wanted = {agent.id for name in phase.agents for agent in named(name, agents)}
        return tuple(agent for agent in able if agent.id in wanted)
    if phase.kind == "tool" and not phase.requires:
        return tuple(agent for agent in able if agent.type == TOOL_TYPE) or able
    return able


def covering(
    required: Sequence[str], agents: Iterable[AgentView], chosen: Sequence[AgentView] = ()
) -> tuple[tuple[AgentView, ...], tuple[str, ...]]:
    """A greedy cover.

    Args:
        required: capabilities.
        agents: who there is.
        chosen: who is in the team already; what they hold need not be covered.

    Returns:
        Agents beside ``chosen``, and the capabilities that nobody holds.
    """
    held = {capability for agent in chosen for capability in agent.capabilities}
    open_ = [capability for capability in dict.fromkeys(required) if capability not in held]
    taken = {agent.id for agent in chosen}
    rest = sorted((agent for agent in agents if agent.id not in taken), key=_preference)
    found: list[AgentView] = []
    while open_ and rest:
        gains = [len(set(open_).intersection(agent.capabilities)) for agent in rest]
        best = max(range(len(rest)), key=gains.__getitem__)  # the first of equals
        if not gains[best]:
            break
        agent = rest.pop(best)
        found.append(agent)
        open_ = [capability for capability in open_ if capability not in agent.capabilities]
    return tuple(found), tuple(open_)


def choose_team(spec: TaskSpec, plan: Plan, agents: Sequence[AgentView]) -> Team:
    """The team of a task.

    Naming a type means every agent of it. Phases that name nobody are done by the team, which is
    filled up to ``parallelism``, first with agents that hold any required capability.
    """
    chosen: dict[str, AgentView] = {}
    missing: dict[str, None] = {}
    absent: dict[str, None] = {}
    for phase in plan.phases:
        for name in _names(phase):
            found = named(name, agents)
            if not found:
                absent[name] = None
            chosen.update((agent.id, agent) for agent in sorted(found, key=_preference))
    cover, uncovered = covering(spec.required_capabilities, agents, tuple(chosen.values()))
    chosen.update((agent.id, agent) for agent in cover)
    missing.update(dict.fromkeys(uncovered))
    for phase in plan.phases:
        if candidates(phase, tuple(chosen.values())) or any(
            name in absent for name in phase.agents
        ):
            continue
        able, lacking = _one_for(phase, agents)
        chosen.update((agent.id, agent) for agent in able)
        missing.update(dict.fromkeys(lacking))
    short = 0
    if any(not phase.agents for phase in plan.phases):
        fill = _fill(spec, agents, chosen)
        chosen.update((agent.id, agent) for agent in fill)
        short = max(0, spec.parallelism - len(chosen))
    return Team(
        members=_members(spec, plan, tuple(chosen.values())),
        missing=tuple(missing),
        absent=tuple(absent),
        short=short,
    )


def _names(phase: PhasePlan) -> tuple[str, ...]:
    """Everybody a phase names, who does its steps and who helps to end it."""
    helpers = (phase.aggregate.agent, phase.vote.equality.agent if phase.vote else "")
    return (*phase.agents, *(name for name in helpers if name))


def _one_for(
    phase: PhasePlan, agents: Sequence[AgentView]
) -> tuple[tuple[AgentView, ...], tuple[str, ...]]:
    """One agent for a phase, or what the best one lacks."""
    able = sorted(candidates(phase, agents), key=_preference)
    if able:
        return (able[0],), ()
    group = agents
    if phase.agents:
        group = [agent for name in phase.agents for agent in named(name, agents)]
    lacks = [
        tuple(one for one in phase.requires if one not in agent.capabilities)
        for agent in sorted(group, key=_preference)
    ]
    return (), min(lacks, key=len, default=phase.requires)


def _fill(
    spec: TaskSpec, agents: Sequence[AgentView], chosen: dict[str, AgentView]
) -> tuple[AgentView, ...]:
    room = max(0, max(spec.parallelism, 1) - len(chosen))
    required = set(spec.required_capabilities)
    rest = sorted(
        (agent for agent in agents if agent.id not in chosen),
        key=lambda agent: (required.isdisjoint(agent.capabilities), _preference(agent)),
    )
    return tuple(rest[:room])


def _members(spec: TaskSpec, plan: Plan, agents: Sequence[AgentView]) -> tuple[Member, ...]:
    """The agents with their roles: a role says what an agent does, so it is read off the plan."""
    works: dict[str, set[Kind]] = {agent.id: set() for agent in agents}
    merging = {agent.id for phase in plan.phases for agent in named(phase.aggregate.agent, agents)}
    if spec.coordination.conflict_resolution == "coordinator_decides":
        merging |= {agent.id for agent in agents if agent.type == "coordinator"}
    for phase in plan.phases:
        for agent in candidates(phase, agents):
            works[agent.id].add(phase.kind)
        for agent in named(phase.vote.equality.agent if phase.vote else "", agents):
            works[agent.id].add("validate")
    return tuple(
        Member(
            agent_id=agent.id,
            role="validator"
            if works[agent.id] == {"validate"}
            else "coordinator"
            if agent.id in merging
            else "worker",
            capabilities=agent.capabilities,
        )
        for agent in agents
    )


def require_team(phase: PhasePlan, agents: Sequence[AgentView]) -> tuple[AgentView, ...]:
    """``candidates``, of whom there must be one.

    Raises:
        PlanError: nobody.
    """
    found = candidates(phase, agents)
    if not found:
        who = f" of {', '.join(phase.agents)}" if phase.agents else ""
        holds = f" that holds {', '.join(phase.requires)}" if phase.requires else ""
        raise PlanError(phase.where, f"phase {phase.name}: nobody in the team{who}{holds}")
    return found


def estimate_ms(phase: PhasePlan, agents: Sequence[AgentView], steps: int) -> float | None:
    """How long a phase will take, of measured durations of its kind; None = not known.

    Args:
        phase: the phase.
        agents: the team.
        steps: how many it will have.
    """
    able = candidates(phase, agents)
    paces = [agent.durations.get(phase.kind) for agent in able]
    rates = [
        agent.slots / pace.ewma_ms
        for agent, pace in zip(able, paces, strict=True)
        if pace is not None and pace.samples >= SAMPLES_MIN and pace.ewma_ms > 0
    ]
    if len(rates) < len(able) or not rates:
        return None
    slowest = max(pace.ewma_ms for pace in paces if pace is not None)
    if phase.chained:
        return steps * sum(pace.ewma_ms for pace in paces if pace is not None) / len(paces)
    return slowest if phase.each else max(slowest if steps else 0.0, steps / sum(rates))
