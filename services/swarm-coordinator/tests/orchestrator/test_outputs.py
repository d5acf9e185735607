"""Outputs in memory are bounded, and what is refused says why."""

import msgspec

from mcp_proto.contracts.swarm import WorkResult
from swarm_coordinator.core import decide, turn
from swarm_coordinator.core.events import Event, StepDone, TaskForgotten
from swarm_coordinator.core.spec import SwarmConfig
from swarm_coordinator.orchestrator.outputs import (
    OUTPUT_BYTES_MAX,
    OUTPUTS_BYTES_MAX,
    Outputs,
)


def outputs() -> Outputs:
    events = decide.create(
        swarm="swarm_1",
        tenant="acme",
        principal="ann",
        topology="mesh",
        config=SwarmConfig(),
        owner="swarm-1",
        now_ms=1,
    )
    return Outputs(turn.begin(events))


def result(size: int) -> WorkResult:
    body = msgspec.Raw(b'"' + b"x" * (size - 2) + b'"')
    return WorkResult(agent="a", epoch=1, item="task_1.s-1", status="ok", structured=body)


def done(size: int) -> Event:
    output = result(size).structured
    return StepDone(at=1, task="task_1", step="s", item="task_1.s-1", agent="a", output=output)


def test_an_output_that_is_too_large_becomes_a_failure_with_the_limit_named() -> None:
    small, large = outputs().bounded([result(100), result(OUTPUT_BYTES_MAX + 1)])
    assert small.status == "ok"
    assert large.status == "error"
    assert large.error is not None
    assert str(OUTPUT_BYTES_MAX) in large.error.message
    assert not large.error.retryable


def test_a_swarm_whose_outputs_fill_its_room_takes_no_more_until_a_task_is_forgotten() -> None:
    held = outputs()
    each = OUTPUT_BYTES_MAX
    for _ in range(OUTPUTS_BYTES_MAX // each):
        held.note([done(each)])
    assert held.total == OUTPUTS_BYTES_MAX
    (refused,) = held.bounded([result(10)])
    assert refused.status == "error"
    held.note([TaskForgotten(at=2, task="task_1")])
    (taken,) = held.bounded([result(10)])
    assert taken.status == "ok"
