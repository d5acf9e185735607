"""Who votes, and how much each voice counts.

Weights are kept as whole millionths, so that shares are exact and do not depend on the order in
which ballots came.
"""

from collections.abc import Mapping, Sequence

import msgspec

from swarm_coordinator.core.spec import Weights

__all__ = [
    "RECORD_VOTES_MIN",
    "UNIT",
    "WEIGHT_MAX",
    "Voter",
    "expertise",
    "units_of",
    "weights_of",
]

UNIT = 1_000_000
"""Parts of a weight of 1."""
WEIGHT_MAX = 1_000.0
"""A voice may count a thousand times as much as another; more is a dictatorship by typing error."""
RECORD_VOTES_MIN = 20
"""Votes before a track record says anything."""
RECORD_LOW, RECORD_HIGH = 0.5, 2.0


class Voter(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A member of an electorate.

    Attributes:
        id: agent; where outputs of steps are compared, the step.
        capabilities: what it declared.
        weight: its own weight, for ``agent``.
        votes: ballots of it that were counted in earlier votes that reached a decision.
        agreement: share of those that agreed with the decision, 0..1.
        joined_ms: when it was spawned; the oldest breaks ties.
    """

    id: str
    capabilities: tuple[str, ...] = ()
    weight: float = 1.0
    votes: int = 0
    agreement: float = 0.0
    joined_ms: int = 0


def expertise(voter: Voter, required: Sequence[str]) -> float:
    """``1 + matched / required``: 1 for a stranger to the subject, 2 for who has it all."""
    wanted = set(required)
    return 1.0 + len(wanted.intersection(voter.capabilities)) / len(wanted) if wanted else 1.0


def weights_of(
    electorate: Sequence[Voter], weights: Weights, required: Sequence[str] = ()
) -> dict[str, float]:
    """Weight of each voter, rounded to millionths.

    Args:
        electorate: the voters.
        weights: ``record`` = twice the share of agreement, from 20 votes on, clipped to 0.5..2.
        required: capabilities of the task, for ``expertise``.
    """
    return {voter.id: _weight(voter, weights, required) for voter in electorate}


def _weight(voter: Voter, weights: Weights, required: Sequence[str]) -> float:
    value = 1.0
    if weights == "agent":
        value = voter.weight
    elif weights == "expertise":
        value = expertise(voter, required)
    elif weights == "record" and voter.votes >= RECORD_VOTES_MIN:
        value = min(RECORD_HIGH, max(RECORD_LOW, 2 * voter.agreement))
    return _units(value) / UNIT


def units_of(electorate: Sequence[Voter], weights: Mapping[str, float]) -> dict[str, int]:
    """Weights of an electorate in millionths; who is not named has 1."""
    return {voter.id: _units(weights.get(voter.id, 1.0)) for voter in electorate}


def _units(weight: float) -> int:
    # Not max and min: those may keep a NaN, which JSON cannot hold but arithmetic can make.
    return round(min(WEIGHT_MAX, weight) * UNIT) if weight > 0 else 0
