"""How much a voice counts."""

import pytest

from swarm_coordinator.core.weights import Voter, expertise, units_of, weights_of


def test_every_voice_counts_the_same_unless_asked_otherwise() -> None:
    voters = [Voter(id="a", weight=5, votes=99, agreement=1.0), Voter(id="b")]
    assert weights_of(voters, "equal") == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("weight", "counts"),
    [(2.5, 2.5), (0, 0), (-3, 0), (1e9, 1000), (float("nan"), 0), (1 / 3, 0.333333)],
)  # fmt: skip
def test_a_weight_of_its_own_is_bounded(weight: float, counts: float) -> None:
    assert weights_of([Voter(id="a", weight=weight)], "agent") == {"a": counts}
    assert units_of([Voter(id="a")], {"a": weight}) == {"a": round(counts * 1_000_000)}


def test_expertise_is_one_and_the_share_of_what_is_required() -> None:
    voter = Voter(id="a", capabilities=("python", "sql", "art"))
    assert expertise(voter, ["python", "sql"]) == 2.0
    assert expertise(voter, ["python", "go", "go"]) == 1.5
    assert expertise(voter, ["go"]) == 1.0
    assert expertise(voter, []) == 1.0
    assert weights_of([voter], "expertise", ["python", "go", "c"]) == {"a": 1.333333}


@pytest.mark.parametrize(
    ("votes", "agreement", "weight"),
    [(19, 1, 1.0), (20, 1, 2.0), (20, 0.5, 1.0), (20, 0.75, 1.5), (500, 0.1, 0.5), (20, 0, 0.5)],
)  # fmt: skip
def test_a_record_counts_from_twenty_votes_on_and_is_clipped(
    votes: int, agreement: float, weight: float
) -> None:
    assert weights_of([Voter(id="a", votes=votes, agreement=agreement)], "record") == {"a": weight}


def test_who_has_no_weight_named_counts_once() -> None:
    assert units_of([Voter(id="a"), Voter(id="b")], {"a": 0.5}) == {"a": 500_000, "b": 1_000_000}
