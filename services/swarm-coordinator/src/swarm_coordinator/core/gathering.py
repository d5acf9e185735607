"""``reduce`` over the outputs of several last phases: one more phase, which is given them all.

Every other aggregate the owner computes when the task ends; this one is the work of an agent or a
tool, so it has a place in the plan like any other work.
"""

from collections.abc import Mapping, Sequence

import msgspec

from swarm_coordinator.core.references import escape
from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.views import PhasePlan

__all__ = ["gathering", "narrowed"]

NAME = "result"


def gathering(spec: TaskSpec, phases: Sequence[PhasePlan], last: Sequence[str]) -> list[PhasePlan]:
    """The phase behind the last ones; [] = none is needed.

    Args:
        spec: the task.
        phases: of its plan.
        last: names of those that nobody depends on, in order.
    """
    aggregate = spec.execution.aggregate
    if aggregate.kind != "reduce" or len(last) < 2:
        return []
    name, taken = NAME, {phase.name for phase in phases}
    while name in taken:
        name += "-"
    plan = PhasePlan(
        name=name,
        agents=(aggregate.agent,) if aggregate.agent else (),
        kind="tool" if aggregate.tool else "merge",
        tool=aggregate.tool,
        dependencies=tuple(last),
        gathers=True,
        single=True,
        aggregate=aggregate,
        retry=spec.execution.retry,
    )
    return [_given(plan, last)]


def narrowed(phase: PhasePlan, outputs: Mapping[str, msgspec.Raw | bytes]) -> PhasePlan:
    """A gathering phase with the outputs that there are; any other phase as it is."""
    if not phase.gathers:
        return phase
    return _given(phase, [name for name in phase.dependencies if name in outputs])


def _given(phase: PhasePlan, names: Sequence[str]) -> PhasePlan:
    """The form of a merge: ``reductions`` says which."""
    pointer = phase.aggregate.pointer
    outputs = [{"$ref": f"/{escape(name)}/output{pointer}"} for name in names]
    given: dict[str, object] = {"outputs": outputs}
    if not phase.tool:
        given["aggregate"] = phase.aggregate
    return msgspec.structs.replace(phase, input=msgspec.Raw(msgspec.json.encode(given)))
