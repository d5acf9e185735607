"""Votes on results: vote tables, early stop, and that order does not matter."""

from collections.abc import Sequence
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_proto.contracts.swarm import Ballot, WorkResult
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.ballots import Cast, Tally, ballot_of, tally
from swarm_coordinator.core.equality import classes
from swarm_coordinator.core.spec import Coordination, Equality, Mechanism
from swarm_coordinator.core.weights import Voter

VOTERS = tuple(Voter(id=f"v{n}") for n in range(1, 10))


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def cast(voter: str, choice: str, *, confidence: float | None = None, order: int = 0) -> Cast:
    """``-`` abstains, ``!`` is no ballot, anything else is the choice (a word, or JSON)."""
    if choice == "!":
        return Cast(voter=voter, ballot=None, order=order)
    if choice == "-":
        return Cast(voter=voter, ballot=Ballot(abstain=True), order=order)
    value = f'"{choice}"' if choice.isalpha() else choice
    ballot = Ballot(choice=raw(value), confidence=confidence, rationale=f"{voter} says {choice}")
    return Cast(voter=voter, ballot=ballot, order=order)


def rules(mechanism: Mechanism = "majority", **more: object) -> Coordination:
    return Coordination(voting_mechanism=mechanism, **more)  # type: ignore[arg-type]


def count(
    table: str, how: Coordination, weights: Sequence[float] = (), absent: Sequence[str] = ()
) -> Tally:
    """One word per voter; ``.`` has not voted yet, ``x`` never will."""
    words = table.split()
    voters = VOTERS[: len(words)]
    given_weights = dict(zip((one.id for one in voters), weights, strict=False))
    casts = [
        cast(voter.id, word)
        for voter, word in zip(voters, words, strict=True)
        if word not in (".", "x")
    ]
    gone = [voter.id for voter, word in zip(voters, words, strict=True) if word == "x"]
    return tally(casts, how, voters, given_weights, absent=[*gone, *absent])


def decision(result: Tally) -> str | None:
    data = bytes(result.decision)
    return str(msgspec.json.decode(data)) if data else None


# Tables: ballots, mechanism and its numbers, decision, reason

FULL = [
    ("a a b", rules(), "a", ""),
    ("a a b b", rules(), None, "tie"),
    ("a b c", rules(), None, "tie"),
    ("a a b c", rules(), None, "share"),
    ("a a a b b", rules(), "a", ""),
    ("a a - -", rules(), "a", ""),
    ("a a - b", rules(), "a", ""),
    ("- - -", rules(), None, "no_ballots"),
    ("x x x", rules(), None, "no_ballots"),
    ("a a x x", rules(), None, "participation"),
    ("a - x x", rules(), None, "participation"),
    ("a a - x x", rules(), "a", ""),
    ("a x x", rules(quorum=0.0), "a", ""),
    ("a a x", rules(quorum=1.0), None, "participation"),
    ("a a -", rules(quorum=1.0), "a", ""),
    ("a", rules(quorum=1.0), "a", ""),
    ("a", rules(), "a", ""),
    ("a ! !", rules(), None, "participation"),
    ("a a !", rules(), "a", ""),
    ("a a a a b", rules("threshold"), "a", ""),
    ("a a b", rules("threshold"), None, "share"),
    ("a a a b b b", rules("threshold", consensus_threshold=0.5), None, "tie"),
    ("a a a b b c", rules("threshold", consensus_threshold=0.5), "a", ""),
    ("a a a b b b c c", rules("threshold", consensus_threshold=0.3), None, "tie"),
    ("a b", rules("threshold", consensus_threshold=0.0), None, "tie"),
    ("a a a", rules("unanimous"), "a", ""),
    ("a a -", rules("unanimous"), "a", ""),
    ("a a x", rules("unanimous"), None, "absent"),
    ("a a !", rules("unanimous"), None, "absent"),
    ("a a b", rules("unanimous"), None, "share"),
    ("- - -", rules("unanimous"), None, "no_ballots"),
    ("a a a b b", rules("quorum"), "a", ""),
    ("a a b b c", rules("quorum"), None, "tie"),
    ("a a b b c", rules("quorum", quorum_size=2), None, "tie"),
    ("a a b c d", rules("quorum", quorum_size=2), "a", ""),
    ("a a b c d", rules("quorum", quorum_size=3), None, "share"),
    ("a a x x x", rules("quorum", quorum_size=2), None, "participation"),
]


@pytest.mark.parametrize(("table", "how", "wanted", "reason"), FULL)
def test_a_full_count_decides_by_the_rule(
    table: str, how: Coordination, wanted: str | None, reason: str
) -> None:
    result = count(table, how)
    assert (decision(result), result.reason) == (wanted, reason)
    assert result.reached is (wanted is not None)
    assert result.fixed
    assert not result.early


def test_seven_of_ten_are_seven_tenths() -> None:
    voters = tuple(Voter(id=str(n)) for n in range(10))
    casts = [cast(str(n), "a" if n < 7 else "b") for n in range(10)]
    assert tally(casts, rules("threshold"), voters, {}).reached
    for threshold, needed in [(0.1, 1), (0.2, 2), (0.3, 3), (0.6, 6), (0.7, 7), (0.9, 9)]:
        for most in range(6, 10):
            casts = [cast(str(n), "a" if n < most else f'"b{n}"') for n in range(10)]
            how = rules("threshold", consensus_threshold=threshold)
            assert tally(casts, how, voters, {}).reached is (most >= needed)


EARLY = [
    # 5 equal voters, 0.7: decided at the fourth ballot
    ("a a a . .", rules("threshold"), None, False),
    ("a a a a .", rules("threshold"), "a", True),
    ("a a a . .", rules(), "a", True),
    ("a a . . .", rules(), None, False),
    ("a a . .", rules(), None, False),
    ("a a a . .", rules(quorum=0.6), None, False),
    ("a a a - . . .", rules(), None, False),
    ("a a a a . . .", rules(), "a", True),
    ("a a a . .", rules("quorum"), "a", True),
    ("a a . . .", rules("quorum", quorum_size=2), None, False),
    ("a a a a .", rules("unanimous"), None, False),
    # cannot be reached any more
    ("a b . .", rules("unanimous"), None, True),
    ("a x . .", rules("unanimous"), None, True),
    ("a ! . .", rules("unanimous"), None, True),
    ("a - . .", rules("unanimous"), None, False),
    ("a a b b .", rules("threshold"), None, True),
    ("a a b . .", rules("threshold"), None, False),
    ("a b c .", rules(), None, True),
    ("a b . .", rules(), None, False),
    ("x x x . .", rules(), None, True),
    ("x x . . .", rules(), None, False),
    ("a b c d . .", rules("quorum"), None, True),
    # … but who resolves conflicts wants to read every ballot
    ("a b . .", rules("unanimous", conflict_resolution="expert_priority"), None, False),
    ("a b c .", rules(conflict_resolution="revote"), None, False),
    ("a a a . .", rules(conflict_resolution="human"), "a", True),
    # further numbers may move a centre
    ("11 11 11 . .", rules(equality=Equality(kind="numeric", absolute=1)), None, False),
    ("11 11 11 . .", rules(equality=Equality(kind="numeric")), "11", True),
]


@pytest.mark.parametrize(("table", "how", "wanted", "fixed"), EARLY)
def test_a_vote_ends_as_soon_as_its_outcome_is_fixed(
    table: str, how: Coordination, wanted: str | None, fixed: bool
) -> None:
    result = count(table, how)
    assert (decision(result), result.fixed, result.early) == (wanted, fixed, fixed)
    assert result.reached is (wanted is not None)
    assert (result.reason == "open") is not fixed


def test_weights_decide_and_are_always_said() -> None:
    result = count("a b b", rules("weighted"), [7, 2, 1])
    assert decision(result) == "a"
    assert result.weights == {"v1": 7.0, "v2": 2.0, "v3": 1.0}
    assert [(one.share, one.weight) for one in result.choices] == [(0.7, 7.0), (0.3, 3.0)]
    assert count("a b b", rules("weighted"), [6.9, 2, 1.1]).reason == "share"
    assert count("a b b", rules(), [1, 0.5, 0.5]).reason == "tie"
    assert count("a b b", rules("quorum"), [7, 2, 1]).reached  # counts ballots
    assert count("a a b", rules()).weights == {"v1": 1.0, "v2": 1.0, "v3": 1.0}


def test_voices_without_weight_reach_nothing() -> None:
    result = count("a a b", rules(), [0, 0, 0])
    assert (result.reached, result.reason) == (False, "tie")
    assert count("a a", rules(), [0, 0]).reason == "share"
    # Who is out has no weight: it cannot break the tie.
    tied = count("a b .", rules("threshold", consensus_threshold=0.5), [1, 1, 0])
    assert (tied.fixed, tied.reason) == (True, "tie")
    assert count("a a b", rules("unanimous"), [1, 1, 0]).reason == "share"


def test_dissent_is_kept_with_who_and_why() -> None:
    casts = [
        cast("v1", "pass", confidence=0.5),
        cast("v2", "pass", confidence=0.8),
        cast("v3", "fail", confidence=0.9),
        cast("v4", "-", confidence=0.0),
    ]
    result = tally(casts, rules(), VOTERS[:5], {"v3": 0.5}, absent=["v5"])
    assert msgspec.json.decode(msgspec.json.encode(result.dissent)) == [
        {
            "voter": "v3",
            "choice": "fail",
            "weight": 0.5,
            "confidence": 0.9,
            "rationale": "v3 says fail",
        }
    ]
    assert (result.abstained, result.absent, result.counted) == (("v4",), ("v5",), 3)
    assert result.choices[0].confidence == pytest.approx(0.65)
    assert [one.choice for one in result.votes] == [0, 0, 1, None]


def test_a_confidence_of_nothing_is_one_and_nonsense_is_unknown() -> None:
    casts = [
        cast("v1", "a", confidence=0.0),
        cast("v2", "a", confidence=1.0),
        cast("v3", "a", confidence=1.5),
        cast("v4", "a", confidence=-0.1),
    ]
    result = tally(casts, rules(), VOTERS[:4], {})
    assert [one.confidence for one in result.votes] == [0.0, 1.0, None, None]
    assert result.choices[0].confidence == 0.5


def test_reached_is_said_also_when_it_is_false() -> None:
    said = msgspec.json.decode(msgspec.json.encode(count("a b", rules())))
    assert said["reached"] is False
    assert said["reason"] == "tie"
    assert "decision" not in said
    assert said["weights"] == {"v1": 1.0, "v2": 1.0}
    assert len(said["choices"]) == 2


def test_a_tally_can_be_stored_and_read_back() -> None:
    for table in ("a b", "a a a . .", "- ! x", "a a b"):
        told = count(table, rules())
        stored = msgspec.json.encode(told)
        assert msgspec.json.encode(msgspec.json.decode(stored, type=Tally)) == stored


def test_a_voter_with_two_seats_has_one_voice() -> None:
    twice = [VOTERS[0], VOTERS[1], VOTERS[0]]
    casts = [cast("v1", "a", order=1), cast("v1", "a", order=2), cast("v2", "b", order=3)]
    result = tally(casts, rules(), twice, {})
    assert (result.electorate, result.reason) == (2, "tie")
    items = rules(equality=Equality(kind="items"))
    casts = [cast("v1", "[1]"), cast("v2", "[]")]
    result = tally(casts, items, twice, {})
    assert result.items is not None
    assert (result.items.rejected[0].competent, result.items.rejected[0].share) == (2, 0.5)


def test_the_first_ballot_of_a_voter_counts_and_strangers_have_none() -> None:
    casts = [
        cast("v1", "b", order=7),
        cast("v1", "a", order=3),
        cast("v2", "a", order=4),
        cast("v9", "b", order=1),
    ]
    result = tally(casts, rules(), VOTERS[:2], {})
    assert decision(result) == "a"
    assert result.uncounted == (("v9", "stranger"), ("v1", "repeated"))


def test_a_ballot_that_cannot_be_read_is_spoiled_and_said_so() -> None:
    how = rules(equality=Equality(kind="numeric"))
    result = count('10 10 10 "many" !', how)
    assert (decision(result), result.counted) == ("10", 3)
    assert [one.spoiled for one in result.votes[3:]] == ["not a number", "it holds no choice"]
    assert not result.outstanding


def test_numbers_are_decided_as_the_one_most_agree_with() -> None:
    how = rules("threshold", equality=Equality(kind="numeric", absolute=0.5))
    result = count("10.1 10.4 10.8 13", how)
    assert (decision(result), result.choices[0].share) == ("10.4", 0.75)
    assert [bytes(one.value) for one in result.votes] == [b"10.1", b"", b"10.8", b""]


def test_a_decision_is_the_field_that_was_voted_on() -> None:
    how = rules(equality=Equality(kind="pointer", pointer="/verdict"))
    result = count('{"verdict":"ok","n":1} {"verdict":"ok","n":2} {"n":3}', how)
    assert decision(result) == "ok"
    assert result.votes[2].spoiled == "/verdict is not there"


def test_a_judge_is_asked_only_when_choices_differ() -> None:
    how = rules(equality=Equality(kind="judge", agent="editor"))
    assert decision(count("a a a", how)) == "a"
    asked = count("a b a", how)
    assert (asked.reason, asked.fixed, asked.reached) == ("judge", False, False)
    assert [one.voters for one in asked.choices] == [("v1", "v3"), ("v2",)]
    casts = [cast("v1", "a"), cast("v2", "b"), cast("v3", "c")]
    judged = tally(casts, how, VOTERS[:3], {}, groups={"v1": 0, "v2": 1, "v3": 0})
    assert (decision(judged), judged.choices[0].voters) == ("a", ("v1", "v3"))
    assert count("a a .", how).reason == "open"


def test_the_oldest_voter_spells_the_decision() -> None:
    how = rules(equality=Equality(kind="text"))
    result = count('"No" "YES" "yes" "Yes!"', how)
    assert not result.reached
    result = count('"No" "YES" "yes" "yes\u0020"', how)
    assert decision(result) == "YES"


def test_an_empty_electorate_reaches_nothing() -> None:
    for mechanism in ("majority", "threshold", "unanimous", "quorum"):
        result = tally([], rules(mechanism), [], {})
        assert (result.reached, result.fixed, result.reason) == (False, True, "no_ballots")


# Properties

mechanisms = st.sampled_from(["majority", "threshold", "weighted", "unanimous", "quorum"])
rule_sets = st.builds(
    Coordination,
    voting_mechanism=mechanisms,
    consensus_threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    quorum=st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]),
    quorum_size=st.integers(0, 4),
    conflict_resolution=st.sampled_from(["fail", "revote"]),
)
words = st.sampled_from(["a", "a", "b", "c", "-", "!", "x"])
weight_lists = st.lists(st.sampled_from([0, 0.1, 0.5, 1, 1, 2.5]), min_size=6, max_size=6)


@given(st.lists(words, min_size=1, max_size=6), rule_sets, weight_lists, st.data())
@settings(max_examples=300, deadline=None)
def test_early_stop_never_differs_from_the_full_count(
    table: list[str], how: Coordination, weights: list[float], data: st.DataObject
) -> None:
    full = count(" ".join(table), how, weights)
    hidden = data.draw(st.sets(st.integers(0, len(table) - 1)))
    partial = [("." if index in hidden else word) for index, word in enumerate(table)]
    early = count(" ".join(partial), how, weights)
    assert full.fixed
    if early.fixed:
        assert (early.reached, decision(early)) == (full.reached, decision(full))
    else:
        assert (early.reached, decision(early), early.reason) == (False, None, "open")


@given(st.lists(words, min_size=1, max_size=4), rule_sets, weight_lists, st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_a_vote_that_is_not_fixed_can_really_end_in_two_ways(
    table: list[str], how: Coordination, weights: list[float], out: int
) -> None:
    how = msgspec.structs.replace(how, conflict_resolution="fail")
    shown = " ".join(table)
    early = count(f"{shown}{' .' * out}", how, weights)
    ends = {
        (full.reached, decision(full))
        for tail in product(["a", "b", "c", "new", "-", "x"], repeat=out)
        for full in [count(f"{shown} {' '.join(tail)}", how, weights)]
    }
    assert (len(ends) == 1) is early.fixed


@given(
    st.lists(st.sampled_from(["10", "10.2", "11", "12", "-", "!"]), min_size=1, max_size=7),
    rule_sets,
    st.sampled_from([Equality(kind="numeric", absolute=0.5), Equality(), Equality(kind="judge")]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_the_order_of_ballots_does_not_matter(
    table: list[str], how: Coordination, equality: Equality, random: object
) -> None:
    how = msgspec.structs.replace(how, equality=equality)
    casts = [cast(f"v{n + 1}", word, order=n) for n, word in enumerate(table)]
    casts += [cast("v1", "99", order=50), cast("nobody", "99", order=60)]
    shuffled = list(casts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    voters = VOTERS[:8]
    one, other = (tally(given, how, voters, {}, absent=["v8"]) for given in (casts, shuffled))
    assert msgspec.json.encode(one) == msgspec.json.encode(other)


@given(st.lists(st.sampled_from(["a", "b", "c", "-"]), min_size=1, max_size=7), rule_sets)
@settings(max_examples=200, deadline=None)
def test_shares_add_up_and_every_ballot_is_accounted_for(
    table: list[str], how: Coordination
) -> None:
    result = count(" ".join(table), how)
    if result.choices:
        assert sum(one.share for one in result.choices) == pytest.approx(1.0)
    assert result.counted + len(result.abstained) == len(table) == len(result.votes)
    if result.reached:
        supporters = next(
            one for one in result.choices if bytes(one.choice) == bytes(result.decision)
        )
        assert len(supporters.voters) + len(result.dissent) == result.counted
        key = classes([bytes(result.decision)], how.equality)
        assert key == [0]


# Where a ballot comes from


@pytest.mark.parametrize(
    ("result", "choice", "abstain", "confidence", "rationale"),
    [
        ({"structured": '{"verdict":0,"confidence":0.9,"rationale":"r"}'}, "0", False, 0.9, "r"),
        ({"structured": '{"findings":[]}', "text": "t"}, '{"findings":[]}', False, None, ""),
        ({"structured": "[1]"}, "[1]", False, None, ""),
        ({"text": 'he "said"'}, '"he \\"said\\""', False, None, ""),
        ({"structured": '{"verdict":null}'}, "null", False, None, ""),
        ({"structured": '{"abstain":true,"rationale":"r"}'}, None, True, None, "r"),
        ({"structured": '{"verdict":1,"confidence":7,"rationale":4}'}, "1", False, None, ""),
        ({"structured": '{"verdict":1,"abstain":"true"}'}, "1", False, None, ""),
        ({"ballot": Ballot(choice=raw("1")), "structured": '{"verdict":2}'}, "1", False, None, ""),
        ({"ballot": Ballot(confidence=0.4), "structured": '{"verdict":2}'}, "2", False, 0.4, ""),
        ({"ballot": Ballot(abstain=True)}, None, True, None, ""),
    ],
)  # fmt: skip
def test_a_ballot_is_read_from_what_an_agent_gave(
    result: dict[str, object],
    choice: str | None,
    abstain: bool,
    confidence: float | None,
    rationale: str,
) -> None:
    members = {k: raw(v) if k == "structured" else v for k, v in result.items()}  # type: ignore[arg-type]
    work = WorkResult(agent="a", epoch=1, item="i", status="ok", **members)  # type: ignore[arg-type]
    found = ballot_of(work)
    assert found is not None
    assert found.abstain is abstain
    if choice is not None:
        assert bytes(found.choice) == choice.encode()
    assert (found.confidence, found.rationale) == (confidence, rationale)


def test_an_agent_that_gave_nothing_has_no_ballot() -> None:
    assert ballot_of(WorkResult(agent="a", epoch=1, item="i", status="ok")) is None


def test_a_long_rationale_is_cut() -> None:
    ballot = Ballot(choice=raw("1"), rationale="x" * 10_000)
    work = WorkResult(agent="a", epoch=1, item="i", status="ok", ballot=ballot)
    found = ballot_of(work)
    assert found is not None
    assert len(found.rationale) == 2_000
    result = tally([Cast(voter="v1", ballot=ballot)], rules(), VOTERS[:1], {})
    assert len(result.votes[0].rationale) == 2_000
    assert bytes(result.decision) == b"1" != bytes(ABSENT)
