"""Where outputs meet on their way: merges at the inner nodes of a tree, or at the hub of a star.

Two things make a merge a step of an agent:

- the aggregate is ``reduce``: an agent (``agent``: id, name or type) or a tool combines outputs;
- the aggregate is associative (``sum``, ``union`` …) and agents declare the capability ``merge``.

A merge is given ``{"input": {"outputs": […], "aggregate": {…}}}`` (a tool ``{"outputs": […]}``) and
answers with a value of the same form as one output, because it may be merged again one level up:
for ``sum`` with pointer ``/count``, ``{"count": 7}``. Templates whose agents have a form of their
own say so in ``PhasePlan.merge``. Everything else the owner combines when all have answered; for
names like ``avg`` or ``median`` a tree would give a wrong result.
"""

from collections.abc import Sequence

import msgspec

from swarm_coordinator.core import pointers
from swarm_coordinator.core.references import Outputs, source_of
from swarm_coordinator.core.team import named
from swarm_coordinator.core.topology import Network, children_of
from swarm_coordinator.core.views import AgentView, Kind, MergeForm, PhasePlan, PlanError, StepPlan

__all__ = ["ASSOCIATIVE", "MERGE", "merges"]

ASSOCIATIVE = frozenset({"sum", "min", "max", "union", "intersection", "best"})
"""Functions whose result is the same in whatever order and depth outputs meet."""

MERGE = "merge"
"""Capability of agents that know these functions."""

_NOTHING = (b"", b"null")


def merges(
    phase: PhasePlan,
    steps: Sequence[StepPlan],
    team: Sequence[AgentView],
    network: Network,
    outputs: Outputs,
) -> list[StepPlan]:
    """All steps of a phase: the given ones and the merges of their outputs.

    Args:
        phase: the phase.
        steps: its other steps; of those whose output a merge takes up ``result`` becomes false.
        team: agents of the task.
        network: of the swarm.
        outputs: of the phases before.

    Raises:
        PlanError: nobody in the team can reduce.
    """
    mergers = _mergers(phase, steps, team)
    reduces = phase.aggregate.kind == "reduce"
    begin = _begin(phase, outputs)
    if phase.single or not (steps or begin) or not mergers:
        return list(steps)
    made: list[StepPlan] = []
    if network.topology == "hierarchical":
        tops = _tree(phase, steps, made, mergers, network)
    else:
        tops = [step.step for step in steps]
        if network.topology == "star" and not reduces and network.head in mergers:
            made += [_merge(phase, 0, tuple(tops), mergers, network.head)] if tops[1:] else []
    if reduces and (len(tops) != 1 or begin or not made):
        prefer = network.head if network.head in mergers else ""
        made.append(_merge(phase, len(made), tuple(tops), mergers, prefer, begin))
    taken = {name for merge in made for name in merge.after}
    return [
        msgspec.structs.replace(step, result=False) if step.step in taken else step
        for step in (*steps, *made)
    ]


def _mergers(
    phase: PhasePlan, steps: Sequence[StepPlan], team: Sequence[AgentView]
) -> tuple[str, ...]:
    """Who can merge; () = the owner does."""
    aggregate = phase.aggregate
    if aggregate.kind == "reduce" and not phase.single:
        if aggregate.tool:
            return tuple(dict.fromkeys(agent for step in steps for agent in step.agents))
        found = tuple(agent.id for agent in named(aggregate.agent, team))
        if not found:
            message = f"phase {phase.name}: nobody in the team is {aggregate.agent}"
            raise PlanError(f"{phase.where}/aggregate/agent", message)
        return found
    if aggregate.kind in ASSOCIATIVE:
        return tuple(agent.id for agent in team if MERGE in agent.capabilities)
    return ()


def _begin(phase: PhasePlan, outputs: Outputs) -> bytes:
    """What the last merge begins with; "" = nothing."""
    if phase.merge is None or not phase.merge.begin:
        return b""
    source, pointer = source_of(phase.merge.begin, phase.where)
    value = outputs.at(source, pointer)
    return b"" if value.strip() in _NOTHING else value


def _tree(
    phase: PhasePlan,
    steps: Sequence[StepPlan],
    made: list[StepPlan],
    mergers: Sequence[str],
    network: Network,
) -> list[str]:
    """A merge at each inner node that can, from the leaves to the root; what is left on top.

    Steps of a fan-out are dealt out in runs, so that every subtree has its share whoever will
    really do them.
    """
    children = children_of(network)
    workers = list(dict.fromkeys(agent for step in steps for agent in step.agents))
    held: dict[str, list[str]] = {agent: [] for agent in (*network.ranks, *workers)}
    for i, step in enumerate(steps):
        pinned = len(step.agents) == 1
        held[step.agents[0] if pinned else workers[i * len(workers) // len(steps)]].append(
            step.step
        )
    for node in _bottom_up(network.head, children):
        for child in children.get(node, ()):
            held[node] += held.pop(child)
        if node in children and node in mergers and len(held[node]) > 1:
            merge = _merge(phase, len(made), tuple(held[node]), mergers, node)
            made.append(merge)
            held[node] = [merge.step]
    return [name for names in held.values() for name in names]


def _bottom_up(root: str, children: dict[str, tuple[str, ...]]) -> list[str]:
    """Every node of the tree behind all below it."""
    order = [root] if root else []
    for node in order:
        order += children.get(node, ())
    return order[::-1]


def _merge(
    phase: PhasePlan,
    number: int,
    after: tuple[str, ...],
    mergers: Sequence[str],
    prefer: str,
    begin: bytes = b"",
) -> StepPlan:
    aggregate = phase.aggregate
    kind: Kind = "tool" if aggregate.kind == "reduce" and aggregate.tool else "merge"
    form = phase.merge or MergeForm()
    first = [msgspec.Raw(begin)] if begin else []
    payload: dict[str, object]
    if kind == "tool":
        payload = {"tool": aggregate.tool, "arguments": {"outputs": first}}
    elif phase.merge is None:
        payload = {"input": {"outputs": first, "aggregate": aggregate}}
    else:
        payload = {"input": {**pointers.members(form.input), form.member: first}}
    head = "/arguments" if kind == "tool" else "/input"
    return StepPlan(
        step=f"{phase.name}-m{number}",
        phase=phase.name,
        kind=kind,
        payload=msgspec.Raw(msgspec.json.encode(payload)),
        agents=tuple(mergers),
        prefer=prefer,
        after=after,
        takes="outputs",
        holes=((f"{head}/{form.member}", ""),),
        timeout_s=phase.timeout_s,
        retry=phase.retry,
        on_failure=phase.on_failure,
    )
