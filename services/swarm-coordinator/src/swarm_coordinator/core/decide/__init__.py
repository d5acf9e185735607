"""Decisions: (state, input, now_ms, seed) → events. None changes the state it is given.

Fold what is returned with ``turn.take``, which adds what follows from it, and store all of it in
one append. A ``Refusal`` means that nothing was decided.
"""

from swarm_coordinator.core.decide.agents import (
    add_agent,
    agent_lost,
    agent_refused,
    agent_spawned,
    attach,
    drain,
    terminate,
)
from swarm_coordinator.core.decide.beats import Reconciled, beat, reconcile
from swarm_coordinator.core.decide.inputs import answer_input
from swarm_coordinator.core.decide.letters import mail, mail_taken
from swarm_coordinator.core.decide.progress import advance
from swarm_coordinator.core.decide.results import refused, results
from swarm_coordinator.core.decide.swarms import create, destroy, owner_changed
from swarm_coordinator.core.decide.tasks import Planned, cancel, plan_for, repeated, submit
from swarm_coordinator.core.decide.timers import next_due, tick
from swarm_coordinator.core.schedule import schedule

__all__ = [
    "Planned",
    "Reconciled",
    "add_agent",
    "advance",
    "agent_lost",
    "agent_refused",
    "agent_spawned",
    "answer_input",
    "attach",
    "beat",
    "cancel",
    "create",
    "destroy",
    "drain",
    "mail",
    "mail_taken",
    "next_due",
    "owner_changed",
    "plan_for",
    "reconcile",
    "refused",
    "repeated",
    "results",
    "schedule",
    "submit",
    "terminate",
    "tick",
]
