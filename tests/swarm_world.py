"""A swarm in memory for tests of the coordinator's core: its owner's turns, what hosts were told.

Nothing is simulated of the core itself: every input goes through ``decide`` and ``turn.take``, and
the effects are kept as hosts would have got them.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from mcp_proto.contracts.swarm import (
    AgentBeat,
    Ballot,
    Beat,
    Mail,
    Spawned,
    StepError,
    Usage,
    WorkItem,
    WorkResult,
)
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core import decide, effects, turn
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.spec import (
    Aggregate,
    Fanout,
    PhaseSpec,
    RetryPolicy,
    SwarmConfig,
    TaskSpec,
)
from swarm_coordinator.core.state import AgentState, StepState, SwarmState, TaskState

START_MS = 1_790_000_000_000
HOST = "host-1"


def raw(value: object) -> msgspec.Raw:
    """JSON of a value."""
    return msgspec.Raw(msgspec.json.encode(value))


def value_of(given: msgspec.Raw) -> object:
    """The value of JSON."""
    return msgspec.json.decode(given)


def fanned(count: int, name: str = "work", **more: object) -> PhaseSpec:
    """A phase of ``count`` steps whose inputs are 0, 1, 2 …"""
    return PhaseSpec(  # type: ignore[arg-type]
        name=name,
        **{
            "fanout": Fanout(items=raw(list(range(count)))),
            "retry": RetryPolicy(max_attempts=1),
            "input": raw({"$ref": "/item"}),
            **more,
        },
    )


def task_of(*phases: PhaseSpec, **more: object) -> TaskSpec:
    """A task of these phases."""
    return TaskSpec(description="test", phases=phases, **more)  # type: ignore[arg-type]


class World:
    """One swarm, its log, and what hosts have been told."""

    def __init__(
        self, agents: int = 0, *, slots: int = 4, topology: str = "mesh", **config: object
    ) -> None:
        self.now_ms = START_MS
        self.seed = 1
        self.log: list[Event] = []
        self.sent: dict[str, tuple[str, WorkItem]] = {}
        self.cancelled: list[str] = []
        self.told: list[effects.Effect] = []
        events = decide.create(
            swarm="swarm_1",
            tenant="demo",
            principal="user-1",
            topology=topology,  # type: ignore[arg-type]
            config=SwarmConfig(**config),  # type: ignore[arg-type]
            owner="swarm-1",
            now_ms=self.now_ms,
        )
        self.state: SwarmState = turn.begin(events)
        self.log.extend(events)
        for _ in range(agents):
            self.agent(slots=slots)

    # Turns

    def do(self, events: Iterable[Event]) -> list[effects.Effect]:
        """A turn of the owner."""
        self.seed += 1
        taken = turn.take(self.state, events, self.now_ms, self.seed)
        self.log.extend(taken)
        told = effects.effects_of(self.state, taken)
        self.told.extend(told)
        for effect in told:
            if isinstance(effect, effects.SendWork):
                for item in effect.items:
                    self.sent[item.item] = (effect.host, item)
            elif isinstance(effect, effects.CancelWork):
                self.cancelled.extend(effect.items)
        return told

    def wait(self, ms: int) -> None:
        """Time passes, timers fire in their order."""
        end = self.now_ms + ms
        while (due := decide.next_due(self.state)) is not None and due <= end:
            self.now_ms = max(self.now_ms, due)
            before = len(self.log)
            self.do(())
            after = decide.next_due(self.state)
            assert len(self.log) > before or after != due, "a timer that does nothing, for ever"
        self.now_ms = end
        self.do(())

    # Agents

    def agent(
        self,
        name: str = "",
        *,
        slots: int = 4,
        type: str = "function",  # noqa: A002
        capabilities: Sequence[str] = (),
        host: str = HOST,
        config: object = None,
        weight: float | None = None,
    ) -> str:
        """An agent that beats."""
        agent = name or f"agent_{len(self.state.agents) + 1:02d}"
        self.do(
            decide.add_agent(
                self.state,
                agent=agent,
                agent_type=type,
                name=agent,
                capabilities=tuple(capabilities),
                config=ABSENT if config is None else raw(config),
                weight=weight,
                now_ms=self.now_ms,
            )
        )
        spawned = Spawned(runtime=type, slots=slots)
        self.do(decide.agent_spawned(self.state, agent, host, spawned, self.now_ms))
        self.beat(agent, host=host)
        return agent

    def beat(
        self,
        *agents: str,
        host: str = HOST,
        state: Literal["starting", "active", "draining", "frozen", "gone"] = "active",
        items: dict[str, Sequence[str]] | None = None,
    ) -> decide.Reconciled:
        """A beat of a host that names these agents, with the items they have (default: all)."""
        beats = tuple(
            AgentBeat(
                agent=name,
                epoch=self.state.agents[name].epoch,
                state=state,
                items=tuple(
                    items[name]
                    if items is not None and name in items
                    else self.state.agents[name].items
                ),
            )
            for name in agents
        )
        beat = Beat(boot="1", node="n1", agents=beats)
        self.do(decide.beat(self.state, host, beat, self.now_ms))
        return decide.reconcile(self.state, host, beat, self.now_ms)

    def lose(self, agent: str) -> None:
        """No beat."""
        self.do(decide.agent_lost(self.state, agent, "no beat", self.now_ms))

    def mail(self, sender: str, to: str, ident: str = "m1", **more: object) -> None:
        """A message."""
        letter = Mail(id=ident, sender=sender, type="note")
        self.do(decide.mail(self.state, sender, to, letter, self.now_ms, **more))  # type: ignore[arg-type]

    # Tasks

    def submit(self, spec: TaskSpec, task: str = "", *, key: str = "", grant: str = "") -> str:
        """A task of user-1."""
        name = task or f"task_{len(self.state.tasks) + 1}"
        self.do(
            decide.submit(
                self.state,
                "user-1",
                spec,
                task=name,
                idempotency=key,
                grant=grant,
                now_ms=self.now_ms,
            )
        )
        return name

    def cancel(self, task: str) -> None:
        """The submitter wants it ended."""
        self.do(decide.cancel(self.state, task, "not wanted", self.now_ms))

    def answer(self, task: str, **answers: object) -> None:
        """Answers of a person, by the phase or step that asks."""
        given = {
            key: raw(answers[key.rpartition(".")[0]])
            for key in self.task(task).requests
            if key.rpartition(".")[0] in answers
        }
        assert given
        self.do(decide.answer_input(self.state, task, given, self.now_ms))

    def task(self, task: str) -> TaskState:
        """State of a task."""
        return self.state.tasks[task]

    def step(self, task: str, step: str) -> StepState:
        """State of a step."""
        return self.state.tasks[task].steps[step]

    def agent_of(self, agent: str) -> AgentState:
        """State of an agent."""
        return self.state.agents[agent]

    def result_of(self, task: str) -> object:
        """The result of a task that has completed."""
        found = self.task(task)
        assert found.status == "completed", (found.status, found.reason, found.message)
        return value_of(found.result)

    # Results

    @property
    def working(self) -> list[str]:
        """Items on their way, in the order they were sent."""
        has = [
            (since, item)
            for agent in self.state.agents.values()
            for item, since in agent.items.items()
        ]
        order = {item: index for index, item in enumerate(self.sent)}
        return [item for _, item in sorted(has, key=lambda pair: order[pair[1]])]

    def item(self, step: str) -> str:
        """The newest item of a step."""
        return next(one for one in reversed(self.sent) if self.sent[one][1].step == step)

    def result(
        self,
        item: str,
        output: object = None,
        *,
        status: Literal["ok", "error", "rejected", "input_required"] = "ok",
        error: StepError | None = None,
        ballot: object = None,
        usage: Usage | None = None,
        requests: dict[str, object] | None = None,
        agent: str = "",
        confidence: float | None = None,
    ) -> WorkResult:
        """What an agent would say."""
        return WorkResult(
            agent=agent or self.sent[item][1].agent,
            epoch=1,
            item=item,
            status=status,
            structured=ABSENT if output is None else raw(output),
            ballot=None if ballot is None else Ballot(choice=raw(ballot), confidence=confidence),
            usage=usage or Usage(),
            error=error,
            requests={name: raw(one) for name, one in (requests or {}).items()},
        )

    def say(self, *results: WorkResult, host: str = HOST) -> list[Event]:
        """Results of a host; the events of this turn."""
        before = len(self.log)
        self.do(decide.results(self.state, host, results, self.now_ms, self.seed))
        return self.log[before:]

    def ok(self, item: str, output: object = None, **more: object) -> None:
        """It worked."""
        self.say(self.result(item, output, **more))  # type: ignore[arg-type]

    def fail(
        self,
        item: str,
        kind: str = "tool",
        *,
        retryable: bool = True,
        outcome: Literal["not_executed", "unknown", "executed"] = "executed",
    ) -> None:
        """It did not."""
        error = StepError(type=kind, message="no", retryable=retryable, outcome=outcome)
        self.say(self.result(item, status="error", error=error))

    def reject(self, item: str, kind: str = "rejected") -> None:
        """The agent cannot do it."""
        error = StepError(type=kind, message="cannot", outcome="not_executed")
        self.say(self.result(item, status="rejected", error=error))

    def work_off(self, output: object = None) -> int:
        """Every item works, until none is left; how many those were."""
        count = 0
        while self.working:
            for item in self.working:
                self.ok(item, count if output is None else output)
                count += 1
        return count


__all__ = ["HOST", "START_MS", "Aggregate", "World", "fanned", "raw", "task_of", "value_of"]
