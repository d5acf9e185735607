"""Votes per item among those who can judge it."""

import json
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_proto.contracts.swarm import Ballot
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.ballots import Cast, Tally, tally
from swarm_coordinator.core.electorate import electorate_fault
from swarm_coordinator.core.spec import Coordination, Equality, Mechanism
from swarm_coordinator.core.weights import Voter

ITEMS = Equality(kind="items", keys=("file", "line", "class"))
TOOLS = (
    Voter(id="ruff", capabilities=("lint", "unused")),
    Voter(id="pyflakes", capabilities=("unused",)),
    Voter(id="pylint", capabilities=("lint", "style")),
    Voter(id="bandit", capabilities=("secrets",)),
)
CLASSES = msgspec.Raw(b'{"F401":["unused"],"W0613":["lint","style"],"S105":"secrets","*":["lint"]}')


def rules(
    mechanism: Mechanism = "threshold", electorate: msgspec.Raw = CLASSES, **more: object
) -> Coordination:
    return Coordination(
        voting_mechanism=mechanism,
        equality=ITEMS,
        electorate=electorate,
        **more,  # type: ignore[arg-type]
    )


def finding(line: int, kind: str, file: str = "a.py", **more: object) -> dict[str, object]:
    return {"file": file, "line": line, "class": kind, **more}


def count(
    found: Mapping[str, Sequence[object] | None],
    how: Coordination,
    weights: Mapping[str, float] | None = None,
    absent: Sequence[str] = (),
) -> Tally:
    """``None`` abstains; who is not named has not voted."""
    casts = [
        Cast(
            voter=voter,
            ballot=Ballot(abstain=items is None, choice=msgspec.Raw(json.dumps(items).encode())),
        )
        for voter, items in found.items()
    ]
    return tally(casts, how, TOOLS, weights or {}, absent=absent)


def lines(result: Tally, pile: str) -> list[int]:
    assert result.items is not None
    return [json.loads(bytes(one.item))["line"] for one in getattr(result.items, pile)]


def test_a_finding_that_two_of_four_tools_can_see_is_accepted_when_both_see_it() -> None:
    seen = finding(3, "F401")
    found = {"ruff": [seen], "pyflakes": [seen], "pylint": [], "bandit": []}
    result = count(found, rules())
    assert json.loads(bytes(result.decision)) == [seen]
    assert result.items is not None
    (vote,) = result.items.accepted
    assert (vote.voters, vote.competent, vote.share) == (("ruff", "pyflakes"), 2, 1.0)
    # Without an electorate the other two reject what they cannot see.
    everybody = count(found, rules(electorate=ABSENT))
    assert json.loads(bytes(everybody.decision)) == []
    assert everybody.items is not None
    assert everybody.items.rejected[0].against == ("pylint", "bandit")
    assert everybody.items.rejected[0].share == 0.5


def test_each_item_is_decided_by_itself_and_told_with_who_was_against() -> None:
    found = {
        "ruff": [finding(1, "F401"), finding(2, "W0613"), finding(4, "E501")],
        "pyflakes": [finding(1, "F401"), finding(9, "S105")],
        "pylint": [finding(2, "W0613"), finding(7, "W0613")],
        "bandit": [finding(5, "S105")],
    }
    result = count(found, rules())
    assert lines(result, "accepted") == [1, 2, 5]
    assert lines(result, "rejected") == [4, 7, 9]
    assert result.items is not None
    by_line = {json.loads(bytes(one.item))["line"]: one for one in result.items.rejected}
    assert (by_line[4].share, by_line[4].against, by_line[4].reason) == (0.5, ("pylint",), "share")
    assert (by_line[7].voters, by_line[7].against) == (("pylint",), ("ruff",))
    # pyflakes cannot judge secrets: its finding is shown, and not counted.
    assert (by_line[9].voters, by_line[9].unheard) == ((), ("pyflakes",))
    assert (result.reached, result.fixed, result.reason) == (True, True, "")


@pytest.mark.parametrize(
    ("mechanism", "more", "yes", "accepted"),
    [
        ("majority", {}, 1, False),
        ("majority", {}, 2, True),
        ("threshold", {"consensus_threshold": 0.7}, 2, False),
        ("threshold", {"consensus_threshold": 0.6}, 2, True),
        ("unanimous", {}, 2, False),
        ("unanimous", {}, 3, True),
        ("quorum", {}, 2, True),
        ("quorum", {"quorum_size": 1}, 1, True),
        ("threshold", {"consensus_threshold": 0.3}, 1, True),
        ("threshold", {"consensus_threshold": 0.3}, 0, False),
        ("quorum", {"quorum_size": 3}, 2, False),
    ],
)
def test_the_mechanism_is_applied_among_the_competent(
    mechanism: Mechanism, more: dict[str, object], yes: int, accepted: bool
) -> None:
    voters = ("ruff", "pyflakes", "pylint")
    everybody = msgspec.Raw(b'{"X":["lint","unused"]}')
    found = {voter: [finding(1, "X")] if index < yes else [] for index, voter in enumerate(voters)}
    result = count({**found, "bandit": []}, rules(mechanism, everybody, **more))
    assert lines(result, "accepted") == ([1] if accepted else [])


def test_items_that_too_few_could_judge_are_undecided_and_not_accepted() -> None:
    found = {"ruff": [finding(1, "F401"), finding(2, "E501")], "bandit": [], "pylint": None}
    result = count(found, rules(), absent=["pyflakes"])
    assert lines(result, "accepted") == [2]  # ruff and, abstaining, pylint
    assert lines(result, "undecided") == [1]  # one of two: not more than half
    assert result.items is not None
    assert result.items.undecided[0].reason == "participation"
    assert result.reached
    assert result.absent == ("pyflakes",)


def test_an_item_of_a_class_that_nobody_knows_is_undecided() -> None:
    how = rules(electorate=msgspec.Raw(b'{"S999":["quantum"]}'))
    result = count({voter.id: [finding(1, "S999")] for voter in TOOLS}, how)
    assert lines(result, "undecided") == [1]
    assert result.items is not None
    assert result.items.undecided[0].reason == "nobody is competent"
    assert len(result.items.undecided[0].unheard) == 4
    assert result.items.undecided[0].share == 0


def test_a_class_that_is_not_named_is_judged_by_everybody_unless_a_star_says_who() -> None:
    found = {
        "ruff": [finding(1, "NEW")],
        "pylint": [finding(1, "NEW")],
        "pyflakes": [],
        "bandit": [],
    }
    star = count(found, rules())
    assert lines(star, "accepted") == [1]
    everybody = count(found, rules(electorate=msgspec.Raw(b'{"F401":["unused"]}')))
    assert lines(everybody, "rejected") == [1]


def test_voters_may_declare_their_classes_themselves() -> None:
    voters = (Voter(id="a", capabilities=("F401",)), Voter(id="b", capabilities=("S105",)))
    casts = [
        Cast(voter="a", ballot=Ballot(choice=msgspec.Raw(b'[{"line":1,"class":"F401"}]'))),
        Cast(voter="b", ballot=Ballot(choice=msgspec.Raw(b"[]"))),
    ]
    how = Coordination(equality=ITEMS, electorate=msgspec.Raw(b'"declared"'))
    result = tally(casts, how, voters, {})
    assert lines(result, "accepted") == [1]


def test_weights_count_per_item() -> None:
    found = {"ruff": [finding(1, "E501")], "pylint": [], "pyflakes": [], "bandit": []}
    assert lines(count(found, rules("weighted"), {"ruff": 3.0}), "accepted") == [1]
    assert lines(count(found, rules("weighted"), {"ruff": 2.0}), "accepted") == []


def test_a_vote_on_items_waits_for_all_and_tells_when_too_few_took_part() -> None:
    waiting = count({"ruff": [], "pyflakes": [], "pylint": []}, rules())
    assert (waiting.fixed, waiting.reason, waiting.items) == (False, "open", None)
    few = count(
        {"ruff": [finding(1, "E501")], "bandit": []}, rules(), absent=["pylint", "pyflakes"]
    )
    assert (few.reached, few.fixed, few.reason) == (False, True, "participation")
    assert bytes(few.decision) == b""
    assert [one.voters for one in few.choices] == [("ruff",), ("bandit",)]
    nobody = count({}, rules(), absent=[voter.id for voter in TOOLS])
    assert (nobody.reached, nobody.reason) == (False, "no_ballots")


def test_items_are_ordered_by_their_keys_and_numbers_by_value() -> None:
    how = Coordination(equality=Equality(kind="items", keys=("file", "line")))
    found = [
        finding(10, "x"),
        finding(9, "x"),
        finding(2, "x", file="b.py"),
        {"file": "a.py"},
        finding(9, "x"),
    ]
    result = count({voter.id: found for voter in TOOLS}, how)
    placed = [(one["file"], one.get("line")) for one in json.loads(bytes(result.decision))]
    assert placed == [("a.py", None), ("a.py", 9), ("a.py", 10), ("b.py", 2)]


def test_items_of_any_form_are_ordered_and_kept_apart() -> None:
    long = "0." + "1" * 500
    keyed = f'{{"line":1}},{{"line":[1]}},{{"line":{long}}}'
    text = f'[{long},"b",[1],{keyed},null,-2e-999,"a",true,[1.0]]'
    casts = [Cast(voter=one.id, ballot=Ballot(choice=msgspec.Raw(text.encode()))) for one in TOOLS]
    how = Coordination(equality=Equality(kind="items", keys=("line",)))
    result = tally(casts, how, TOOLS, {})
    assert result.items is not None
    assert len(result.items.accepted) == 10
    assert bytes(result.decision).count(long.encode()) == 2


def test_an_item_is_spelled_as_by_the_oldest_voter_and_keeps_its_bytes() -> None:
    casts = [
        Cast(voter="pyflakes", ballot=Ballot(choice=msgspec.Raw(b'[{"line":7.0,"m":1.10}]'))),
        Cast(voter="ruff", ballot=Ballot(choice=msgspec.Raw(b'[{"m":9007199254740993,"line":7}]'))),
        Cast(voter="pylint", ballot=Ballot(choice=msgspec.Raw(b'[{"line":7}]'))),
        Cast(voter="bandit", ballot=Ballot(abstain=True)),
    ]
    how = Coordination(equality=Equality(kind="items", keys=("line",)))
    result = tally(casts, how, TOOLS, {})
    assert bytes(result.decision) == b'[{"m":9007199254740993,"line":7}]'


def test_a_ballot_that_is_no_list_is_spoiled() -> None:
    casts = [
        Cast(voter="ruff", ballot=Ballot(choice=msgspec.Raw(b'{"findings":[{"line":1}]}'))),
        Cast(voter="pyflakes", ballot=Ballot(choice=msgspec.Raw(b'{"findings":{}}'))),
        Cast(voter="pylint", ballot=Ballot(choice=msgspec.Raw(b'{"findings":[1e999]}'))),
        Cast(voter="bandit", ballot=Ballot(choice=msgspec.Raw(b'{"findings":[{"line":1}]}'))),
    ]
    equality = Equality(kind="items", pointer="/findings", keys=("line",))
    result = tally(casts, Coordination(equality=equality, quorum=0.4), TOOLS, {})
    assert [bool(one.spoiled) for one in result.votes] == [False, True, True, False]
    assert json.loads(bytes(result.decision)) == [{"line": 1}]


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (b"", False),
        (b"null", False),
        (b'"declared"', False),
        (b'{"F":["a"],"G":"b"}', False),
        (b'"others"', True),
        (b'{"F":1}', True),
        (b"[]", True),
        (b'{"F":[1]}', True),
    ],
)
def test_an_electorate_is_checked(rule: bytes, fault: bool) -> None:
    assert bool(electorate_fault(msgspec.Raw(rule))) is fault


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["F401", "W0613", "S105", "X"]))),
        min_size=4,
        max_size=4,
    ),
    st.sampled_from(["majority", "threshold", "unanimous", "quorum"]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_every_item_lands_on_one_pile_whatever_the_order(
    lists: list[list[tuple[int, str]]], mechanism: Mechanism, random: object
) -> None:
    found = {
        voter.id: [finding(*one) for one in some] for voter, some in zip(TOOLS, lists, strict=True)
    }
    shuffled = list(found.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = count(found, rules(mechanism)), count(dict(shuffled), rules(mechanism))
    assert msgspec.json.encode(one) == msgspec.json.encode(other)
    assert one.items is not None
    piles = [one.items.accepted, one.items.rejected, one.items.undecided]
    placed = [bytes(vote.item) for pile in piles for vote in pile]
    wanted = {place for some in lists for place in some}
    assert len(placed) == len(set(placed)) == len(wanted)
    for vote in one.items.accepted:
        assert vote.voters
        assert mechanism == "quorum" or vote.share > 0.5
