"""Attempts: retries, losses, rejections, late and repeated and foreign results, time-outs."""

import pytest
from tests.swarm_world import HOST, World, fanned, raw, task_of

from mcp_proto.contracts.swarm import Spawned, StepError, Usage
from mcp_proto.errors import Outcome
from swarm_coordinator.core import decide, effects
from swarm_coordinator.core.limits import BREAKER_MS, LOSSES_MAX, QUEUE_MS, UNPLACED_MS
from swarm_coordinator.core.retry import wait_ms
from swarm_coordinator.core.spec import Execution, PhaseSpec, RetryPolicy
from swarm_coordinator.core.state import Run, StepState
from swarm_coordinator.core.views import StepPlan
from swarm_coordinator.handlers.task_records import outcome_of

RETRY = RetryPolicy(max_attempts=3, initial_ms=1_000, factor=2.0, max_ms=60_000, jitter=0.2)


def one(**more: object) -> PhaseSpec:
    return PhaseSpec(name="a", input=raw({}), **{"retry": RETRY, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "failures", "least", "most"),
    [
        (RETRY, 1, 800, 1_200),
        (RETRY, 2, 1_600, 2_400),
        (RETRY, 20, 48_000, 72_000),
        (RetryPolicy(initial_ms=500, factor=1, jitter=0), 3, 500, 500),
        (RetryPolicy(initial_ms=0), 2, 0, 0),
    ],
)
def test_a_wait_grows_by_its_factor_within_its_jitter_up_to_its_longest(
    policy: RetryPolicy, failures: int, least: int, most: int
) -> None:
    drawn = {wait_ms(policy, failures, seed, "x") for seed in range(50)}
    assert least <= min(drawn)
    assert max(drawn) <= most
    assert policy.jitter == 0 or most == 0 or len(drawn) > 10
    assert wait_ms(policy, failures, 7, "x") == wait_ms(policy, failures, 7, "x")


def test_a_failed_attempt_is_tried_again_after_the_wait_that_the_log_holds() -> None:
    world = World(1)
    task = world.submit(task_of(one()))
    world.fail(world.item("a-0"))
    step = world.step(task, "a-0")
    assert step.status == "retrying"
    due = step.due_ms - world.now_ms
    assert 800 <= due <= 1_200
    world.wait(due - 1)
    assert step.status == "retrying"
    world.wait(1)
    assert (step.status, step.attempt, step.failures) == ("assigned", 2, 1)
    world.ok(f"{task}.a-0-2", 5)
    assert world.result_of(task) == 5
    assert world.task(task).retries == 1


@pytest.mark.parametrize(
    ("error", "more", "ends"),
    [
        ({"retryable": False}, {}, True),
        ({"kind": "input"}, {"retry": RetryPolicy(non_retryable=("input",))}, True),
        ({}, {"retry": RetryPolicy(max_attempts=1)}, True),
        ({"outcome": "executed"}, {"idempotent": False}, True),
        ({"outcome": "unknown"}, {"idempotent": False}, True),
        ({"outcome": "not_executed"}, {"idempotent": False}, False),
        ({}, {}, False),
    ],
)
def test_what_may_not_run_again_ends_with_its_failure(
    error: dict[str, object], more: dict[str, object], ends: bool
) -> None:
    world = World(1)
    task = world.submit(task_of(one(**more)))
    world.fail(world.item("a-0"), **error)  # type: ignore[arg-type]
    assert world.step(task, "a-0").status == ("failed" if ends else "retrying")
    assert world.task(task).ended is ends


def test_attempts_end_after_the_last_one_and_the_task_says_why() -> None:
    world = World(1)
    task = world.submit(task_of(one()))
    for _ in range(3):
        world.fail(world.item("a-0"))
        world.wait(3_000)
    found = world.task(task)
    assert (found.status, found.reason) == ("failed", "threshold")
    assert [(one.step, one.type, one.attempts) for one in found.failures] == [("a-0", "tool", 3)]


def test_a_lost_agents_step_goes_to_another_without_using_an_attempt() -> None:
    world = World(2, slots=1)
    task = world.submit(task_of(one(retry=RetryPolicy(max_attempts=1)), parallelism=2))
    step = world.step(task, "a-0")
    first = step.runs[0].agent
    world.lose(first)
    assert step.status == "assigned"
    assert step.runs[0].agent != first
    assert (step.failures, step.losses, step.attempt) == (0, 1, 2)
    assert world.agent_of(first).status == "lost"


def test_a_late_result_of_a_lost_agent_counts_while_its_step_is_open() -> None:
    world = World(2, slots=1)
    task = world.submit(task_of(one(), parallelism=2))
    old = world.item("a-0")
    world.lose(world.step(task, "a-0").runs[0].agent)
    new = world.item("a-0")
    assert new != old
    world.ok(old, "first")
    assert world.result_of(task) == "first"
    assert new in world.cancelled
    world.ok(new, "second")
    assert world.result_of(task) == "first"
    assert world.task(task).late == 1


def test_a_late_error_of_a_lost_agent_does_not_count() -> None:
    world = World(2, slots=1)
    task = world.submit(task_of(one(), parallelism=2))
    old = world.item("a-0")
    world.lose(world.step(task, "a-0").runs[0].agent)
    world.fail(old)
    assert (world.step(task, "a-0").status, world.step(task, "a-0").failures) == ("assigned", 0)
    assert world.task(task).late == 1


def test_a_step_that_must_not_run_twice_ends_as_unknown_when_its_agent_is_lost() -> None:
    world = World(2)
    task = world.submit(task_of(one(idempotent=False), parallelism=2))
    world.lose(world.step(task, "a-0").runs[0].agent)
    (failure,) = world.task(task).failures
    assert (failure.type, failure.outcome) == ("lost", "unknown")
    world.ok(f"{task}.a-0-1", 1)
    assert world.task(task).status == "failed"
    assert world.task(task).late == 1


def test_a_rejected_step_goes_to_another_agent_and_ends_when_all_have_rejected_it() -> None:
    world = World(3)
    task = world.submit(task_of(one(), parallelism=3))
    asked = []
    for _ in range(3):
        asked.append(world.step(task, "a-0").runs[0].agent)
        world.reject(world.item("a-0"))
    assert sorted(asked) == ["agent_01", "agent_02", "agent_03"]
    (failure,) = world.task(task).failures
    assert (failure.type, failure.outcome) == ("rejected", "not_executed")
    assert world.step(task, "a-0").failures == 0
    assert outcome_of(world.task(task)) is Outcome.NOT_EXECUTED


def test_a_step_that_was_lost_once_and_then_rejected_may_have_run() -> None:
    world = World(2)
    task = world.submit(task_of(one(), parallelism=2))
    world.lose(world.step(task, "a-0").runs[0].agent)
    world.reject(world.item("a-0"))
    world.wait(UNPLACED_MS)
    (failure,) = world.task(task).failures
    assert failure.outcome == "unknown"
    assert outcome_of(world.task(task)) is Outcome.UNKNOWN


def test_a_task_whose_other_steps_ran_says_so() -> None:
    world = World(2)
    task = world.submit(task_of(one(), fanned(1, "b"), parallelism=2))
    world.ok(world.item("b-0"), 1)
    for _ in range(2):
        world.reject(world.item("a-0"))
    assert world.task(task).status == "failed"
    assert outcome_of(world.task(task)) is Outcome.EXECUTED


def test_a_step_that_nobody_has_time_for_ends_after_so_many_refusals() -> None:
    world = World(1)
    task = world.submit(task_of(one()))
    for _ in range(LOSSES_MAX + 1):
        world.reject(world.item("a-0"), "busy")
        world.wait(10_000)
    assert world.task(task).failures[0].type == "busy"
    assert world.step(task, "a-0").losses == LOSSES_MAX


def test_a_repeated_result_is_counted_and_changes_nothing() -> None:
    world = World(1)
    task = world.submit(task_of(fanned(2)))
    item = world.item("work-0")
    world.say(world.result(item, 1), world.result(item, 2))
    world.ok(item, 3)
    found = world.task(task)
    assert (found.done, found.duplicates) == (1, 2)
    assert bytes(found.steps["work-0"].output) == b"1"


@pytest.mark.parametrize(
    ("agent", "host", "item"),
    [
        ("agent_02", HOST, "{task}.a-0-1"),
        ("agent_01", "host-2", "{task}.a-0-1"),
        ("nobody", HOST, "{task}.a-0-1"),
        ("agent_01", HOST, "{task}.a-0-7"),
        ("agent_01", HOST, "{task}.b-0-1"),
    ],
)
def test_a_result_of_who_does_not_have_the_step_is_not_believed(
    agent: str, host: str, item: str
) -> None:
    world = World(1)
    task = world.submit(task_of(one()))
    world.agent()
    forged = world.result(world.item("a-0"), 666)
    forged = type(forged)(
        agent=agent, epoch=1, item=item.format(task=task), status="ok", structured=raw(666)
    )
    world.say(forged, host=host)
    assert world.step(task, "a-0").status == "assigned"
    assert world.task(task).ignored == 1


def test_a_result_for_an_unknown_task_is_no_event() -> None:
    world = World(1)
    world.submit(task_of(one()))
    result = world.result(world.item("a-0"), 1)
    strange = type(result)(agent="agent_01", epoch=1, item="task_9.a-0-1", status="ok")
    assert decide.results(world.state, HOST, [strange], world.now_ms, 1) == []


def test_an_attempt_without_a_result_is_cancelled_and_tried_again() -> None:
    world = World(2)
    task = world.submit(task_of(one(timeout=10), parallelism=2))
    item = world.item("a-0")
    world.wait(12_000)
    step = world.step(task, "a-0")
    assert (step.failures, step.error and step.error.type) == (1, "timeout")
    assert item in world.cancelled
    has = next(agent for agent in world.state.agents.values() if item in agent.leaving)
    assert has.load == 1, "it occupies its slot until it is gone"
    world.wait(21_000)
    assert has.leaving == {}


def test_the_time_of_an_attempt_is_the_agents_where_the_phase_says_nothing() -> None:
    world = World()
    world.agent(config={"timeout": 7})
    world.submit(task_of(one()))
    (run,) = world.step("task_1", "a-0").runs
    assert run.due_ms - run.sent_ms == 9_000
    assert world.sent[run.item][1].timeout_ms == 7_000


def test_a_step_that_waits_too_long_for_a_slot_ends() -> None:
    world = World(1, slots=1)
    world.submit(task_of(one(timeout=80_000), timeout=86_400))
    second = world.submit(task_of(one(), timeout=86_400))
    world.wait(QUEUE_MS)
    assert world.task(second).failures[0].type == "timeout"
    assert world.task(second).failures[0].outcome == "not_executed"


def test_a_step_waits_for_a_lost_agent_only_so_long() -> None:
    world = World(1)
    task = world.submit(task_of(one(agents=("agent_01",))))
    world.lose("agent_01")
    world.wait(UNPLACED_MS - 1)
    assert world.step(task, "a-0").status == "ready"
    world.wait(1)
    assert world.task(task).failures[0].type == "lost"


def test_a_step_goes_on_when_its_agent_is_back_in_a_new_life() -> None:
    world = World(1)
    task = world.submit(task_of(one(agents=("agent_01",))))
    world.lose("agent_01")
    world.wait(20_000)
    world.beat("agent_01")
    assert world.agent_of("agent_01").epoch == 2
    (run,) = world.step(task, "a-0").runs
    assert (run.epoch, run.attempt) == (2, 2)


def test_a_step_ends_at_once_when_all_who_may_do_it_are_terminated() -> None:
    world = World(2)
    task = world.submit(task_of(one(agents=("agent_01",))))
    world.do(decide.terminate(world.state, "agent_01", "not needed", world.now_ms))
    assert world.task(task).failures[0].type == "lost"


def test_a_task_waits_for_agents_that_are_on_their_way() -> None:
    world = World(0)
    for name in ("agent_01", "agent_02"):
        world.do(decide.add_agent(world.state, agent=name, agent_type="f", now_ms=world.now_ms))
    task = world.submit(task_of(one()))
    assert world.step(task, "a-0").status == "ready"
    first, second = world.task(task).team[0], "agent_02"
    second = "agent_01" if first == second else second
    world.do(decide.agent_refused(world.state, first, "limit", "no room", world.now_ms))
    assert world.task(task).status == "running", "the other one may still come"
    spawned = Spawned(runtime="function", slots=1)
    world.do(decide.agent_spawned(world.state, second, HOST, spawned, world.now_ms))
    world.beat(second)
    world.ok(world.item("a-0"))
    assert world.task(task).status == "completed"


def test_a_task_without_any_agent_waits_for_another_only_so_long() -> None:
    world = World(0)
    world.do(decide.add_agent(world.state, agent="agent_01", agent_type="f", now_ms=world.now_ms))
    tasks = [world.submit(task_of(one())) for _ in range(2)]
    world.do(decide.agent_refused(world.state, "agent_01", "limit", "no room", world.now_ms))
    world.wait(UNPLACED_MS - 1)
    assert [world.task(task).status for task in tasks] == ["running", "running"]
    world.wait(2)
    assert [world.task(task).status for task in tasks] == ["failed", "failed"]
    assert world.task(tasks[0]).failures[0].type == "lost"


@pytest.mark.parametrize(
    ("reason", "status"), [("busy", "ready"), ("unknown_agent", "failed"), ("epoch", "failed")]
)
def test_a_step_that_must_not_run_twice_goes_out_again_only_if_it_certainly_did_not_begin(
    reason: str, status: str
) -> None:
    world = World(2)
    task = world.submit(task_of(one(idempotent=False)))
    item = world.item("a-0")
    world.do(decide.refused(world.state, HOST, {item: reason}, world.now_ms, 1))
    world.wait(60_000 if status == "ready" else 0)
    step = world.step(task, "a-0")
    if status == "failed":
        assert (step.status, step.error.outcome if step.error else "") == ("failed", "unknown")
    else:
        assert step.status in {"ready", "assigned"}
        assert step.attempt == 2


def test_a_step_waits_anew_when_a_later_agent_is_gone_too() -> None:
    world = World(1)
    task = world.submit(task_of(one()))
    world.do(decide.terminate(world.state, "agent_01", "crashed", world.now_ms))
    world.wait(UNPLACED_MS - 1)
    world.agent("agent_02")
    world.wait(UNPLACED_MS)
    world.do(decide.terminate(world.state, "agent_02", "crashed", world.now_ms))
    world.wait(UNPLACED_MS - 1)
    assert world.task(task).status == "running"
    world.wait(2)
    assert world.task(task).status == "failed"


def test_a_task_goes_on_with_an_agent_that_is_spawned_for_the_dead() -> None:
    world = World(1)
    task = world.submit(task_of(one()))
    world.do(decide.terminate(world.state, "agent_01", "crashed", world.now_ms))
    world.agent("agent_02")
    world.ok(world.item("a-0"))
    assert world.task(task).status == "completed"


def test_another_agent_stands_in_when_a_whole_team_is_gone() -> None:
    world = World(2)
    task = world.submit(task_of(one()))
    (first,) = world.task(task).team
    world.do(decide.terminate(world.state, first, "not needed", world.now_ms))
    (run,) = world.step(task, "a-0").runs
    assert run.agent != first


def test_three_failures_in_a_row_send_work_elsewhere_for_a_while() -> None:
    world = World(2, slots=1)
    everything = Execution(failure_threshold=1.0)
    world.submit(task_of(fanned(20), parallelism=2, execution=everything))
    for _ in range(3):
        world.fail(next(i for i in world.working if world.sent[i][1].agent == "agent_01"))
    assert world.agent_of("agent_01").breaker_until_ms == world.now_ms + BREAKER_MS
    assert world.agent_of("agent_01").items == {}
    world.wait(BREAKER_MS)
    assert len(world.agent_of("agent_01").items) == 1


def test_a_breaker_does_not_hold_up_what_nobody_else_may_do() -> None:
    world = World(2, slots=1)
    everything = Execution(failure_threshold=1.0)
    world.submit(task_of(fanned(5, agents=("agent_01",)), execution=everything))
    for _ in range(4):
        (item,) = world.working
        world.fail(item)
    assert world.agent_of("agent_01").breaker_until_ms > world.now_ms
    assert len(world.working) == 1


def test_a_task_ends_with_its_own_time() -> None:
    world = World(1)
    task = world.submit(task_of(one(), timeout=30))
    item = world.item("a-0")
    world.wait(30_000)
    assert (world.task(task).status, world.task(task).reason) == ("failed", "timeout")
    assert item in world.cancelled
    world.ok(item, 1)
    assert (world.task(task).status, world.task(task).cancelled_late) == ("failed", 1)


def test_items_that_a_host_refuses_go_out_again_and_an_unknown_agent_is_lost() -> None:
    world = World(2, slots=1)
    task = world.submit(task_of(fanned(2), parallelism=2))
    first = world.item("work-0")
    agent = world.step(task, "work-0").runs[0].agent
    world.do(decide.refused(world.state, HOST, {first: "unknown_agent"}, world.now_ms, 1))
    assert world.agent_of(agent).status == "lost"
    assert world.step(task, "work-0").status == "ready"
    busy = world.item("work-1")
    world.do(decide.refused(world.state, HOST, {busy: "busy"}, world.now_ms, 1))
    assert world.step(task, "work-1").status == "retrying"


def test_two_attempts_of_a_step_that_end_in_one_batch_end_it_once() -> None:
    runs = tuple(
        Run(item=f"t.s-{n}", agent=f"a{n}", epoch=1, attempt=n, sent_ms=1, due_ms=9) for n in (1, 2)
    )
    plan = StepPlan(step="s", phase="p", kind="call", payload=raw({}), agents=("a1", "a2"))
    assert StepState(plan=plan, runs=runs).id == "s"
    world = World(3, slots=2)
    task = world.submit(
        task_of(fanned(10), parallelism=3, strategy="adaptive"),
    )
    while world.task(task).done < 9:
        items = [item for item in world.working if "work-0-" not in item]
        world.now_ms += 100
        world.ok(items[0], 1)
    world.wait(5_000)
    twins = [run.item for run in world.step(task, "work-0").runs]
    assert len(twins) == 2
    error = StepError(type="tool", message="no")
    world.say(*(world.result(item, status="error", error=error, usage=Usage()) for item in twins))
    assert world.step(task, "work-0").status == "failed"
    assert world.task(task).failed == 1


def test_a_slow_step_is_done_twice_and_the_first_result_counts() -> None:
    world = World(3, slots=2)
    task = world.submit(task_of(fanned(10), parallelism=3, strategy="adaptive"))
    while world.task(task).done < 9:
        items = [item for item in world.working if "work-0-" not in item]
        world.now_ms += 100
        world.ok(items[0], 1)
    world.wait(2_000)
    first, second = world.step(task, "work-0").runs
    assert first.agent != second.agent
    world.ok(second.item, "second")
    assert world.step(task, "work-0").item == second.item
    assert first.item in world.cancelled
    world.ok(first.item, "first")
    assert world.result_of(task)[0] == "second"  # type: ignore[index]
    assert world.task(task).late == 1


def test_a_step_that_must_not_run_twice_is_never_duplicated() -> None:
    world = World(3, slots=2)
    task = world.submit(task_of(fanned(10, idempotent=False), parallelism=3, strategy="adaptive"))
    while world.task(task).done < 9:
        world.now_ms += 100
        world.ok(next(item for item in world.working if "work-0-" not in item), 1)
    world.wait(60_000)
    assert len(world.step(task, "work-0").runs) == 1


def test_a_new_owner_sends_everything_again_and_repeats_its_cancels() -> None:
    world = World(2, slots=2)
    task = world.submit(task_of(fanned(4), parallelism=2), grant="g1")
    other = world.submit(task_of(one()))
    world.ok(world.item("work-0"), 1)
    world.cancel(task)
    leaving = set(world.cancelled)
    assert len(leaving) == 3
    told = world.do(decide.owner_changed(world.state, "swarm-2", world.now_ms))
    sent = [item.item for one in told if isinstance(one, effects.SendWork) for item in one.items]
    assert sent == [f"{other}.a-0-1"]
    again = [i for one in told if isinstance(one, effects.CancelWork) for i in one.items]
    assert set(again) == leaving
    assert (world.state.owner, world.state.owner_epoch) == ("swarm-2", 2)
