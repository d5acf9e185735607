"""Agents and tasks that a call names; the owner's swarm is the caller's, so all in it are."""

from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.state import AgentState, SwarmState, TaskState

__all__ = ["agent_in", "last_task", "no_task", "task_in"]


def agent_in(state: SwarmState, wanted: str) -> AgentState:
    """The agent of this id, else the newest of this name that lives.

    Raises:
        Refusal: ``agent not_found``.
    """
    found = state.agents.get(wanted)
    if found is None:
        named = [one for one in state.agents.values() if one.name == wanted and wanted]
        living = [one for one in named if one.status != "terminated"]
        found = (living or named or [None])[-1]
    if found is None:
        raise Refusal(
            "agent",
            "not_found",
            f"the swarm has no agent {wanted[:64]!r}",
            agentId=wanted[:128],
            swarmId=state.swarm,
        )
    return found


def task_in(state: SwarmState, wanted: str) -> TaskState | None:
    """The task of this id, while the state knows it."""
    return state.tasks.get(wanted)


def last_task(state: SwarmState, principal: str) -> TaskState | None:
    """The task that was submitted last."""
    own = (task for task in reversed(state.tasks.values()) if task.principal == principal)
    return next(own, None)


def no_task(state: SwarmState, wanted: str) -> Refusal:
    """What a call meets that means a task which is not there."""
    if not wanted:
        return Refusal("swarm", "not_found", "the swarm has had no task yet", swarmId=state.swarm)
    return Refusal(
        "swarm",
        "not_found",
        f"the swarm has no task {wanted[:64]!r}",
        taskId=wanted[:64],
        swarmId=state.swarm,
    )
