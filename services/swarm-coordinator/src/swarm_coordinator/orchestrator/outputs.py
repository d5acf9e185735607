"""How much the outputs of a swarm's steps take in memory, and what is refused beyond that.

Outputs stay in the state while their task does, because later steps refer to them. What is larger
belongs into an artifact, and its URI into the output.
"""

from collections.abc import Sequence

from mcp_proto.contracts.swarm import StepError, WorkResult
from mcp_proto.limits import STEP_OUTPUT_BYTES_MAX
from swarm_coordinator.core.events import Event, StepDone, TaskForgotten
from swarm_coordinator.core.state import SwarmState

__all__ = ["OUTPUTS_BYTES_MAX", "OUTPUT_BYTES_MAX", "Outputs"]

OUTPUT_BYTES_MAX = STEP_OUTPUT_BYTES_MAX
"""Output of one step; hosts store what is larger, and give its URI."""
OUTPUTS_BYTES_MAX = 32 * 1024 * 1024
"""Outputs of all tasks in a state, which holds what phases make of them besides: a coordinator has
a few hundred MiB for all its swarms."""


class Outputs:
    """Of one swarm.

    Args:
        state: as it is now.
    """

    def __init__(self, state: SwarmState) -> None:
        self._of_task = {
            task.id: sum(memoryview(step.output).nbytes for step in task.steps.values())
            for task in state.tasks.values()
        }

    @property
    def total(self) -> int:
        """Bytes of all outputs."""
        return sum(self._of_task.values())

    def note(self, events: Sequence[Event]) -> None:
        """These have happened."""
        for event in events:
            if isinstance(event, StepDone):
                size = memoryview(event.output).nbytes
                self._of_task[event.task] = self._of_task.get(event.task, 0) + size
            elif isinstance(event, TaskForgotten):
                self._of_task.pop(event.task, None)

    def bounded(self, results: Sequence[WorkResult]) -> list[WorkResult]:
        """The results, those for which there is no room made failures that say so."""
        taken = self.total
        found: list[WorkResult] = []
        for result in results:
            size = memoryview(result.structured).nbytes + len(result.text)
            if size > OUTPUT_BYTES_MAX:
                found.append(_refused(result, size, OUTPUT_BYTES_MAX))
            elif taken + size > OUTPUTS_BYTES_MAX:
                found.append(_refused(result, taken + size, OUTPUTS_BYTES_MAX))
            else:
                taken += size
                found.append(result)
        return found


def _refused(result: WorkResult, size: int, most: int) -> WorkResult:
    what = "the output has" if most == OUTPUT_BYTES_MAX else "with this output the swarm's have"
    message = f"{what} {size} bytes; {most} are allowed. Store it, and give its URI"
    return WorkResult(
        agent=result.agent,
        epoch=result.epoch,
        item=result.item,
        status="error",
        usage=result.usage,
        error=StepError(type="limit", message=message, retryable=False),
    )
