"""Tasks are accepted, and ended on demand."""

import msgspec

from swarm_coordinator.core.decide.attempts import cancelled
from swarm_coordinator.core.events import Event, TaskCancelling, TaskPlanned, TaskSubmitted
from swarm_coordinator.core.fold.tasks import key_of
from swarm_coordinator.core.limits import (
    OPERATIONS_MAX,
    RETRY_AFTER_MAX_MS,
    RETRY_AFTER_MIN_MS,
    SPEC_BYTES_MAX,
    TIMEOUT_MAX_S,
)
from swarm_coordinator.core.plan import plan_of
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.roster import available
from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.state import SwarmState
from swarm_coordinator.core.steps import step_count
from swarm_coordinator.core.team import Team, choose_team
from swarm_coordinator.core.views import AgentView, Plan, PlanError

__all__ = ["Planned", "cancel", "plan_for", "repeated", "submit"]


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """Plan and team (ids) of a task that would be submitted now.

    ``chosen`` says what each is there for, ``steps`` how many steps are known beforehand.
    """

    plan: Plan
    team: tuple[str, ...]
    chosen: Team
    steps: int


def plan_for(state: SwarmState, spec: TaskSpec) -> Planned:
    """What ``submit`` would do (dry run).

    Raises:
        Refusal: as ``submit``.
    """
    if state.status != "active":
        raise Refusal("swarm", "destroyed", "the swarm has ended", swarmId=state.swarm)
    if not 1 <= spec.timeout <= TIMEOUT_MAX_S:
        message = f"timeout must be 1..{TIMEOUT_MAX_S} s"
        raise Refusal("params", "range", message, where="/task/timeout")
    agents, plan, team = _planned(state, spec, spawning=False)
    if not team.complete:
        # Agents that were spawned a moment ago: the task waits for them, not its submitter.
        agents, plan, team = _planned(state, spec, spawning=True)
    if not team.complete:
        raise _lacking(state, spec, plan, team)
    _check_sizes(spec, plan)
    chosen = [agent for agent in agents if agent.id in team.ids]
    steps = sum(_steps(phase, chosen) for phase in plan.phases)
    _check_room(state, steps)
    for i, name in enumerate(spec.dependencies):
        before = state.tasks.get(name)
        if before is None:
            message = f"there is no task {name} here"
            raise Refusal("params", "dependency", message, where=f"/task/dependencies/{i}")
    return Planned(plan=plan, team=team.ids, chosen=team, steps=steps)


def _lacking(state: SwarmState, spec: TaskSpec, plan: Plan, team: Team) -> Refusal:
    lacks = [*team.missing, *team.absent]
    here = "here"
    if spec.execution.mode == "local":
        here = f"on node {state.node} of the coordinator (mode local)"
    message = f"no agent {here} is or has: {', '.join(lacks)}" if lacks else "no agent is active"
    if not lacks and spec.execution.mode == "local":
        message = f"no agent {here} is active"
    place = _place_of(lacks, spec, plan)
    where = {"where": place} if place else {}
    return Refusal("resource", "missing_capabilities", message, missingCapabilities=lacks, **where)


def _place_of(lacks: list[str], spec: TaskSpec, plan: Plan) -> str:
    """Where the first of what nobody is or has was asked for; "" = nowhere by name."""
    for lack in lacks:
        if lack in spec.required_capabilities:
            return f"/task/requiredCapabilities/{spec.required_capabilities.index(lack)}"
        for phase in plan.phases:
            if phase.where and lack in phase.requires:
                return f"{phase.where}/requires/{phase.requires.index(lack)}"
            if phase.where and lack in phase.agents:
                return f"{phase.where}/agents/{phase.agents.index(lack)}"
    return ""


def _planned(
    state: SwarmState, spec: TaskSpec, *, spawning: bool
) -> tuple[list[AgentView], Plan, Team]:
    agents = available(state, spec, spawning=spawning)
    try:
        plan = plan_of(spec, agents, topology=state.topology)
        return agents, plan, choose_team(spec, plan, agents)
    except PlanError as error:
        raise Refusal("params", "plan", error.message, where=error.where) from None


def _steps(phase: object, team: list[AgentView]) -> int:
    try:
        return step_count(phase, team) or 1  # type: ignore[arg-type]
    except PlanError as error:
        raise Refusal("params", "plan", error.message, where=error.where) from None


def _check_sizes(spec: TaskSpec, plan: Plan) -> None:
    for what in (spec, plan):
        size = len(msgspec.json.encode(what))
        if size > SPEC_BYTES_MAX:
            raise Refusal(
                "params",
                "too_large",
                f"the task takes {size} bytes; keep its input in the memory of the swarm",
                where="/task",
                limit=SPEC_BYTES_MAX,
            )


def _check_room(state: SwarmState, steps: int) -> None:
    """Running operations and the queue behind them are bounded, by exact count."""
    in_flight = state.agenda.open
    if in_flight + steps <= OPERATIONS_MAX:
        return
    if steps > OPERATIONS_MAX:
        message = f"the task has {steps} steps; at most {OPERATIONS_MAX}"
        raise Refusal("params", "limit", message, where="/task", limit=OPERATIONS_MAX)
    raise Refusal(
        "resource",
        "limit",
        f"{in_flight} operations are in flight, of at most {OPERATIONS_MAX}",
        limit=OPERATIONS_MAX,
        inFlight=in_flight,
        retryAfterMs=_retry_after(state, in_flight + steps - OPERATIONS_MAX),
    )


def _retry_after(state: SwarmState, over: int) -> int:
    """How long the agents need for ``over`` steps, from measured durations."""
    rate = 0.0
    for name in state.agenda.active:
        agent = state.agents[name]
        means = agent.stats.duration_ms.values()
        if means:
            rate += agent.slots / max(1.0, sum(means) / len(means))
    wait_ms = round(over / rate) if rate else RETRY_AFTER_MIN_MS
    return min(RETRY_AFTER_MAX_MS, max(RETRY_AFTER_MIN_MS, wait_ms))


def repeated(state: SwarmState, principal: str, idempotency: str, spec: TaskSpec) -> str:
    """Task that the same principal submitted under the same key; "" = none.

    Raises:
        Refusal: ``params idempotency`` when it was another task.
    """
    found = state.keys.get(key_of(principal, idempotency), "") if idempotency else ""
    task = state.tasks.get(found)
    if task is not None and msgspec.json.encode(task.spec) != msgspec.json.encode(spec):
        message = "the idempotency key was used for another task"
        raise Refusal("params", "idempotency", message, where="/idempotencyKey", taskId=found)
    return found


def submit(
    state: SwarmState,
    principal: str,
    spec: TaskSpec,
    *,
    task: str,
    grant: str = "",
    idempotency: str = "",
    now_ms: int,
    planned: Planned | None = None,
) -> list[Event]:
    """A task is accepted. Nothing when ``repeated`` finds one: its id is the answer.

    ``planned`` = what ``plan_for`` has said of this very state.

    Raises:
        Refusal: ``params`` with ``where`` for a bad plan; ``resource missing_capabilities`` with
            ``missingCapabilities``; ``resource limit`` with ``limit``, ``inFlight`` and
            ``retryAfterMs``; ``swarm destroyed``.
    """
    if repeated(state, principal, idempotency, spec) or task in state.tasks:
        return []
    found = planned or plan_for(state, spec)
    wall = spec.budget.wall_s
    seconds = min(spec.timeout, wall) if wall else spec.timeout
    return [
        TaskSubmitted(
            at=now_ms,
            task=task,
            principal=principal,
            spec=spec,
            deadline_ms=now_ms + seconds * 1000,
            team=found.team,
            roles=tuple(member.role for member in found.chosen.members),
            grant=grant,
            idempotency=idempotency,
        ),
        TaskPlanned(at=now_ms, task=task, plan=found.plan),
    ]


def cancel(state: SwarmState, task: str, reason: str, now_ms: int) -> list[Event]:
    """End a task: its steps are cancelled at once, the task once no attempt is left.

    Nothing if it has ended or is being cancelled.

    Raises:
        Refusal: ``swarm not_found``.
    """
    found = state.tasks.get(task)
    if found is None:
        raise Refusal("swarm", "not_found", "there is no such task", taskId=task)
    if found.ended or found.status == "cancelling":
        return []
    return [
        TaskCancelling(at=now_ms, task=task, reason=reason),
        *cancelled(found, found.steps.values(), reason or "cancelled", now_ms),
    ]
