"""``autoSpawn``: which agents a task lacks, found before any of them is started.

The plan is made again with each agent that would come, until it is whole. What no host can run,
and an agent above the limit of the swarm, refuse the task with nothing spawned.
"""

from collections.abc import Iterable, Mapping

import msgspec

from swarm_coordinator.core.limits import RETRY_AFTER_MAX_MS
from swarm_coordinator.core.plan import plan_of
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.roster import available
from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.state import SwarmState
from swarm_coordinator.core.team import Team, candidates, choose_team, covering
from swarm_coordinator.core.views import AgentView, Plan, PlanError

__all__ = ["Lacking", "lacking"]


class Lacking(msgspec.Struct, frozen=True):
    """An agent to spawn: its type, and what it is declared to be able to do."""

    type: str
    capabilities: tuple[str, ...] = ()


def lacking(
    state: SwarmState, spec: TaskSpec, types: Mapping[str, tuple[str, ...]], refusal: Refusal
) -> list[Lacking]:
    """What to spawn so that the task can be planned.

    Args:
        state: of the swarm.
        spec: of the task.
        types: that live hosts run, with their capabilities. A type counts for the capability of
            its own name too.
        refusal: why the task cannot be planned now; raised again where no type helps.

    Raises:
        Refusal: ``refusal``; ``resource limit`` when the swarm has no room for them; ``params``.
    """
    there = available(state, spec, spawning=True)
    room = state.config.max_agents - sum(
        agent.status != "terminated" for agent in state.agents.values()
    )
    found: list[Lacking] = []
    while True:
        try:
            plan = plan_of(spec, there, topology=state.topology)
            team = choose_team(spec, plan, there)
        except PlanError as error:
            raise Refusal("params", "plan", error.message, where=error.where) from None
        if team.complete:
            return found
        more = _next(spec, plan, team, there, types)
        if more is None:
            raise refusal
        found.append(more)
        if len(found) > room:
            raise _no_room(state, found)
        there.append(_expected(more, len(found), types))


def _expected(more: Lacking, number: int, types: Mapping[str, tuple[str, ...]]) -> AgentView:
    return AgentView(
        id=f"~{number}",  # no agent has such an id
        type=more.type,
        capabilities=(*types.get(more.type, ()), *more.capabilities),
    )


def _next(
    spec: TaskSpec,
    plan: Plan,
    team: Team,
    there: list[AgentView],
    types: Mapping[str, tuple[str, ...]],
) -> Lacking | None:
    """One agent that brings the plan nearer; None = no type does."""
    if team.absent:
        return Lacking(team.absent[0]) if team.absent[0] in types else None
    for phase in plan.phases:
        # One agent must hold all of it, so a part of it is of no use.
        if phase.requires and not candidates(phase, there):
            able = (name for name in sorted(types) if not phase.agents or name in phase.agents)
            return _first(able, set(phase.requires), types, whole=True)
    open_ = set(covering(spec.required_capabilities, there)[1])
    return _first(sorted(types), open_, types, whole=False) if open_ else None


def _first(
    names: Iterable[str],
    wanted: set[str],
    types: Mapping[str, tuple[str, ...]],
    *,
    whole: bool,
) -> Lacking | None:
    """The type that holds most of what is wanted, with its own name among what it declares."""
    best: Lacking | None = None
    most = 0
    for name in names:
        held = wanted.intersection((*types[name], name))
        if len(held) > most and (not whole or held == wanted):
            best, most = Lacking(name, (name,) if name in wanted else ()), len(held)
    return best


def _no_room(state: SwarmState, found: list[Lacking]) -> Refusal:
    most = state.config.max_agents
    names = ", ".join(one.type for one in found)
    return Refusal(
        "resource",
        "limit",
        f"the task needs {names} beside the agents there are, and a swarm has at most {most}",
        limit=most,
        inFlight=sum(agent.status != "terminated" for agent in state.agents.values()),
        retryAfterMs=RETRY_AFTER_MAX_MS,
    )
