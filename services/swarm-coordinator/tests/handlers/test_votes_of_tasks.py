"""Votes, from the arguments of a task to what its result says; the agents are played."""

from typing import Any

import msgspec
import pytest

from swarm_coordinator.core import decide

Room = Any


MAJORITY = {"votingMechanism": "majority"}


class Booth:
    """A task whose one phase is voted on; the test plays the voters."""

    def __init__(self, room: Room, owner: Any, task: str, voters: list[str]) -> None:
        self.room = room
        self.owner = owner
        self.task = task
        self.voters = voters

    def cast(self, *choices: object) -> None:
        """Each voter's choice, in order; None = it has not voted yet."""
        for name, choice in zip(self.voters, choices, strict=False):
            items = [item for item, agent in self.owner.work().items() if agent == name]
            if items and choice is not None:
                self.owner.finish(items[0], choice)

    def payload(self, agent: str) -> Any:
        """Of the step that an agent has now."""
        (step,) = [
            step
            for step in self.owner.state.tasks[self.task].steps.values()
            if any(run.agent == agent for run in step.runs)
        ]
        return msgspec.json.decode(bytes(step.payload))

    async def told(self) -> dict[str, Any]:
        """Status of the task."""
        status: dict[str, Any] = await self.room.call("task_status", taskId=self.task)
        return status

    async def vote(self) -> dict[str, Any]:
        """What the vote came to."""
        found: dict[str, Any] = (await self.told())["votes"]["choose"]
        return found


async def opened(
    room: Room,
    voters: int,
    coordination: dict[str, object],
    *,
    capabilities: Any = (),
    also: Any = (),
) -> Booth:
    """A booth for so many voters; ``also`` = types of agents that do not vote."""
    made = await room.call("swarm_init", topology="mesh")
    names = []
    for n, kind in enumerate([*["reviewer"] * voters, *also]):
        held = list(capabilities[n]) if n < len(capabilities) else []
        spawned = await room.call(
            "agent_spawn", agentType=kind, name=f"{kind}{n}", capabilities=held, wait=True
        )
        names.append(spawned["agentId"])
    phase = {
        "name": "choose",
        "agents": names[:voters],
        "prompt": "Which?",
        "vote": coordination,
        "retryPolicy": "none",
        "onFailure": "continue",
    }
    task = await room.call("task_orchestrate", task={"description": "choose", "phases": [phase]})
    return Booth(room, room.swarms.owners[made["swarmId"]], task["taskId"], names)


async def test_a_vote_stops_early_and_cancels_the_rest(room: Room) -> None:
    booth = await opened(room, 5, {"votingMechanism": "threshold", "consensusThreshold": 0.7})
    booth.cast("a", "a", "a", None, None)
    assert (await booth.told())["status"] == "running"
    booth.cast(None, None, None, "a", None)
    found = await booth.vote()
    assert (found["reached"], found["decision"], found["earlyStop"]) == (True, "a", True)
    assert found["tally"]["outstanding"] == [booth.voters[4]]
    assert set(found["tally"]["weights"].values()) == {1.0}
    told = await booth.told()
    assert (told["status"], told["result"]) == ("completed", "a")


async def test_findings_are_voted_on_by_those_who_can_see_them(room: Room) -> None:
    seen = {"file": "a.py", "line": 3, "class": "unused-import"}
    booth = await opened(
        room,
        4,
        {
            "votingMechanism": "threshold",
            "equality": {"kind": "items", "keys": ["file", "line", "class"]},
            "electorate": {"unused-import": ["ruff", "pyflakes"]},
        },
        capabilities=[("ruff",), ("pyflakes",), ("pylint",), ("bandit",)],
    )
    booth.cast([seen], [{**seen, "message": "x"}], [], [])
    found = await booth.vote()
    assert found["decision"] == [seen]
    (accepted,) = found["tally"]["items"]["accepted"]
    assert (len(accepted["voters"]), accepted["competent"], accepted["share"]) == (2, 2, 1.0)


async def test_a_voter_that_failed_is_absent(room: Room) -> None:
    booth = await opened(room, 3, {"votingMechanism": "unanimous"})
    booth.cast("a", "a", None)
    (item,) = booth.owner.work()
    booth.owner.finish(item, error="broken")
    found = await booth.vote()
    assert (found["reached"], found["tally"]["reason"]) == (False, "absent")
    assert found["tally"]["absent"] == [booth.voters[2]]


async def test_the_expert_decides_and_the_dissent_is_kept(room: Room) -> None:
    booth = await opened(room, 3, {**MAJORITY, "conflictResolution": "expert_priority"})
    booth.cast({"verdict": "a", "rationale": "cheap"}, {"verdict": "b"}, {"verdict": "c"})
    found = await booth.vote()
    assert (found["reached"], found["method"]) == (False, "expert_priority")
    assert found["decision"] == "a"  # nobody is more expert or surer: the oldest agent
    assert [one["choice"] for one in found["tally"]["dissent"]] == ["b", "c"]
    assert "reached no decision (tie)" in found["message"]
    assert (await booth.told())["result"] == "a"


async def test_a_vote_that_reached_nothing_fails_and_says_so(room: Room) -> None:
    booth = await opened(room, 2, MAJORITY)
    booth.cast("a", "b")
    found = await booth.vote()
    assert (found["reached"], found["decision"], found["method"]) == (False, None, "fail")
    told = await booth.told()
    assert told["status"] == "failed"
    assert len(found["tally"]["choices"]) == 2


async def test_voters_that_disagree_vote_again_and_see_why(room: Room) -> None:
    booth = await opened(room, 3, {**MAJORITY, "conflictResolution": "revote"})
    booth.cast({"verdict": "a", "rationale": "cheap"}, {"verdict": "b"}, {"verdict": "c"})
    shown = booth.payload(booth.voters[1])["revote"]
    assert (shown["round"], shown["why"]) == (2, "tie")
    assert shown["choices"][0]["rationales"] == ["cheap"]
    booth.cast({"verdict": "a"}, {"verdict": "a"}, {"verdict": "c"})
    found = await booth.vote()
    assert (found["reached"], found["decision"], found["rounds"]) == (True, "a", 2)


async def test_voters_that_never_agree_vote_three_times_at_most(room: Room) -> None:
    booth = await opened(room, 2, {**MAJORITY, "conflictResolution": "revote"})
    for _ in range(3):
        booth.cast("a", "b")
    assert not booth.owner.work()
    found = await booth.vote()
    assert (found["reached"], found["rounds"], found["ended"]) == (False, 3, True)


@pytest.mark.parametrize("answer", [{"verdict": {"choice": 2}}, {"verdict": "b"}, {"choice": 2}])
async def test_the_coordinator_decides_among_the_choices(room: Room, answer: object) -> None:
    booth = await opened(
        room, 2, {**MAJORITY, "conflictResolution": "coordinator_decides"}, also=["coordinator"]
    )
    booth.cast("a", "b")
    asked = booth.payload(booth.voters[2])["input"]
    assert [one["choice"] for one in asked["choices"]] == ["a", "b"]
    (item,) = booth.owner.work()
    booth.owner.finish(item, answer)
    found = await booth.vote()
    assert (found["decision"], found["method"], found["reached"]) == (
        "b",
        "coordinator_decides",
        False,
    )
    assert [one["choice"] for one in found["tally"]["dissent"]] == ["a"]


async def test_a_judge_says_which_choices_are_the_same(room: Room) -> None:
    judge = {"kind": "judge", "agent": "validator"}
    booth = await opened(room, 3, {**MAJORITY, "equality": judge}, also=["validator"])
    booth.cast("yes", "aye", "no")
    asked = booth.payload(booth.voters[3])["input"]
    assert [one["choice"] for one in asked["choices"]] == ["yes", "aye", "no"]
    (item,) = booth.owner.work()
    booth.owner.finish(item, {"groups": [[1, 2]]})
    found = await booth.vote()
    assert (found["reached"], found["decision"]) == (True, "yes")
    assert [one["choice"] for one in found["tally"]["dissent"]] == ["no"]


async def test_a_person_is_asked_with_the_choices_and_decides(room: Room) -> None:
    booth = await opened(room, 2, {**MAJORITY, "conflictResolution": "human"})
    booth.cast("a", "b")
    state = booth.owner.state
    ((key, request),) = state.tasks[booth.task].requests.items()
    form = msgspec.json.decode(bytes(request.request))["params"]
    assert form["requestedSchema"]["properties"]["choice"]["enum"] == ["1", "2"]
    answer = msgspec.Raw(b'{"action":"accept","content":{"choice":"2"}}')
    booth.owner.fold(
        decide.answer_input(state, booth.task, {key: answer}, now_ms=booth.owner.now_ms())
    )
    found = await booth.vote()
    assert (found["decision"], found["method"], found["reached"]) == ("b", "human", False)
    assert [one["choice"] for one in found["tally"]["dissent"]] == ["a"]


async def test_who_was_with_the_decision_gets_a_record(room: Room) -> None:
    booth = await opened(room, 3, MAJORITY)
    booth.cast("a", None, "b")
    booth.cast(None, "a", None)
    assert (await booth.vote())["reached"]
    agents = booth.owner.state.agents
    records = [(agents[name].stats.voted, agents[name].stats.agreed) for name in booth.voters]
    assert records == [(1, 1), (1, 1), (1, 0)]


async def spread(room: Room, phase: dict[str, object], agents: int = 3) -> Booth:
    """A task of one phase over so many agents."""
    types = [{"type": "reviewer", "name": f"r{n}"} for n in range(agents)]
    made = await room.call("swarm_init", topology="mesh", initialAgents=types)
    names = [one["agentId"] for one in made["agents"]]
    task = await room.call(
        "task_orchestrate",
        task={
            "description": "spread",
            "phases": [{"name": "choose", "agents": names, "retryPolicy": "none", **phase}],
        },
    )
    return Booth(room, room.swarms.owners[made["swarmId"]], task["taskId"], names)


async def test_every_item_of_a_fan_out_is_a_vote_of_its_own(room: Room) -> None:
    booth = await spread(
        room,
        {
            "prompt": "Findings?",
            "fanout": {"items": ["a.py", "b.py"]},
            "vote": {**MAJORITY, "equality": {"kind": "items", "keys": ["line"]}},
            "aggregate": "concat",
        },
        agents=2,
    )
    steps = booth.owner.state.tasks[booth.task].steps
    while booth.owner.work():
        step = next(one for one in steps.values() if one.runs)
        own = [{"line": 9}] if step.runs[0].agent == booth.voters[0] else []
        booth.owner.finish(step.runs[0].item, [{"line": step.plan.group + 1}, *own])
    told = await booth.told()
    assert set(told["votes"]["choose"]) == {"0", "1"}
    assert [vote["decision"] for vote in told["votes"]["choose"].values()] == [
        [{"line": 1}],
        [{"line": 2}],
    ]
    assert told["result"] == [{"line": 1}, {"line": 2}]


@pytest.mark.parametrize(
    ("aggregate", "outputs", "result"),
    [
        ("all", [1, 2, 3], [1, 2, 3]),
        ("sum", [1, 2, 3], 6),
        ("median", [5, 1, 3], 3),
        ("union", [[1], [1, 2], [3]], [1, 2, 3]),
        ("majority_vote", ["a", "b", "a"], "a"),
        ({"kind": "best", "pointer": "/n"}, [{"n": 1}, {"n": 3}, {"n": 2}], {"n": 3}),
        ({"kind": "merge", "onConflict": "last"}, [{"a": 1}, {"b": 2}, {"a": 3}], {"a": 3, "b": 2}),
    ],
)  # fmt: skip
async def test_outputs_of_a_phase_become_one(
    room: Room, aggregate: object, outputs: list[object], result: object
) -> None:
    booth = await spread(
        room, {"prompt": "Go", "aggregate": aggregate, "fanout": {"items": [0, 1, 2]}}
    )
    steps = booth.owner.state.tasks[booth.task].steps.values()
    for step, output in zip(list(steps), outputs, strict=True):
        booth.owner.finish(step.runs[0].item, output)
    told = await booth.told()
    assert (told["status"], told["result"]) == ("completed", result)


@pytest.mark.parametrize(
    ("aggregate", "outputs", "why"),
    [
        ("sum", [1, "two", 3], "choose-1: not a number"),
        ("merge", [{"a": 1}, {"a": 2}, {}], "/a: two different values"),
        ("unanimous", [1, 2, 1], "unanimous was not reached: share"),
    ],
)
async def test_outputs_that_do_not_fit_fail_the_phase_by_name(
    room: Room, aggregate: object, outputs: list[object], why: str
) -> None:
    booth = await spread(
        room, {"prompt": "Go", "aggregate": aggregate, "fanout": {"items": [0, 1, 2]}}
    )
    steps = booth.owner.state.tasks[booth.task].steps.values()
    for step, output in zip(list(steps), outputs, strict=True):
        booth.owner.finish(step.runs[0].item, output)
    told = await booth.told()
    assert told["status"] == "failed"
    assert any(why in one["message"] for one in told["failures"]), told["failures"]
