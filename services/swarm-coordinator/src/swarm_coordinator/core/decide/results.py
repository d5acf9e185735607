"""What hosts say of attempts."""

from collections.abc import Mapping, Sequence

import msgspec

from mcp_proto.contracts.swarm import Ballot, StepError, WorkResult
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.ballots import ballot_of
from swarm_coordinator.core.decide.attempts import failed, find, losses, returned
from swarm_coordinator.core.events import (
    AgentLost,
    BreakerOpened,
    Event,
    InputAsked,
    ItemsGone,
    ResultIgnored,
    StepDone,
    StepFailed,
)
from swarm_coordinator.core.limits import BREAKER_FAILURES, BREAKER_MS
from swarm_coordinator.core.state import AgentState, Request, Run, StepState, SwarmState, TaskState

__all__ = ["refused", "results"]


class _Batch:
    """What the earlier results of a batch have come to, before anything is folded."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.gone: set[str] = set()
        self.ended: set[tuple[str, str]] = set()
        self.failures: dict[str, int] = {}
        self.asked: dict[str, int] = {}


def results(
    state: SwarmState, host: str, results: Sequence[WorkResult], now_ms: int, seed: int
) -> list[Event]:
    """What each result changes (nothing for tasks that the state does not know).

    All items can be answered as taken once the events are stored, whatever they came to. A value
    above the inline limit must have been replaced by its reference before.
    """
    events: list[Event] = []
    batch = _Batch()
    for result in results:
        _result(state, host, result, now_ms, seed, batch, events)
        batch.seen.add(result.item)
    return events


def _result(
    state: SwarmState,
    host: str,
    result: WorkResult,
    now_ms: int,
    seed: int,
    batch: _Batch,
    events: list[Event],
) -> None:
    found = find(state, result.item)
    agent = state.agents.get(result.agent)
    if found is None:
        if agent is not None and agent.host == host and result.item in agent.leaving:
            events.append(ItemsGone(at=now_ms, agent=agent.id, items=(result.item,)))
        return
    task, step = found
    reason = _distrust(host, agent, step, result)
    run = _run_of(step, result.item) if step is not None else None
    if not reason:
        reason = _lateness(task, step, run, result, batch)
    if reason or step is None or run is None or agent is None:
        events.append(_ignored(task, step, result, reason or "late", now_ms))
        return
    if result.status == "ok":
        events.append(_done(task, step, run, result, now_ms, batch))
    elif result.status == "input_required":
        events.extend(_asked(task, step, run, result, now_ms, batch))
    else:
        events.extend(_bad(agent, task, step, run, result, now_ms, seed, batch))


def _distrust(
    host: str, agent: AgentState | None, step: StepState | None, result: WorkResult
) -> str:
    """Whether this host may say this of this attempt."""
    if agent is None or agent.host != host:
        return "wrong_host"
    if step is None:
        return "wrong_agent"
    run = _run_of(step, result.item)
    if run is not None:
        return "" if run.agent == result.agent else "wrong_agent"
    attempt = result.item.rpartition("-")[2]
    sent = attempt.isdecimal() and 1 <= int(attempt[:9]) <= step.attempt
    return "" if sent else "wrong_agent"


def _run_of(step: StepState, item: str) -> Run | None:
    for run in step.runs:
        if run.item == item:
            return run
    for run in step.former:
        if run.item == item:
            return run
    return None


def _lateness(
    task: TaskState,
    step: StepState | None,
    run: Run | None,
    result: WorkResult,
    batch: _Batch,
) -> str:
    """Why a believed result does not count; "" = it does."""
    if step is None:
        return "late"
    if result.item in batch.seen or _has_answered(step, result.item):
        return "duplicate"
    if step.ended or (task.id, step.id) in batch.ended:
        return "late"
    if run is None:
        return "duplicate"  # it has answered already, and was not the last attempt
    current = any(one is run for one in step.runs)
    if not current and result.status != "ok":
        return "late"
    return "duplicate" if step.asked and result.status == "input_required" else ""


def _has_answered(step: StepState, item: str) -> bool:
    """Whether it was the result of this attempt that ended the step."""
    unanswered = step.error is not None and step.error.type in ("lost", "timeout")
    return step.ended and step.item == item and not unanswered


def _ignored(
    task: TaskState, step: StepState | None, result: WorkResult, reason: str, now_ms: int
) -> Event:
    told = result.item.partition(".")[2].rpartition("-")[0] if step is None else step.id
    return ResultIgnored(
        at=now_ms,
        task=task.id,
        step=told[:_SHOWN_MAX],
        item=result.item[:_SHOWN_MAX],
        agent=result.agent[:_SHOWN_MAX],
        status=result.status,
        reason=reason,  # type: ignore[arg-type]
        usage=result.usage if reason == "late" else None,
    )


_SHOWN_MAX = 256


def _output(result: WorkResult) -> msgspec.Raw:
    if bytes(result.structured):
        return result.structured.copy()
    if result.text:
        return msgspec.Raw(msgspec.json.encode(result.text))
    return ABSENT


def _ballot(result: WorkResult) -> Ballot | None:
    ballot = ballot_of(result)
    if ballot is None or not bytes(ballot.choice):
        return ballot
    return msgspec.structs.replace(ballot, choice=ballot.choice.copy())


def _done(
    task: TaskState,
    step: StepState,
    run: Run,
    result: WorkResult,
    now_ms: int,
    batch: _Batch,
) -> Event:
    batch.ended.add((task.id, step.id))
    batch.failures.pop(result.agent, None)
    votes = step.plan.ballot or step.role == "decide"
    return StepDone(
        at=now_ms,
        task=task.id,
        step=step.id,
        item=run.item,
        agent=run.agent,
        output=_output(result),
        ballot=_ballot(result) if votes else None,
        usage=result.usage,
        wall_ms=float(max(0, now_ms - run.sent_ms)),
        artifacts=result.artifacts,
        others=tuple(one.item for one in step.runs if one is not run),
    )


def _bad(
    agent: AgentState,
    task: TaskState,
    step: StepState,
    run: Run,
    result: WorkResult,
    now_ms: int,
    seed: int,
    batch: _Batch,
) -> list[Event]:
    error = result.error or StepError(type=result.status, message="no reason was given")
    if result.status == "rejected":
        kind = "busy" if error.type == "busy" else "rejected"
        error = msgspec.structs.replace(error, type=kind, outcome="not_executed")
        event = returned(task, step, run, error, now_ms, gone=batch.gone)
    else:
        event = failed(task, step, run, error, now_ms, seed, gone=batch.gone, usage=result.usage)
    batch.gone.add(run.item)
    if isinstance(event, StepFailed):
        batch.ended.add((task.id, step.id))
    if result.status != "error":
        return [event]
    before = batch.failures.get(agent.id, 0)
    batch.failures[agent.id] = before + 1
    return [event, *breaker(agent, before, now_ms)]


def breaker(agent: AgentState, more: int, now_ms: int) -> list[Event]:
    """Opens with the failure that makes it ``BREAKER_FAILURES`` in a row, and with each further.

    ``more`` = failures of the same decision before this one.
    """
    in_row = agent.stats.in_row + more + 1
    if in_row < BREAKER_FAILURES or agent.breaker_until_ms > now_ms:
        return []
    return [
        BreakerOpened(
            at=now_ms,
            agent=agent.id,
            until_ms=now_ms + BREAKER_MS,
            reason=f"{in_row} failures in a row",
        )
    ]


def _asked(
    task: TaskState, step: StepState, run: Run, result: WorkResult, now_ms: int, batch: _Batch
) -> list[Event]:
    """Its questions, under keys of the task."""
    if task.status == "cancelling":
        return []
    first = task.asked + batch.asked.get(task.id, 0) + 1
    batch.asked[task.id] = batch.asked.get(task.id, 0) + len(result.requests)
    requests = {
        f"{step.id}.{first + index}": Request(
            kind="step",
            request=request.copy(),
            phase=step.phase,
            step=step.id,
            item=run.item,
            name=name,
        )
        for index, (name, request) in enumerate(result.requests.items())
    }
    return [InputAsked(at=now_ms, task=task.id, requests=requests)] if requests else []


def refused(
    state: SwarmState, host: str, refused: Mapping[str, str], now_ms: int, seed: int
) -> list[Event]:
    """``WorkTaken.refused``: items that a host does not take go back; no attempt is used up.

    ``unknown_agent`` means that the agent is lost. ``stale_owner`` must be handled by the caller:
    it gives no event.
    """
    del seed  # losses wait for nothing that is drawn
    events: list[Event] = []
    gone: set[str] = set()
    unknown: dict[str, AgentState] = {}
    for item, reason in refused.items():
        found = find(state, item)
        step = found[1] if found is not None else None
        run = next((one for one in step.runs if one.item == item), None) if step else None
        agent = state.agents.get(run.agent) if run is not None else None
        if found is None or step is None or run is None or agent is None or agent.host != host:
            continue
        if reason == "stale_owner":
            continue
        if reason == "unknown_agent":
            unknown[agent.id] = agent
        kind = "lost" if reason == "unknown_agent" else "busy"
        # A host that does not know the agent may be a new life of one that had begun the item.
        outcome = "not_executed" if reason == "busy" else "unknown"
        error = StepError(type=kind, message=f"refused by the host: {reason}", outcome=outcome)
        events.append(returned(found[0], step, run, error, now_ms, gone=gone))
        gone.add(item)
    for agent in unknown.values():
        if agent.status in ("active", "draining"):
            why = "its host does not know it"
            events.extend(losses(state, agent, why, now_ms, gone))
            events.append(AgentLost(at=now_ms, agent=agent.id, reason=why))
    return events
