"""The steps of a phase, made when it begins, and what passes between them.

Step ids are stable: the same phase, outputs and team give the same steps under the same ids,
``{phase}-{n}`` (``{phase}-{n}v{k}`` for voter k on item n, ``{phase}-m{n}`` for merges).

The topology gives the shape. In a ring (and in a sequential plan) the steps are a chain: each is
given the output of the one before, as ``previous`` in its payload or where a ``/previous``
reference stands. Elsewhere outputs meet: at the inner nodes of a hierarchy, level by level, or at
the hub of a star. Voters are never chained: who sees the vote before does not vote on its own.

What the owner does with outputs, when all steps of a phase have ended:

- ``single``, or an aggregate ``reduce``: the output of the only step with ``result`` is the
  phase's (``null`` if there were no steps);
- ``vote``: one tally per ``group``; the phase's output is the decision, or with a fan-out the
  aggregate over the decisions;
- otherwise the aggregate over the outputs of steps with ``result``, in step order.
"""

from collections.abc import Mapping, Sequence

import msgspec

from swarm_coordinator.core import pointers
from swarm_coordinator.core.fanning import STEPS_MAX, Inputs, Part
from swarm_coordinator.core.gathering import narrowed
from swarm_coordinator.core.reductions import merges
from swarm_coordinator.core.references import Outputs, value_at
from swarm_coordinator.core.team import require_team
from swarm_coordinator.core.topology import Network
from swarm_coordinator.core.views import AgentView, PhasePlan, PlanError, StepPlan, Takes

__all__ = ["bound", "step_count", "steps_of"]


def steps_of(
    phase: PhasePlan,
    outputs: Mapping[str, msgspec.Raw | bytes],
    team: Sequence[AgentView],
    network: Network,
) -> list[StepPlan]:
    """The steps of a phase; [] = a fan-out over nothing.

    Args:
        phase: of the plan.
        outputs: of the phases that have ended, by name; those without an output are left out.
        team: agents of the task that may still work.
        network: of the swarm.

    Raises:
        PlanError: a reference that does not hold, a fan-out over no array, too many or too large
            steps, or nobody left to do them.
    """
    phase = narrowed(phase, outputs)
    able = _by_rank(require_team(phase, team), network)
    chain = phase.vote is None and (phase.chained or network.topology == "ring")
    read = Outputs(outputs)
    inputs = Inputs(phase, read, chain=chain)
    if phase.fanout is not None:
        parts = list(inputs.parts(inputs.items()))
    else:
        parts = [inputs.part(i) for i in range(len(able) if chain and phase.each else 1)]
    if phase.vote is not None:
        steps = _votes(phase, parts, able)
    elif phase.each:
        steps = _one_each(phase, parts, able)
    else:
        steps = _shared(phase, parts, able, prefer=chain)
    before = inputs.previous()
    if before:
        given = steps[:1] if chain else steps
        steps = [*(_after_phase(step, before) for step in given), *steps[len(given) :]]
    if chain or phase.chained:
        steps = _one_by_one(steps, "previous" if chain else "nothing")
    if phase.vote is not None:
        return steps
    steps = merges(phase, steps, team, network, read)
    if len(steps) > STEPS_MAX:
        raise PlanError(phase.where, f"{len(steps)} steps; at most {STEPS_MAX}")
    return steps


def step_count(phase: PhasePlan, team: Sequence[AgentView]) -> int | None:
    """How many steps a phase will have, merges aside; None = its outputs will tell."""
    voters = len(require_team(phase, team)) if phase.vote is not None or phase.each else 1
    if phase.fanout is None:
        return voters
    if phase.fanout.shards:
        return phase.fanout.shards * voters
    if phase.fanout.items_from:
        return None
    return len(pointers.elements(phase.fanout.items)) * voters


def _by_rank(agents: Sequence[AgentView], network: Network) -> tuple[AgentView, ...]:
    rank = {agent: i for i, agent in enumerate(network.ranks)}
    return tuple(sorted(agents, key=lambda agent: (rank.get(agent.id, len(rank)), agent.id)))


def _votes(phase: PhasePlan, parts: Sequence[Part], voters: Sequence[AgentView]) -> list[StepPlan]:
    """Every voter on every part."""
    wide = phase.fanout is not None
    if len(parts) * len(voters) > STEPS_MAX:
        count = f"{len(parts)} items of {len(voters)} voters each"
        raise PlanError(phase.where, f"{count}; at most {STEPS_MAX} steps")
    return [
        _step(
            phase,
            f"{phase.name}-{n}v{k}" if wide else f"{phase.name}-{k}",
            part,
            (voter.id,),
            group=n,
        )
        for n, part in enumerate(parts)
        for k, voter in enumerate(voters)
    ]


def _one_each(
    phase: PhasePlan, parts: Sequence[Part], agents: Sequence[AgentView]
) -> list[StepPlan]:
    """The same input for every agent; no other agent does it twice, so nobody stands in."""
    same = len(parts) == 1
    return [
        _step(phase, f"{phase.name}-{n}", parts[0 if same else n], (agent.id,))
        for n, agent in enumerate(agents)
    ]


def _shared(
    phase: PhasePlan, parts: Sequence[Part], agents: Sequence[AgentView], *, prefer: bool
) -> list[StepPlan]:
    """Each part for whoever is free; in a ring the baton goes round."""
    ids = tuple(agent.id for agent in agents)
    return [
        _step(
            phase,
            f"{phase.name}-{n}",
            part,
            ids,
            prefer=ids[n % len(ids)] if prefer and len(parts) > 1 else "",
        )
        for n, part in enumerate(parts)
    ]


def _step(
    phase: PhasePlan,
    step: str,
    part: Part,
    agents: tuple[str, ...],
    *,
    prefer: str = "",
    group: int = 0,
) -> StepPlan:
    head = "/arguments" if phase.kind == "tool" else "/input"
    return StepPlan(
        step=step,
        phase=phase.name,
        kind=phase.kind,
        payload=_payload(phase, part.value),
        agents=agents,
        prefer=prefer,
        avoid=_avoided(phase, part, agents),
        requires=phase.requires,
        holes=tuple((head + place, pointer) for place, pointer in part.holes),
        ballot=phase.vote is not None,
        group=group,
        timeout_s=phase.timeout_s,
        retry=phase.retry,
        idempotent=phase.idempotent,
        on_failure=phase.on_failure,
    )


def _payload(phase: PhasePlan, value: bytes) -> msgspec.Raw:
    """Payload of a ``WorkItem``, put together of JSON that exists already."""
    if phase.kind == "tool":
        tool = msgspec.json.encode(phase.tool)
        return msgspec.Raw(b'{"tool":%b,"arguments":%b}' % (tool, value or b"{}"))
    given = value or b"null"
    if not phase.prompt:
        return msgspec.Raw(b'{"input":%b}' % given)
    prompt = msgspec.json.encode(phase.prompt)
    return msgspec.Raw(b'{"prompt":%b,"input":%b}' % (prompt, given))


def _avoided(phase: PhasePlan, part: Part, agents: Sequence[str]) -> tuple[str, ...]:
    if not phase.elsewhere or not part.item:
        return ()
    try:
        member = pointers.members(part.item).get(phase.elsewhere)
        name = msgspec.json.decode(member or b'""', type=str)
    except ValueError:
        return ()
    return (name,) if name in agents else ()


def _one_by_one(steps: Sequence[StepPlan], takes: Takes) -> list[StepPlan]:
    """Each step behind the one before, and given what that one gave if it ``takes`` it."""
    return [
        msgspec.structs.replace(step, after=(steps[i - 1].step,), takes=takes) if i else step
        for i, step in enumerate(steps)
    ]


def _after_phase(step: StepPlan, output: bytes) -> StepPlan:
    """A step that goes on from the phase before; arguments of a tool are not added to."""
    if step.kind == "tool":
        return step
    return msgspec.structs.replace(step, payload=_with_previous(step.payload, output))


def _with_previous(payload: msgspec.Raw, output: bytes) -> msgspec.Raw:
    return msgspec.Raw(bytes(payload)[:-1] + b',"previous":%b}' % output)


def bound(step: StepPlan, outputs: Sequence[msgspec.Raw | bytes]) -> msgspec.Raw:
    """The payload of a step, completed with what the steps before it gave.

    Args:
        step: the step.
        outputs: of its ``after``, in that order; those of steps that failed are left out, and of
            a step without output it is ``null``.

    Raises:
        PlanError: a ``/previous`` reference names nothing in the output.
    """
    payload = step.payload
    if step.takes == "outputs":
        place = step.holes[0][0]
        begin = pointers.elements(pointers.at(payload, place))
        every = b",".join(bytes(output) for output in (*begin, *outputs))
        return _set(payload, place, b"[" + every + b"]")
    if step.takes == "nothing" or not outputs:
        return payload
    output = bytes(outputs[0])
    for place, pointer in step.holes:
        payload = _set(payload, place, value_at(output, pointer, "/previous"))
    if step.holes or step.kind == "tool":
        return payload
    return _with_previous(payload, output)


def _set(value: msgspec.Raw | bytes, pointer: str, new: bytes) -> msgspec.Raw:
    """The same JSON with another value at a place that exists."""
    if not pointer:
        return msgspec.Raw(new)
    token, _, rest = pointer[1:].partition("/")
    inner = f"/{rest}" if rest else ""
    if bytes(value).lstrip()[:1] == b"{":
        members = pointers.members(value)
        name = token.replace("~1", "/").replace("~0", "~")
        members[name] = _set(members[name], inner, new)
        return msgspec.Raw(msgspec.json.encode(members))
    every = pointers.elements(value)
    every[int(token)] = _set(every[int(token)], inner, new)
    return msgspec.Raw(msgspec.json.encode(every))
