"""What people answer."""

from collections.abc import Mapping

import msgspec

from swarm_coordinator.core.conflicts import AnswerError
from swarm_coordinator.core.decide.endings import fail_phase
from swarm_coordinator.core.decide.votes import decided_by_person
from swarm_coordinator.core.events import (
    Event,
    InputAnswered,
    PhaseApproved,
    StepResumed,
    VoteCounted,
)
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.schedule import due_of
from swarm_coordinator.core.state import Request, SwarmState, TaskState

__all__ = ["answer_input"]


class _Answer(msgspec.Struct, frozen=True):
    """Result of an elicitation."""

    action: str = "accept"
    content: msgspec.Raw = msgspec.Raw(b"{}")


class _Approval(msgspec.Struct, frozen=True):
    approve: bool = True


def answer_input(
    state: SwarmState, task: str, answers: Mapping[str, msgspec.Raw], now_ms: int
) -> list[Event]:
    """Answers to ``TaskState.requests`` by key; unknown and answered keys are passed over.

    Raises:
        Refusal: ``swarm not_found``; ``params answer`` with ``where`` for an answer to a vote that
            names none of its choices. Nothing is taken then.
    """
    found = state.tasks.get(task)
    if found is None:
        raise Refusal("swarm", "not_found", "there is no such task", taskId=task)
    events: list[Event] = []
    given: dict[str, msgspec.Raw] = {}
    for key, answer in answers.items():
        request = found.requests.get(key)
        if request is None or bytes(request.answer) or found.ended:
            continue
        own = answer.copy()
        events.append(InputAnswered(at=now_ms, task=task, key=key, answer=own))
        if request.kind == "step":
            given[key] = own
        elif request.kind == "approval":
            events.extend(_approved(found, request, own, now_ms))
        else:
            events.extend(_voted(found, key, request, own, now_ms))
    return [*events, *_resumed(state, found, given, now_ms)]


def _read(answer: msgspec.Raw) -> _Answer:
    try:
        return msgspec.json.decode(answer, type=_Answer)
    except msgspec.MsgspecError:
        return _Answer(content=answer)


def _approved(task: TaskState, request: Request, answer: msgspec.Raw, now_ms: int) -> list[Event]:
    """Only who accepts, and does not say no in the form, has agreed."""
    said = _read(answer)
    agreed = said.action == "accept"
    if agreed:
        try:
            agreed = msgspec.json.decode(said.content, type=_Approval).approve
        except msgspec.MsgspecError:
            agreed = False
    if agreed:
        return [PhaseApproved(at=now_ms, task=task.id, phase=request.phase)]
    message = f"a person declined the phase {request.phase}"
    return fail_phase(task, task.phases[request.phase], "declined", message, now_ms)


def _voted(
    task: TaskState, key: str, request: Request, answer: msgspec.Raw, now_ms: int
) -> list[Event]:
    plan = next(one for one in task.plan.phases if one.name == request.phase)
    said = _read(answer)
    if said.action != "accept":
        vote = task.phases[request.phase].votes[request.group]
        undecided = msgspec.structs.replace(vote, message="a person did not decide", ended=True)
        return [
            VoteCounted(
                at=now_ms,
                task=task.id,
                phase=request.phase,
                group=request.group,
                vote=undecided,
            )
        ]
    try:
        return [decided_by_person(task, plan, request, bytes(said.content), now_ms)]
    except AnswerError as error:
        raise Refusal("params", "answer", str(error), where=f"/inputResponses/{key}") from None


def _resumed(
    state: SwarmState, task: TaskState, given: Mapping[str, msgspec.Raw], now_ms: int
) -> list[Event]:
    """Attempts whose questions are all answered now go on."""
    events: list[Event] = []
    for step_id in dict.fromkeys(task.requests[key].step for key in given):
        step = task.steps[step_id]
        asked = {key: one for key, one in task.requests.items() if one.step == step_id}
        answers = {one.name: given.get(key, one.answer) for key, one in asked.items()}
        item = next(iter(asked.values())).item
        run = next((one for one in step.runs if one.item == item), None)
        if run is None or not all(bytes(answer) for answer in answers.values()):
            continue
        agent = state.agents[run.agent]
        events.append(
            StepResumed(
                at=now_ms,
                task=task.id,
                step=step_id,
                item=item,
                answers=answers,
                due_ms=due_of(step, agent, now_ms),
            )
        )
    return events
