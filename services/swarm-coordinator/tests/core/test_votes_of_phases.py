"""Votes as phases take them: early stop, conflicts, rounds, people, judges, records."""

import msgspec
import pytest
from tests.swarm_world import World, raw, task_of, value_of

from swarm_coordinator.core.spec import (
    Aggregate,
    Coordination,
    Equality,
    Execution,
    Fanout,
    PhaseSpec,
)

ANY = Execution(failure_threshold=1.0)


def voting(fanout: int = 0, **rules: object) -> PhaseSpec:
    return PhaseSpec(
        name="v",
        input=raw({"item": {"$ref": "/item"}} if fanout else {"q": 1}),
        fanout=Fanout(items=raw(list(range(fanout)))) if fanout else None,
        aggregate=Aggregate(kind="all") if fanout else None,
        vote=Coordination(**rules),  # type: ignore[arg-type]
    )


def held(voters: int, **rules: object) -> tuple[World, str]:
    world = World(voters)
    return world, world.submit(task_of(voting(**rules), parallelism=voters, execution=ANY))


def cast(world: World, *choices: object) -> None:
    """Ballots of the voters in order; None = nobody says anything."""
    for item, choice in zip(world.working, choices, strict=False):
        if choice is not None and item not in world.cancelled:
            world.ok(item, {}, ballot=choice)


def test_a_vote_is_decided_early_and_the_rest_is_cancelled() -> None:
    world, task = held(5, voting_mechanism="threshold", consensus_threshold=0.7)
    cast(world, "yes", "yes", "yes")
    assert world.task(task).status == "running"
    cast(world, "yes")
    assert world.result_of(task) == "yes"
    vote = world.task(task).phases["v"].votes["0"]
    assert (vote.reached, vote.early, vote.method, vote.rounds) == (True, True, "threshold", 1)
    assert len(world.cancelled) == 1
    assert world.task(task).steps["v-4"].status == "cancelled"


@pytest.mark.parametrize(
    ("rules", "choices", "result"),
    [
        ({"voting_mechanism": "majority"}, ["a", "b", "a"], "a"),
        ({"voting_mechanism": "unanimous"}, ["a", "a", "a"], "a"),
        ({"voting_mechanism": "unanimous"}, ["a", "a", "b"], None),
        ({"voting_mechanism": "quorum", "quorum_size": 2}, ["a", "b", "b"], "b"),
        ({"voting_mechanism": "majority"}, ["a", "b", "c"], None),
    ],
)
def test_a_vote_ends_as_its_rule_says(
    rules: dict[str, object], choices: list[str], result: str | None
) -> None:
    world, task = held(3, **rules)
    cast(world, *choices)
    if result is None:
        assert (world.task(task).status, world.task(task).reason) == ("failed", "vote")
        assert world.task(task).phases["v"].votes["0"].reached is False
    else:
        assert world.result_of(task) == result


def test_dissent_is_kept_and_the_record_of_voters_too() -> None:
    world, task = held(3)
    cast(world, "a", "b", "a")
    tally = msgspec.json.decode(world.task(task).phases["v"].votes["0"].tally)
    assert [one["voter"] for one in tally["dissent"]] == ["agent_02"]
    assert [(a.stats.voted, a.stats.agreed) for a in world.state.agents.values()] == [
        (1, 1), (1, 0), (1, 1),
    ]  # fmt: skip


def test_a_lost_voter_is_absent_and_unanimity_needs_everybody() -> None:
    world, task = held(3, voting_mechanism="unanimous")
    cast(world, "a", "a")
    world.lose("agent_03")
    world.wait(60_000)
    assert world.task(task).reason == "vote"
    assert world.task(task).steps["v-2"].status == "failed"


def test_voters_see_the_other_ballots_and_vote_again_at_most_twice() -> None:
    world, task = held(2, conflict_resolution="revote")
    for round_ in (1, 2, 3):
        vote = world.task(task).phases["v"].votes.get("0")
        assert round_ == (vote.rounds if vote else 1)
        if round_ > 1:
            shown = msgspec.json.decode(world.sent[world.working[0]][1].payload)["revote"]
            assert [one["choice"] for one in shown["choices"]] == ["a", "b"]
        cast(world, "a", "b")
    assert world.task(task).reason == "vote"
    assert len(world.sent) == 6


def test_a_second_round_may_agree() -> None:
    world, task = held(2, conflict_resolution="revote")
    cast(world, "a", "b")
    cast(world, "b", "b")
    assert world.result_of(task) == "b"
    vote = world.task(task).phases["v"].votes["0"]
    assert (vote.reached, vote.rounds) == (True, 2)


def test_an_expert_decides_and_the_vote_still_says_that_it_was_not_reached() -> None:
    world = World()
    world.agent("plain")
    world.agent("expert", capabilities=("law",))
    phase = voting(conflict_resolution="expert_priority")
    task = world.submit(
        task_of(phase, parallelism=2, required_capabilities=("law",), execution=ANY)
    )
    for item in world.working:
        world.ok(item, {}, ballot=world.sent[item][1].agent)
    assert world.result_of(task) == "expert"
    vote = world.task(task).phases["v"].votes["0"]
    assert (vote.reached, vote.method) == (False, "expert_priority")


def test_a_coordinator_decides_among_the_choices() -> None:
    world = World(2)
    world.agent("chief", type="coordinator")
    phase = PhaseSpec(
        name="v",
        agents=("function",),
        input=raw({"q": 1}),
        vote=Coordination(conflict_resolution="coordinator_decides"),
    )
    task = world.submit(task_of(phase, parallelism=2, execution=ANY))
    cast(world, "a", "b")
    (item,) = world.working
    assert world.sent[item][1].agent == "chief"
    world.ok(item, {"choice": 2})
    assert world.result_of(task) == "b"
    assert world.task(task).phases["v"].votes["0"].method == "coordinator_decides"


def test_without_a_coordinator_nobody_decides() -> None:
    world, task = held(2, conflict_resolution="coordinator_decides")
    cast(world, "a", "b")
    assert world.task(task).reason == "vote"
    assert "no coordinator" in world.task(task).message


def test_a_person_decides_and_an_answer_that_is_no_choice_is_refused() -> None:
    world, task = held(2, conflict_resolution="human")
    cast(world, "a", "b")
    assert world.task(task).status == "waiting"
    with pytest.raises(Exception, match="expected one of the 2 choices"):
        world.answer(task, v={"action": "accept", "content": {"choice": "7"}})
    assert world.task(task).status == "waiting"
    world.answer(task, v={"action": "accept", "content": {"choice": "2"}})
    assert world.result_of(task) == "b"
    assert world.task(task).phases["v"].votes["0"].method == "human"


def test_a_person_who_declines_leaves_it_undecided() -> None:
    world, task = held(2, conflict_resolution="human")
    cast(world, "a", "b")
    world.answer(task, v={"action": "decline"})
    assert world.task(task).reason == "vote"


def test_each_item_of_a_fanout_has_a_vote_of_its_own() -> None:
    world = World(3)
    task = world.submit(task_of(voting(fanout=4), parallelism=3, execution=ANY))
    while world.working:
        item = world.working[0]
        world.ok(item, {}, ballot=world.sent[item][1].step.split("-")[1].split("v")[0])
    assert world.result_of(task) == ["0", "1", "2", "3"]
    assert set(world.task(task).phases["v"].votes) == {"0", "1", "2", "3"}


def test_a_judge_says_which_choices_are_the_same() -> None:
    world = World(3)
    world.agent("judge", type="coordinator")
    phase = PhaseSpec(
        name="v",
        agents=("function",),
        input=raw({"q": 1}),
        vote=Coordination(equality=Equality(kind="judge", agent="judge")),
    )
    task = world.submit(task_of(phase, parallelism=3, execution=ANY))
    cast(world, "big", "large", "small")
    (item,) = world.working
    assert world.sent[item][1].agent == "judge"
    world.ok(item, {"groups": [[1, 2], [3]]})
    assert world.result_of(task) == "big"


def test_a_vote_over_outputs_is_kept_with_the_phase() -> None:
    world = World(3)
    task = world.submit(
        task_of(
            parallelism=3, input=raw({"q": 1}),
            execution=Execution(aggregate=Aggregate(kind="majority_vote")),
        )
    )  # fmt: skip
    for item, choice in zip(world.working, ["x", "y", "x"], strict=True):
        world.ok(item, choice)
    assert value_of(world.task(task).result) == "x"
