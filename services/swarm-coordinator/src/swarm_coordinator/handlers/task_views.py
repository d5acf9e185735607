"""What a task looks like from outside: measured from the state, and nothing added to it."""

from collections.abc import Mapping

import msgspec

from swarm_coordinator.core.roster import view_of
from swarm_coordinator.core.spec import Coordination, TaskSpec
from swarm_coordinator.core.state import PhaseState, SwarmState, TaskState, VoteState
from swarm_coordinator.core.steps import step_count
from swarm_coordinator.core.team import candidates, choose_team, estimate_ms
from swarm_coordinator.core.views import AgentView, PhasePlan, Plan, PlanError
from swarm_coordinator.handlers.answers import iso_or_none, seconds

__all__ = [
    "AgentShown",
    "Connections",
    "Outline",
    "PhaseOutline",
    "PhaseShown",
    "Progress",
    "connections",
    "coordination_of",
    "estimated_s",
    "failures_of",
    "outline",
    "phases_of",
    "progress_of",
    "team_of",
    "usage_of",
    "votes_of",
]


class _Shown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """JSON, camelCase; what is not known is null."""


class AgentShown(_Shown, frozen=True, kw_only=True):
    """An agent of a team."""

    agent_id: str
    role: str
    capabilities: tuple[str, ...]


class PhaseOutline(_Shown, frozen=True, kw_only=True):
    """A phase of a plan; seconds."""

    name: str
    agents: tuple[str, ...]
    estimated_duration: float | None
    dependencies: tuple[str, ...]


class Outline(_Shown, frozen=True, kw_only=True):
    """A plan."""

    phases: tuple[PhaseOutline, ...]


class Connections(_Shown, frozen=True, kw_only=True):
    """Agents that are connected, and how busy they are."""

    active: int
    pool_utilization: float | None


class Progress(_Shown, frozen=True, kw_only=True):
    """Steps; ``total`` None while phases have not begun whose width is not known."""

    done: int
    total: int | None


class PhaseShown(_Shown, frozen=True, kw_only=True):
    """How far a phase is."""

    name: str
    dependencies: tuple[str, ...]
    status: str
    done: int
    failed: int
    total: int | None
    started_at: str | None
    ended_at: str | None
    message: str | None


def team_of(
    state: SwarmState, spec: TaskSpec, plan: Plan, team: tuple[str, ...]
) -> tuple[AgentShown, ...]:
    """The agents of a team that the swarm still knows, each with what it is there for."""
    return tuple(
        AgentShown(agent_id=one.agent_id, role=one.role, capabilities=one.capabilities)
        for one in choose_team(spec, plan, _views(state, team)).members
    )


def outline(state: SwarmState, plan: Plan, team: tuple[str, ...]) -> Outline:
    """The phases of a plan, each with the agents that may do it."""
    views = _views(state, team)
    shown: list[PhaseOutline] = []
    for phase in plan.phases:
        agents = candidates(phase, views)
        shown.append(
            PhaseOutline(
                name=phase.name,
                agents=tuple(agent.id for agent in agents),
                estimated_duration=_estimate(phase, views) if agents else None,
                dependencies=phase.dependencies,
            )
        )
    return Outline(phases=tuple(shown))


def estimated_s(plan: Outline) -> float | None:
    """The longest way through a plan, in seconds; None as soon as one phase is not known."""
    ends: dict[str, float] = {}
    for phase in plan.phases:
        if phase.estimated_duration is None:
            return None
        before = max((ends.get(name, 0.0) for name in phase.dependencies), default=0.0)
        ends[phase.name] = before + phase.estimated_duration
    return round(max(ends.values()), 3) if ends else None


def connections(state: SwarmState) -> Connections:
    """Of the agents that work now."""
    active = [agent for agent in state.agents.values() if agent.status in {"active", "draining"}]
    slots = sum(agent.slots for agent in active)
    used = sum(agent.load for agent in active)
    return Connections(
        active=len(active), pool_utilization=round(used / slots, 3) if slots else None
    )


def progress_of(task: TaskState) -> Progress:
    """Steps that have ended, of those that there will be."""
    known = all(phase.total >= 0 or phase.ended_ms for phase in task.phases.values())
    total = task.total if task.phases and known else None
    return Progress(done=task.ended_steps, total=total)


def phases_of(task: TaskState) -> tuple[PhaseShown, ...]:
    """Every phase."""
    after = {plan.name: plan.dependencies for plan in task.plan.phases}
    return tuple(_phase(phase, after.get(phase.name, ())) for phase in task.phases.values())


def failures_of(task: TaskState) -> list[dict[str, object]]:
    """What finally failed, as far as it is kept."""
    return [_members(failure) for failure in task.failures]


def votes_of(task: TaskState) -> dict[str, object]:
    """Phase → what its vote came to; with fan-out, one of each item by its number."""
    shown: dict[str, object] = {}
    for name, phase in task.phases.items():
        if not phase.votes:
            continue
        votes = {group: _vote(vote) for group, vote in phase.votes.items()}
        shown[name] = votes["0"] if set(votes) == {"0"} else votes
    return shown


def coordination_of(coordination: Coordination) -> dict[str, object]:
    """The rules of votes, defaults included."""
    said = _members(coordination)
    return {
        "votingMechanism": coordination.voting_mechanism,
        "consensusThreshold": coordination.consensus_threshold,
        "conflictResolution": coordination.conflict_resolution,
        "weights": coordination.weights,
        "quorum": coordination.quorum,
        **said,
    }


def usage_of(task: TaskState) -> dict[str, object]:
    """What a task has used; every result counts. None where no agent measures it."""
    spent = task.spent
    told = [step.usage for step in task.steps.values() if step.usage is not None]
    tokens = spent.tokens or any(one.tokens is not None for one in told)
    cpu = spent.cpu_ms or any(one.cpu_ms is not None for one in told)
    return {
        "tokens": spent.tokens if tokens else None,
        "toolCalls": spent.tool_calls,
        "messages": spent.messages,
        "wallMs": round(spent.wall_ms, 3),
        "cpuMs": round(spent.cpu_ms, 3) if cpu else None,
        "retries": task.retries,
        "late": task.late,
        "duplicates": task.duplicates,
        "cancelledLate": task.cancelled_late,
        "ignored": task.ignored,
    }


def _views(state: SwarmState, team: tuple[str, ...]) -> list[AgentView]:
    return [view_of(state.agents[name]) for name in team if name in state.agents]


def _estimate(phase: PhasePlan, team: list[AgentView]) -> float | None:
    """Seconds; None where not every agent has been measured, or outputs tell how many steps."""
    try:
        steps = step_count(phase, team)
    except PlanError:
        return None
    return None if steps is None else seconds(estimate_ms(phase, team, steps))


def _phase(phase: PhaseState, dependencies: tuple[str, ...]) -> PhaseShown:
    return PhaseShown(
        name=phase.name,
        dependencies=dependencies,
        status=phase.status,
        done=phase.done,
        failed=phase.failed,
        total=phase.total if phase.total >= 0 else None,
        started_at=iso_or_none(phase.began_ms),
        ended_at=iso_or_none(phase.ended_ms),
        message=phase.message or None,
    )


def _vote(vote: VoteState) -> dict[str, object]:
    shown: dict[str, object] = {
        "reached": vote.reached,
        "decision": _value(vote.decision),
        "method": vote.method,
        "rounds": vote.rounds,
        "earlyStop": vote.early,
        "ended": vote.ended,
    }
    if memoryview(vote.tally).nbytes:
        shown["tally"] = vote.tally
    if vote.message:
        shown["message"] = vote.message
    return shown


def _value(raw: msgspec.Raw) -> msgspec.Raw | None:
    return raw if memoryview(raw).nbytes else None


def _members(struct: msgspec.Struct) -> dict[str, object]:
    """JSON members of a struct."""
    found: Mapping[str, object] = msgspec.json.decode(msgspec.json.encode(struct))
    return dict(found)
