"""Phases, tasks, thresholds, budgets, widths, priorities, questions, cancel."""

import pytest
from tests.swarm_world import START_MS, World, fanned, raw, task_of

from mcp_proto.contracts.swarm import Usage
from swarm_coordinator.core import decide, effects
from swarm_coordinator.core.events import MailDropped, StepsAdded, WidthChanged, encode_batch
from swarm_coordinator.core.evolve import restore, snapshot
from swarm_coordinator.core.limits import (
    AGENTS_MAX,
    ENDED_BYTES_MAX,
    ENDED_STEPS_MAX,
    MAIL_MS,
    MAIL_PER_AGENT_MAX,
    OPERATIONS_MAX,
    RUNNING_MAX,
    TASK_KEPT_MS,
    TASKS_KEPT_MAX,
)
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.spec import Aggregate, Budget, Execution, Fanout, PhaseSpec


def phase(name: str, *needs: str, **more: object) -> PhaseSpec:
    return fanned(1, name, dependencies=needs, **more)


# Failures


@pytest.mark.parametrize(
    ("threshold", "failing", "status"),
    [(0.0, 0, "completed"), (0.0, 1, "failed"), (0.2, 2, "completed"), (0.2, 3, "failed"),
     (1.0, 9, "completed")],
)  # fmt: skip
def test_a_task_fails_above_its_threshold_and_is_partial_at_or_below(
    threshold: float, failing: int, status: str
) -> None:
    world = World(1, slots=10)
    execution = Execution(failure_threshold=threshold)
    task = world.submit(task_of(fanned(10), execution=execution))
    for index, item in enumerate(world.working):
        if item in world.cancelled:
            continue
        world.fail(item) if index < failing else world.ok(item, index)
    found = world.task(task)
    assert found.status == status
    assert found.failed == failing or status == "failed"
    if status == "completed":
        assert found.partial is bool(failing)
        assert len(world.result_of(task)) == 10 - failing  # type: ignore[arg-type]
    else:
        assert found.reason == "threshold"
        assert found.ended_steps == found.total


def test_a_lost_agent_fails_a_broadcast_of_three_with_a_threshold_of_a_fifth() -> None:
    world = World(3)
    execution = Execution(failure_threshold=0.2)
    task = world.submit(task_of(parallelism=3, input=raw({"q": 1}), execution=execution))
    assert len(world.working) == 3
    world.lose("agent_02")
    for item in world.working:
        world.ok(item, 1)
    world.wait(60_000)
    assert (world.task(task).status, world.task(task).reason) == ("failed", "threshold")


@pytest.mark.parametrize(
    ("on_failure", "statuses", "status"),
    [
        ("fail", ["failed", "cancelled"], "failed"),
        ("continue", ["failed", "done"], "completed"),
        ("skip_dependents", ["failed", "skipped"], "failed"),
    ],
)
def test_on_failure_says_what_a_failed_phase_means(
    on_failure: str, statuses: list[str], status: str
) -> None:
    world = World(1)
    task = world.submit(task_of(phase("a", on_failure=on_failure), phase("b", "a")))
    world.fail(world.item("a-0"))
    world.work_off(1)
    found = world.task(task)
    assert [one.status for one in found.phases.values()] in (statuses, ["cancelled", "cancelled"])
    assert found.status == status


def test_a_skipped_phase_leaves_the_others_and_makes_the_task_partial() -> None:
    world = World(1)
    task = world.submit(
        task_of(phase("a", on_failure="skip_dependents"), phase("b", "a"), phase("c"))
    )
    world.fail(world.item("a-0"))
    world.ok(world.item("c-0"), 3)
    found = world.task(task)
    assert (found.status, found.partial) == ("completed", True)
    assert found.phases["b"].status == "skipped"


def test_a_missing_reference_fails_the_task_with_its_place() -> None:
    world = World(1)
    b = PhaseSpec(name="b", input=raw({"x": {"$ref": "/a/output/nothing"}}), dependencies=("a",))
    task = world.submit(task_of(PhaseSpec(name="a", input=raw({})), b))
    world.ok(world.item("a-0"), {"something": 1})
    found = world.task(task)
    assert (found.status, found.reason) == ("failed", "plan")
    assert "/a/output/nothing" in found.message


def test_a_fanout_over_nothing_is_done_at_once() -> None:
    world = World(1)
    task = world.submit(task_of(fanned(0)))
    assert world.result_of(task) == []


def test_the_first_success_cancels_the_others_and_their_failures_do_not_count() -> None:
    world = World(1, slots=4)
    first = Aggregate(kind="first_success")
    task = world.submit(task_of(fanned(4, aggregate=first)))
    world.fail(world.item("work-0"))
    world.ok(world.item("work-2"), "won")
    assert world.result_of(task) == "won"
    assert len(world.cancelled) == 2


def test_a_task_waits_for_those_it_depends_on_and_fails_with_them() -> None:
    world = World(1)
    first = world.submit(task_of(phase("a")))
    second = world.submit(task_of(phase("a"), dependencies=(first,)))
    third = world.submit(task_of(phase("a"), dependencies=(second,)))
    assert [world.task(one).status for one in (first, second, third)] == [
        "running", "queued", "queued",
    ]  # fmt: skip
    world.ok(world.item("a-0"), 1)
    assert world.task(second).status == "running"
    world.cancel(second)
    for item in list(world.sent):
        world.ok(item, 1)
    assert world.task(third).reason == "dependency"
    with pytest.raises(Refusal, match="no task"):
        world.submit(task_of(phase("a"), dependencies=("task_99",)))


# Cancel


def test_a_cancelled_task_ends_once_its_attempts_are_gone_and_counts_the_late_ones() -> None:
    world = World(1, slots=3)
    task = world.submit(task_of(fanned(5)))
    first, second, third = world.working
    world.cancel(task)
    found = world.task(task)
    assert (found.status, found.ended_steps, found.leaving) == ("cancelling", 5, 3)
    assert world.cancelled == [first, second, third]
    world.ok(first, 1)
    world.fail(second, "cancelled")
    assert found.status == "cancelling"
    world.now_ms += 3_000
    world.beat("agent_01", items={"agent_01": ()})
    assert (found.status, found.cancelled_late, found.late) == ("cancelled", 1, 2)
    world.cancel(task)
    assert found.status == "cancelled"


def test_a_cancelled_task_ends_when_nobody_says_anything() -> None:
    world = World(1)
    task = world.submit(task_of(fanned(1)))
    world.cancel(task)
    world.wait(20_000)
    assert world.task(task).status == "cancelled"


def test_a_destroyed_swarm_ends_everything_and_takes_nothing() -> None:
    world = World(2)
    running = world.submit(task_of(fanned(3)))
    queued = world.submit(task_of(fanned(1), dependencies=(running,)))
    told = world.do(decide.destroy(world.state, "done with it", world.now_ms))
    assert [world.task(one).status for one in (running, queued)] == ["cancelled", "cancelled"]
    stopped = {one.agent for one in told if isinstance(one, effects.StopAgent)}
    assert stopped == {"agent_01", "agent_02"}
    assert world.state.status == "destroyed"
    assert decide.destroy(world.state, "again", world.now_ms) == []
    with pytest.raises(Refusal, match="ended"):
        world.submit(task_of(fanned(1)))
    with pytest.raises(Refusal, match="ended"):
        world.agent()


# Bounds


def test_the_agent_above_the_limit_is_refused_by_exact_count() -> None:
    world = World(AGENTS_MAX)
    with pytest.raises(Refusal) as caught:
        world.agent()
    assert (caught.value.code, caught.value.reason) == ("resource", "limit")
    assert caught.value.data["limit"] == caught.value.data["inFlight"] == AGENTS_MAX
    world.do(decide.terminate(world.state, "agent_01", "", world.now_ms))
    world.agent("fresh")


def test_running_queued_and_refused_operations_are_counted_exactly() -> None:
    world = World(AGENTS_MAX, slots=64)
    world.submit(task_of(fanned(OPERATIONS_MAX - 1_500), parallelism=20))
    world.submit(task_of(fanned(1_499), parallelism=20))
    assert len(world.working) == world.state.agenda.running == RUNNING_MAX
    assert world.state.agenda.open == OPERATIONS_MAX - 1
    world.submit(task_of(fanned(1)))
    with pytest.raises(Refusal) as caught:
        world.submit(task_of(fanned(1)))
    assert caught.value.data["inFlight"] == OPERATIONS_MAX
    assert caught.value.data["retryAfterMs"] >= 1_000  # type: ignore[operator]
    assert caught.value.retryable
    world.ok(world.working[0], 1)
    assert world.state.agenda.running == RUNNING_MAX
    world.submit(task_of(fanned(1)))


def test_a_phase_waits_until_there_is_room_for_its_steps() -> None:
    world = World(2, slots=64)
    wide = PhaseSpec(
        name="wide", fanout=Fanout(items_from="/first/output"), dependencies=("first",),
        input=raw({"$ref": "/item"}),
    )  # fmt: skip
    task = world.submit(task_of(PhaseSpec(name="first", input=raw({})), wide), "wide_task")
    world.submit(task_of(fanned(9_000)))
    world.ok(world.item("first-0"), list(range(2_500)))
    assert world.task(task).phases["wide"].status == "pending"
    while world.task(task).phases["wide"].status == "pending":
        world.say(*(world.result(item, 1) for item in world.working))
    assert world.task(task).phases["wide"].total == 2_500
    assert world.state.agenda.open <= OPERATIONS_MAX


@pytest.mark.parametrize(
    ("budget", "items"), [(Budget(messages=3), 3), (Budget(tool_calls=4), 4), (Budget(), 9)]
)
def test_a_budget_is_never_exceeded_and_ends_the_task(budget: Budget, items: int) -> None:
    world = World(2, slots=8)
    task = world.submit(
        task_of(fanned(9, tool="t", input=raw({"n": {"$ref": "/item"}})), budget=budget)
    )
    assert len(world.working) == min(items, 8)
    world.work_off(1)
    assert len(world.sent) == items
    found = world.task(task)
    assert found.status == ("completed" if items == 9 else "failed")
    assert found.reason == ("" if items == 9 else "budget")


def test_tokens_above_the_budget_end_the_task_at_once() -> None:
    world = World(1, slots=3)
    task = world.submit(task_of(fanned(5), budget=Budget(tokens=100)))
    world.ok(world.working[0], 1, usage=Usage(tokens=60))
    world.ok(world.working[0], 1, usage=Usage(tokens=40))
    assert (world.task(task).status, world.task(task).reason) == ("failed", "budget")
    assert world.agent_of("agent_01").items == {}


def test_wall_time_is_a_budget_of_its_own() -> None:
    world = World(1)
    task = world.submit(task_of(fanned(1), budget=Budget(wall_s=10), timeout=100))
    world.wait(10_000)
    assert world.task(task).reason == "budget"


def test_ended_tasks_leave_the_state_after_a_while_or_when_there_are_many() -> None:
    world = World(1)
    for _ in range(TASKS_KEPT_MAX + 5):
        world.submit(task_of(fanned(1)), f"task_{len(world.log)}")
        world.work_off(1)
    assert len(world.state.tasks) == TASKS_KEPT_MAX
    world.wait(TASK_KEPT_MS)
    assert not world.state.tasks


@pytest.mark.slow
def test_wide_ended_tasks_leave_the_state_before_the_others() -> None:
    world = World(2, slots=64)
    for name in ("a", "b", "c"):
        world.submit(task_of(fanned(ENDED_STEPS_MAX // 2)), f"task_{name}")
        while world.working:
            world.say(*(world.result(item, 1) for item in world.working))
    assert list(world.state.tasks) == ["task_b", "task_c"]
    assert world.state.agenda.ended_steps == ENDED_STEPS_MAX


def test_ended_tasks_with_large_results_leave_the_state_before_the_others() -> None:
    world = World(1)
    large = "x" * (ENDED_BYTES_MAX // 5)  # held as the phase's output, and as the result
    for name in ("a", "b", "c"):
        world.submit(task_of(fanned(1, aggregate=Aggregate(kind="first_success"))), f"task_{name}")
        world.ok(world.item("work-0"), large)
    assert list(world.state.tasks) == ["task_b", "task_c"]
    kept = restore(snapshot(world.state))
    assert kept.agenda.held_bytes == world.state.agenda.held_bytes > 0
    world.submit(task_of(fanned(1)), "task_d")
    world.ok(world.item("work-0"), 1)
    assert "task_d" in world.state.tasks


def test_the_agents_of_a_wide_phase_are_in_the_log_once() -> None:
    world = World(AGENTS_MAX)
    task = world.submit(task_of(fanned(500), parallelism=20))
    size = sum(len(encode_batch([one])) for one in world.log if isinstance(one, StepsAdded))
    assert size < 500 * 200
    assert len(world.task(task).agents_of(world.step(task, "work-7"))) == AGENTS_MAX


def test_the_same_key_is_the_same_task_for_the_same_principal() -> None:
    world = World(1)
    spec = task_of(fanned(1))
    task = world.submit(spec, "task_a", key="k")
    world.submit(spec, "task_b", key="k")
    assert list(world.state.tasks) == [task]
    assert decide.repeated(world.state, "user-1", "k", spec) == task
    assert decide.repeated(world.state, "user-2", "k", spec) == ""
    with pytest.raises(Refusal, match="another task"):
        world.submit(task_of(fanned(2)), "task_c", key="k")


# Order


def test_a_higher_class_goes_first_and_who_waits_rises_by_a_class_per_half_minute() -> None:
    world = World(1, slots=1)
    world.submit(task_of(fanned(1, "busy")))
    low = world.submit(task_of(fanned(2, "low"), priority="low"))
    world.now_ms += 59_000
    world.submit(task_of(fanned(1, "high"), priority="high"))
    order = []
    while world.working:
        (item,) = world.working
        order.append(world.sent[item][1].phase)
        world.ok(item, 1)
    assert order == ["busy", "high", "low", "low"]
    assert world.task(low).status == "completed"

    world = World(1, slots=1)
    world.submit(task_of(fanned(1, "busy")))
    world.submit(task_of(fanned(1, "low"), priority="low"))
    world.now_ms += 61_000
    world.submit(task_of(fanned(1, "high"), priority="high"))
    world.ok(world.working[0], 1)
    assert world.sent[world.working[0]][1].phase == "low"


def test_parallel_work_spreads_over_the_emptiest_agents() -> None:
    world = World(4, slots=8)
    world.submit(task_of(fanned(8), parallelism=4))
    assert [len(agent.items) for agent in world.state.agents.values()] == [2, 2, 2, 2]


def test_balanced_work_goes_to_the_faster_agent_and_spreads_while_nothing_is_known() -> None:
    world = World(2, slots=4)
    world.submit(task_of(fanned(4), parallelism=2, strategy="balanced"))
    assert [len(agent.items) for agent in world.state.agents.values()] == [2, 2]
    for item in world.working:
        if world.sent[item][1].agent == "agent_01":
            world.ok(item, 1)
    world.now_ms += 1_000
    for item in world.working:
        world.ok(item, 1)
    world.agent_of("agent_01").stats.duration_ms["call"] = 100.0
    world.submit(task_of(fanned(4), parallelism=2, strategy="balanced"))
    assert [len(agent.items) for agent in world.state.agents.values()] == [4, 0]


def test_sequential_work_is_one_step_at_a_time() -> None:
    world = World(3)
    task = world.submit(
        task_of(fanned(3, "a"), fanned(2, "b"), parallelism=3, strategy="sequential")
    )
    order = []
    while world.working:
        (item,) = world.working
        order.append(world.sent[item][1].step)
        world.ok(item, 1)
    assert order == ["a-0", "a-1", "a-2", "b-0", "b-1"]
    assert world.task(task).status == "completed"


def test_an_adaptive_task_widens_by_one_and_halves_on_failures_with_reasons() -> None:
    world = World(4, slots=8)
    execution = Execution(failure_threshold=0.3)
    task = world.submit(
        task_of(fanned(60), parallelism=10, strategy="adaptive", execution=execution)
    )
    assert len(world.working) == world.task(task).width == 4
    for _ in range(4):
        world.ok(world.working[0], 1)
    assert len(world.working) == world.task(task).width == 5
    for index in range(5):
        world.fail(world.working[0]) if index < 2 else world.ok(world.working[0], 1)
    assert world.task(task).width == 2
    world.reject(world.working[0], "busy")
    assert world.task(task).width == 1
    reasons = [event.reason for event in world.log if isinstance(event, WidthChanged)]
    assert reasons == ["4 results, 0% failed", "40% of 5 results failed", "an agent was busy"]


# People


def test_a_phase_that_needs_approval_waits_for_a_person() -> None:
    world = World(1)
    task = world.submit(task_of(phase("a"), phase("b", "a", approval=True)))
    world.ok(world.item("a-0"), 1)
    assert world.task(task).status == "waiting"
    assert b"elicitation/create" in bytes(next(iter(world.task(task).requests.values())).request)
    world.answer(task, b={"action": "accept", "content": {"approve": True}})
    assert world.task(task).status == "running"
    world.work_off(2)
    assert world.result_of(task) == [2]


@pytest.mark.parametrize(
    "answer",
    [
        {"action": "decline"},
        {"action": "cancel"},
        {"action": "accept", "content": {"approve": False}},
    ],
)
def test_a_declined_phase_fails_its_task(answer: object) -> None:
    world = World(1)
    task = world.submit(task_of(phase("a", approval=True)))
    world.answer(task, a=answer)
    assert (world.task(task).status, world.task(task).reason) == ("failed", "declined")


def test_an_agents_questions_are_answered_together_and_its_time_stands_still() -> None:
    world = World(1)
    task = world.submit(task_of(phase("a", timeout=5)))
    item = world.item("a-0")
    asked = {"x": {"method": "elicitation/create"}, "y": {"method": "elicitation/create"}}
    world.say(world.result(item, status="input_required", requests=asked))
    assert world.task(task).status == "waiting"
    world.wait(100_000)
    first, second = world.task(task).requests
    world.do(decide.answer_input(world.state, task, {first: raw({"v": 1})}, world.now_ms))
    assert world.task(task).status == "waiting"
    told = world.do(decide.answer_input(world.state, task, {second: raw({"v": 2})}, world.now_ms))
    (answered,) = [one for one in told if isinstance(one, effects.AnswerWork)]
    assert {name: bytes(one) for name, one in answered.answers.items()} == {
        "x": b'{"v":1}', "y": b'{"v":2}',
    }  # fmt: skip
    assert world.task(task).status == "running"
    assert [type(one) for one in effects.work_items(world.state, [item])] == [
        effects.SendWork, effects.AnswerWork,
    ]  # fmt: skip
    world.ok(item, 1)
    assert world.task(task).status == "completed"


def test_a_planner_agent_makes_the_phases() -> None:
    world = World()
    world.agent("planner", capabilities=("plan",))
    world.agent("worker")
    task = world.submit(task_of(planner=True))
    world.ok(world.item("plan-0"), {"phases": [{"name": "x", "input": {"n": 1}}]})
    world.ok(world.item("x-0"), "made")
    assert world.result_of(task) == "made"


# Mail


def test_mail_waits_an_hour_for_its_agent_and_the_oldest_gives_way() -> None:
    world = World(2)
    for number in range(MAIL_PER_AGENT_MAX + 1):
        world.mail("agent_01", "agent_02", f"m{number}")
    box = world.agent_of("agent_02").mailbox
    assert (len(box), box[0].mail.id) == (MAIL_PER_AGENT_MAX, "m1")
    world.do(decide.mail_taken(world.state, "agent_02", ["m1", "m5", "m0"], world.now_ms))
    assert len(box := world.agent_of("agent_02").mailbox) == MAIL_PER_AGENT_MAX - 2
    world.wait(MAIL_MS)
    assert world.agent_of("agent_02").mailbox == []
    assert sum(len(event.ids) for event in world.log if isinstance(event, MailDropped)) == 999
    assert world.state.links == {"agent_01>agent_02": MAIL_PER_AGENT_MAX + 1}


def test_a_star_forbids_spoke_to_spoke_and_relays_only_if_told_to() -> None:
    world = World(3, topology="star")
    world.mail("agent_01", "agent_02")
    with pytest.raises(Refusal) as caught:
        world.mail("agent_02", "agent_03")
    assert caught.value.reason == "topology_violation"
    relaying = World(3, topology="star", relay=True)
    relaying.mail("agent_02", "agent_03")
    assert relaying.state.links == {"agent_02>agent_01": 1, "agent_01>agent_03": 1}
    assert relaying.agent_of("agent_03").mailbox[0].mail.hops == 2


def test_mail_is_delivered_at_once_to_who_is_there_and_on_return_to_who_was_lost() -> None:
    world = World(2)
    world.mail("", "agent_01", "now")
    world.lose("agent_02")
    world.mail("", "agent_02", "later")
    there = [one.mail.id for one in world.told if isinstance(one, effects.SendMail)]
    assert there == ["now"]
    world.beat("agent_02")
    there = [one.mail.id for one in world.told if isinstance(one, effects.SendMail)]
    assert there == ["now", "later"]


def test_messages_are_charged_to_the_budget_of_their_task() -> None:
    world = World(2)
    task = world.submit(task_of(fanned(1), budget=Budget(messages=2)))
    world.mail("agent_01", "agent_02", task=task)
    with pytest.raises(Refusal, match="budget"):
        world.mail("agent_01", "agent_02", task=task)
    assert world.task(task).spent.messages == 2
    assert world.now_ms == START_MS
