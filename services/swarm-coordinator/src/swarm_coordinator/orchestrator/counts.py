"""What happened to swarms, counted from what is stored; nothing is estimated."""

from collections import Counter
from collections.abc import Sequence

from mesh_chassis.metrics import Metrics
from swarm_coordinator.core.events import (
    AgentLost,
    Event,
    ResultIgnored,
    StepDone,
    StepFailed,
    StepRetry,
    StepReturned,
    TaskEnded,
)

__all__ = ["count"]


def count(metrics: Metrics, events: Sequence[Event]) -> None:
    """Raise the counters of some stored events."""
    steps: Counter[str] = Counter()
    for event in events:
        if isinstance(event, StepDone):
            steps["done"] += 1
        elif isinstance(event, StepFailed):
            steps["failed"] += 1
        elif isinstance(event, StepRetry):
            steps["retried"] += 1
        elif isinstance(event, StepReturned):
            steps["returned"] += 1
        elif isinstance(event, ResultIgnored):
            steps[event.reason] += 1
        elif isinstance(event, TaskEnded):
            metrics.add("mesh_swarm_tasks", event.status)
        elif isinstance(event, AgentLost):
            metrics.add("mesh_swarm_agents_lost")
    for outcome, number in steps.items():
        metrics.add("mesh_swarm_steps", outcome, by=float(number))
