"""What follows when a vote reached no decision."""

import json

import msgspec
import pytest

from mcp_proto.contracts.swarm import Ballot
from swarm_coordinator.core.ballots import Cast, Tally, tally
from swarm_coordinator.core.conflicts import (
    AnswerError,
    agreement,
    by_expertise,
    chosen,
    groups_of,
    judge_question,
    person_question,
    question,
    revote_question,
)
from swarm_coordinator.core.spec import Coordination, Equality
from swarm_coordinator.core.votes import with_dissent
from swarm_coordinator.core.weights import Voter

TEAM = (
    Voter(id="old", capabilities=("art",), joined_ms=1),
    Voter(id="mid", capabilities=("python",), joined_ms=2),
    Voter(id="new", capabilities=("python", "sql"), joined_ms=3),
)


def voted(
    choices: dict[str, object], confidence: dict[str, float] | None = None, **rules: object
) -> Tally:
    casts = [
        Cast(
            voter=voter,
            ballot=Ballot(
                choice=msgspec.Raw(json.dumps(choice).encode()),
                confidence=(confidence or {}).get(voter),
                rationale=f"{voter} thinks so",
            ),
        )
        for voter, choice in choices.items()
    ]
    how = Coordination(voting_mechanism="unanimous", **rules)  # type: ignore[arg-type]
    electorate = [voter for voter in TEAM if voter.id in choices]
    return tally(casts, how, electorate, {})


SPLIT = {"old": "a", "mid": "b", "new": "c"}


def test_the_most_expert_voter_decides() -> None:
    found = by_expertise(voted(SPLIT), TEAM, ["python", "sql"])
    assert found is not None
    assert (found.voter, found.choice, found.expertise) == ("new", 2, 2.0)


def test_of_equal_experts_the_surer_choice_wins_and_then_the_oldest_agent() -> None:
    surer = by_expertise(voted(SPLIT, {"old": 0.4, "mid": 0.9}), TEAM, [])
    assert surer is not None
    assert (surer.voter, surer.confidence) == ("mid", 0.9)
    oldest = by_expertise(voted(SPLIT), TEAM, ["python"])
    assert oldest is not None
    assert oldest.voter == "mid"
    assert by_expertise(voted({}), TEAM, ["python"]) is None


def test_what_was_decided_otherwise_keeps_its_dissent_and_is_not_reached() -> None:
    result = with_dissent(voted(SPLIT), 1)
    assert (bytes(result.decision), result.reached) == (b'"b"', False)
    assert [(one.voter, one.rationale) for one in result.dissent] == [
        ("old", "old thinks so"),
        ("new", "new thinks so"),
    ]
    assert agreement(result) == {}


def test_questions_show_the_choices_with_who_is_for_them_and_why() -> None:
    result = voted({"old": {"n": 1}, "mid": {"n": 2}, "new": {"n": 1.0}})
    asked = json.loads(question(result))
    assert asked["why"] == "share"
    assert asked["choices"][0] == {
        "number": 1,
        "choice": {"n": 1},
        "voters": 2,
        "share": 2 / 3,
        "rationales": ["old thinks so", "new thinks so"],
    }
    assert json.loads(revote_question(result, 2))["round"] == 2
    form = json.loads(person_question(result, "phase review"))
    assert form["requestedSchema"]["properties"]["choice"]["enum"] == ["1", "2"]
    assert '1: {"n": 1} (67%, old, new)' in form["message"]
    long = json.loads(person_question(voted({"old": "x" * 2_000}), "it"))
    assert len(long["message"]) < 700


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ('{"choice": 2}', 1),
        ('{"choice": "2"}', 1),
        ('{"n": 2.0}', 1),
        ('{"n": 1}', 0),
        ('{"choice": 3}', None),
        ('{"choice": 0}', None),
        ('{"choice": "two"}', None),
        ("2", None),
        ('"2"', None),
        ("{", None),
        ("[" * 5000, None),
    ],
)
def test_an_answer_names_a_choice_by_value_or_by_number(answer: str, index: int | None) -> None:
    result = voted({"old": {"n": 1}, "mid": {"n": 2}})
    if index is not None:
        assert chosen(result, answer.encode(), Equality()) == index
        return
    with pytest.raises(AnswerError, match="2 choices"):
        chosen(result, answer.encode(), Equality())


def test_an_answer_may_be_the_field_or_hold_it() -> None:
    equality = Equality(kind="pointer", pointer="/v")
    result = voted({"old": {"v": "a"}, "mid": {"v": "b"}}, equality=equality)
    assert chosen(result, b'{"v":"b","why":1}', equality) == 1
    assert chosen(result, b'"b"', equality) == 1


def test_a_judge_says_which_choices_are_one() -> None:
    equality = Equality(kind="judge", agent="editor")
    asked = voted({"old": "yes", "mid": "aye", "new": "no"}, equality=equality)
    assert asked.reason == "judge"
    assert json.loads(judge_question(asked)) == {
        "choices": [
            {"number": 1, "choice": "yes"},
            {"number": 2, "choice": "aye"},
            {"number": 3, "choice": "no"},
        ]
    }
    groups = groups_of(asked, b'{"groups": [[2, 1]]}')
    assert groups["old"] == groups["mid"] != groups["new"]
    for wrong in (b'{"groups": [[4]]}', b'{"groups": [[1],[1]]}', b"[]", b'{"groups": [["1"]]}'):
        with pytest.raises(AnswerError):
            groups_of(asked, wrong)


def test_who_agreed_is_remembered() -> None:
    casts = [
        Cast(voter="old", ballot=Ballot(choice=msgspec.Raw(b"1"))),
        Cast(voter="mid", ballot=Ballot(choice=msgspec.Raw(b"2"))),
        Cast(voter="new", ballot=Ballot(choice=msgspec.Raw(b"1.0"))),
    ]
    result = tally(casts, Coordination(), TEAM, {})
    assert agreement(result) == {"old": True, "mid": False, "new": True}


def test_who_judged_most_items_right_has_agreed() -> None:
    lists = {"old": [1, 2, 3], "mid": [1, 2], "new": [9]}
    casts = [
        Cast(voter=voter, ballot=Ballot(choice=msgspec.Raw(json.dumps(items).encode())))
        for voter, items in lists.items()
    ]
    result = tally(casts, Coordination(equality=Equality(kind="items")), TEAM, {})
    assert json.loads(bytes(result.decision)) == [1, 2]
    assert agreement(result) == {"old": True, "mid": True, "new": False}


def test_who_judged_as_many_items_wrong_as_right_has_not_agreed() -> None:
    lists = {"old": [1, 3], "mid": [1], "new": []}
    casts = [
        Cast(voter=voter, ballot=Ballot(choice=msgspec.Raw(json.dumps(items).encode())))
        for voter, items in lists.items()
    ]
    result = tally(casts, Coordination(equality=Equality(kind="items")), TEAM, {})
    assert json.loads(bytes(result.decision)) == [1]
    assert agreement(result) == {"old": False, "mid": True, "new": False}
