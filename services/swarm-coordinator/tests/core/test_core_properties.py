"""Whatever happens to a swarm, in whatever order: what must always hold, and what must end."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.swarm_world import World, raw, task_of

from mcp_proto.contracts.swarm import StepError, Usage
from swarm_coordinator.core import decide
from swarm_coordinator.core.events import decode_batch, encode_batches
from swarm_coordinator.core.evolve import evolve, restore, snapshot
from swarm_coordinator.core.limits import RUNNING_MAX
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.spec import (
    Aggregate,
    Budget,
    Coordination,
    Execution,
    Fanout,
    PhaseSpec,
    RetryPolicy,
    TaskSpec,
)
from swarm_coordinator.core.state import SwarmState

MS = st.sampled_from([0, 1, 50, 1_000, 5_000, 20_000, 61_000, 400_000])
N = st.integers(0, 1_000_000)


@st.composite
def phases(draw: Any, index: int) -> PhaseSpec:
    vote = draw(st.sampled_from([None, None, None, "fail", "revote", "human", "expert_priority"]))
    kind = draw(st.sampled_from(["one", "one", "wide", "shards"]))
    fanout, given_input = None, raw({"x": index})
    if kind == "wide":
        fanout = Fanout(items=raw(list(range(draw(st.integers(0, 6))))))
    elif kind == "shards":
        fanout, given_input = Fanout(shards=2), raw([1, 2, 3])
    needs = tuple(f"p{i}" for i in range(index) if draw(st.booleans()))
    return PhaseSpec(
        name=f"p{index}",
        tool=draw(st.sampled_from(["", "", "t"])) if kind == "one" else "",
        input=given_input,
        fanout=fanout,
        dependencies=needs,
        vote=Coordination(
            voting_mechanism=draw(
                st.sampled_from(["majority", "unanimous", "quorum", "threshold", "weighted"])
            ),
            conflict_resolution=vote,
        )
        if vote
        else None,
        aggregate=Aggregate(kind=draw(st.sampled_from(["all", "first_success", "union"])))
        if fanout and not vote
        else None,
        timeout=draw(st.sampled_from([0, 1, 30])),
        retry=RetryPolicy(max_attempts=draw(st.integers(1, 3)), initial_ms=100),
        idempotent=draw(st.booleans()),
        on_failure=draw(st.sampled_from(["fail", "continue", "skip_dependents"])),
        approval=draw(st.sampled_from([False, False, False, True])),
    )


@st.composite
def specs(draw: Any) -> TaskSpec:
    count = draw(st.integers(1, 3))
    return task_of(
        *(draw(phases(index)) for index in range(count)),
        priority=draw(st.sampled_from(["low", "medium", "high", "critical"])),
        strategy=draw(st.sampled_from(["parallel", "sequential", "balanced", "adaptive"])),
        parallelism=draw(st.integers(1, 4)),
        timeout=draw(st.sampled_from([5, 600, 3600])),
        budget=Budget(
            messages=draw(st.sampled_from([0, 0, 3, 10])),
            tool_calls=draw(st.sampled_from([0, 0, 1, 2])),
            tokens=draw(st.sampled_from([0, 0, 50])),
        ),
        execution=Execution(failure_threshold=draw(st.sampled_from([0.0, 0.3, 1.0]))),
    )


SUBMIT = st.tuples(st.just("submit"), specs(), N)
ACTIONS = st.one_of(
    SUBMIT,
    st.tuples(st.just("ok"), N, st.booleans()),
    st.tuples(st.just("ok"), N, st.booleans()),
    st.tuples(st.just("ok"), N, st.booleans()),
    st.tuples(st.just("many"), N, st.integers(1, 4)),
    st.tuples(st.just("error"), N, st.sampled_from(["not_executed", "unknown", "executed"])),
    st.tuples(st.just("reject"), N, st.sampled_from(["rejected", "busy"])),
    st.tuples(st.just("ask"), N, N),
    st.tuples(st.just("any_item"), N, st.sampled_from(["ok", "error", "rejected"])),
    st.tuples(st.just("wrong"), N, N),
    st.tuples(st.just("lose"), N, N),
    st.tuples(st.just("beat"), N, st.booleans()),
    st.tuples(st.just("gone"), N, N),
    st.tuples(st.just("refused"), N, st.sampled_from(["busy", "unknown_agent", "epoch"])),
    st.tuples(st.just("terminate"), N, st.booleans()),
    st.tuples(st.just("agent"), N, st.integers(1, 3)),
    st.tuples(st.just("cancel"), N, N),
    st.tuples(st.just("wait"), MS, N),
    st.tuples(st.just("answer"), N, st.booleans()),
    st.tuples(st.just("mail"), N, N),
)


def scripts(most: int) -> st.SearchStrategy[list[tuple[str, Any, Any]]]:
    """Some tasks, then anything."""
    return st.builds(
        lambda first, rest: [*first, *rest],
        st.lists(SUBMIT, min_size=2, max_size=4),
        st.lists(ACTIONS, min_size=most // 2, max_size=most),
    )


LAST: list[World] = []
"""For whoever looks into a failure."""


class Monkey:
    """Does what it is told, whether or not that makes sense, and looks after each step."""

    def __init__(self) -> None:
        self.world = World(3, slots=2)
        LAST[:] = [self.world]
        self.ended: dict[tuple[str, str], str] = {}
        self.snapshots: list[tuple[int, bytes]] = []

    def act(self, what: str, one: Any, other: Any) -> None:
        getattr(self, f"_{what}")(one, other)
        check(self.world, self.ended)

    def _pick(self, number: int, of: list[Any]) -> Any:
        return of[number % len(of)] if of else None

    def _submit(self, spec: TaskSpec, number: int) -> None:
        world = self.world
        if number % 5 == 0 and world.state.tasks:
            before = self._pick(number, list(world.state.tasks))
            spec = TaskSpec(
                **{f: getattr(spec, f) for f in spec.__struct_fields__}
                | {"dependencies": (before,)}
            )
        try:
            world.submit(spec)
        except Refusal as refusal:
            if refusal.reason not in ("missing_capabilities", "plan"):
                raise

    def _ok(self, number: int, tokens: bool) -> None:
        if item := self._pick(number, self.world.working):
            output = number % 3 if number % 2 else {"n": number % 3}
            calls = 1 if self.world.sent[item][1].kind == "tool" else None
            usage = Usage(tokens=number % 30, tool_calls=calls) if tokens else None
            self.world.ok(item, output, usage=usage)

    def _many(self, number: int, count: int) -> None:
        """A batch with repeats, of any items."""
        world = self.world
        items = [self._pick(number // (i + 1), list(world.sent)) for i in range(count)]
        every = [item for item in items if item] + [item for item in items[:1] if item]
        error = StepError(type="tool", message="no")
        world.say(
            *(
                world.result(item, 1) if i % 2 else world.result(item, status="error", error=error)
                for i, item in enumerate(every)
            )
        )

    def _error(self, number: int, outcome: Any) -> None:
        if item := self._pick(number, self.world.working):
            self.world.fail(item, outcome=outcome, retryable=bool(number % 4))

    def _reject(self, number: int, kind: str) -> None:
        if item := self._pick(number, self.world.working):
            self.world.reject(item, kind)

    def _ask(self, number: int, _: int) -> None:
        if item := self._pick(number, self.world.working):
            asked = {"q": {"method": "elicitation/create", "params": {}}}
            self.world.say(self.world.result(item, status="input_required", requests=asked))

    def _any_item(self, number: int, status: Any) -> None:
        if item := self._pick(number, list(self.world.sent)):
            self.world.say(self.world.result(item, 1 if status == "ok" else None, status=status))

    def _wrong(self, number: int, which: int) -> None:
        item = self._pick(number, list(self.world.sent))
        if item:
            agent = self._pick(which, list(self.world.state.agents))
            host = "host-1" if which % 2 else "host-2"
            self.world.say(self.world.result(item, 9, agent=agent), host=host)
            made_up = self.world.result(item, 9)
            self.world.say(
                type(made_up)(agent=agent, epoch=1, item=f"{item[:-1]}99", status="ok"), host=host
            )

    def _lose(self, number: int, _: int) -> None:
        self.world.lose(self._pick(number, list(self.world.state.agents)))

    def _beat(self, number: int, knows: bool) -> None:
        agent = self._pick(number, list(self.world.state.agents))
        self.world.beat(agent, items=None if knows else {agent: ()})

    def _gone(self, number: int, _: int) -> None:
        if number % 3 == 0:
            self.world.beat(*list(self.world.state.agents)[:2], state="gone")

    def _refused(self, number: int, why: str) -> None:
        world = self.world
        if item := self._pick(number, world.working):
            told = {item: why, self._pick(number // 2, world.working): why}
            world.do(decide.refused(world.state, "host-1", told, world.now_ms, 1))

    def _terminate(self, number: int, drains: bool) -> None:
        world = self.world
        agent = self._pick(number, list(world.state.agents))
        if number % 3 == 0:
            end = decide.drain if drains else decide.terminate
            world.do(end(world.state, agent, "test", world.now_ms))

    def _agent(self, _: int, slots: int) -> None:
        living = [a for a in self.world.state.agents.values() if a.status != "terminated"]
        if len(living) < 6:
            self.world.agent(slots=slots)

    def _cancel(self, number: int, _: int) -> None:
        if (task := self._pick(number, list(self.world.state.tasks))) and number % 2:
            self.world.cancel(task)

    def _wait(self, ms: int, _: int) -> None:
        self.world.wait(ms)

    def _answer(self, number: int, agrees: bool) -> None:
        for task in list(self.world.state.tasks.values()):
            for key, asked in list(task.requests.items()):
                content: object = {"choice": "1"} if asked.kind == "vote" else {"approve": agrees}
                action = "decline" if number % 5 == 0 else "accept"
                given = {key: raw({"action": action, "content": content})}
                self.world.do(
                    decide.answer_input(self.world.state, task.id, given, self.world.now_ms)
                )

    def _mail(self, number: int, to: int) -> None:
        agents = list(self.world.state.agents)
        try:
            self.world.mail(self._pick(number, agents), self._pick(to, agents))
        except Refusal as refusal:
            if refusal.reason not in ("not_found", "topology_violation"):
                raise

    def finish(self) -> None:
        """Everybody answers everything, and time passes."""
        for _ in range(400):
            if all(task.ended for task in self.world.state.tasks.values()):
                return
            self._answer(1, agrees=True)
            for item in self.world.working:
                self.world.ok(item, 1)
            for agent in list(self.world.state.agents.values()):
                if agent.status in ("active", "lost", "draining"):
                    self.world.beat(agent.id)
            check(self.world, self.ended)
            self.world.wait(3_000 if self.world.working else 30_000)
        left = {t.id: (t.status, t.phases) for t in self.world.state.tasks.values() if not t.ended}
        raise AssertionError(f"these never end: {left}")


def check(world: World, ended: dict[tuple[str, str], str]) -> None:
    """What holds after every turn."""
    state = world.state
    open_ = running = 0
    runs: dict[str, str] = {}
    for task in state.tasks.values():
        _is_final(ended, task.id, "", task.status if task.ended else "")
        counts = {"done": 0, "failed": 0, "assigned": 0, "ended": 0}
        for step in task.steps.values():
            _is_final(ended, task.id, step.id, step.status if step.ended else "")
            counts["ended"] += step.ended
            if step.status in counts:
                counts[step.status] += 1
            assert bool(step.runs) == (step.status == "assigned"), step
            assert len({run.agent for run in step.runs}) == len(step.runs) <= 2
            runs.update({run.item: run.agent for run in step.runs})
        assert counts["done"] == task.done
        assert counts["failed"] == task.failed
        assert counts["ended"] == task.ended_steps
        assert counts["assigned"] == task.running
        assert task.total == len(task.steps)
        assert not task.ended or counts["ended"] == task.total, "an ended task leaves no step open"
        budget = task.spec.budget
        assert not budget.messages or task.spent.messages <= budget.messages
        assert not budget.tool_calls or task.spent.tool_calls <= budget.tool_calls
        for phase in task.phases.values():
            steps = [task.steps[name] for name in phase.steps]
            assert phase.open == sum(not step.ended for step in steps)
            assert phase.done == sum(step.status == "done" for step in steps)
        open_ += task.total - task.ended_steps
        running += task.running
        leaving = sum(
            item.startswith(f"{task.id}.") for a in state.agents.values() for item in a.leaving
        )
        assert task.leaving == leaving
    assert state.agenda.open == open_
    assert state.agenda.running == running <= RUNNING_MAX
    has = {item: agent.id for agent in state.agents.values() for item in agent.items}
    assert has == runs
    for agent in state.agents.values():
        assert len(agent.items) + len(agent.leaving) <= agent.slots
        assert agent.status in ("active", "draining") or not agent.items


def _is_final(ended: dict[tuple[str, str], str], task: str, step: str, status: str) -> None:
    before = ended.get((task, step))
    assert before is None or before == status, f"{task} {step} was {before} and is {status}"
    if status:
        ended[task, step] = status


def folded(state: SwarmState | None, log: list[bytes]) -> SwarmState:
    """Fold messages of a log."""
    for message in log:
        events = decode_batch(message)
        assert isinstance(events, list)
        for event in events:
            state = evolve(state, event)
    assert state is not None
    return state


def derived(state: SwarmState) -> dict[str, object]:
    """What the agenda of a state says, whatever the order of equals in which it came to say it."""
    agenda = state.agenda
    ready: dict[str, set[str]] = {}
    for lane in agenda.lanes.values():
        for queue in lane.classes:
            for entry in queue:
                step = state.tasks[entry[2]].steps[entry[3]] if entry[2] in state.tasks else None
                if step is not None and (step.status, step.ready_ms) == ("ready", entry[0]):
                    ready.setdefault(entry[2], set()).add(entry[3])
    for task, held in agenda.held.items():
        ready.setdefault(task, set()).update(held)
    for task, step_id in agenda.unplaced:
        ready.setdefault(task, set()).add(step_id)
    return {
        "open": agenda.open,
        "running": agenda.running,
        "ready": {task: some for task, some in ready.items() if some},
        "blocked": agenda.blocked,
        "live": list(agenda.live),
        "ended": sorted(agenda.ended),
        "active": agenda.active,
        "draining": agenda.draining,
        "stranded": {name: set(some) for name, some in agenda.stranded.items() if some},
        "parked": set(agenda.parked),
    }


def play(actions: list[tuple[str, Any, Any]]) -> World:
    """All actions, then the end."""
    monkey = Monkey()
    snapshots: list[tuple[int, bytes]] = []
    for action in actions:
        monkey.act(*action)
        restored = restore(snapshot(monkey.world.state))
        again, now = derived(restored), derived(monkey.world.state)
        assert again == now, {key: (again[key], now[key]) for key in now if again[key] != now[key]}
        snapshots.append((len(monkey.world.log), snapshot(monkey.world.state)))
    monkey.finish()
    world = monkey.world
    whole = snapshot(world.state)
    log = encode_batches(world.log, 2_000)
    assert snapshot(folded(None, log)) == whole, "the same log gives the same state"
    for at, kept in snapshots[:: max(1, len(snapshots) // 4)]:
        rest = encode_batches(world.log[at:], 100_000)
        assert snapshot(folded(restore(kept), rest)) == whole, "a snapshot and the rest give it too"
    return world


def killed(world: World, at: int) -> None:
    """The owner dies when so much of its log is stored; another one ends what it began."""
    monkey = Monkey()
    other = monkey.world
    other.state = folded(None, encode_batches(world.log[:at], 2_000))
    other.log = world.log[:at]
    other.now_ms = max(world.log[at - 1].at, other.now_ms)
    other.do(decide.owner_changed(other.state, "swarm-2", other.now_ms))
    assert set(other.working) <= set(other.sent), "all that is on its way has been sent again"
    monkey.finish()


PROFILE = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)


@settings(PROFILE, max_examples=40)
@given(scripts(24))
def test_tasks_end_once_and_the_log_tells_the_state_whatever_happens(
    actions: list[tuple[str, Any, Any]],
) -> None:
    play(actions)


@settings(PROFILE, max_examples=25)
@given(scripts(20), st.integers(0, 1_000_000))
def test_another_owner_ends_what_one_began_that_died_within_a_turn(
    actions: list[tuple[str, Any, Any]], where: int
) -> None:
    monkey = Monkey()
    for action in actions:
        monkey.act(*action)
    killed(monkey.world, 2 + where % (len(monkey.world.log) - 1))


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(PROFILE, max_examples=1_500)
@given(scripts(80))
def test_tasks_end_once_whatever_happens_at_length(actions: list[tuple[str, Any, Any]]) -> None:
    world = play(actions)
    for at in range(2, len(world.log) + 1, max(1, len(world.log) // 5)):
        killed(world, at)
