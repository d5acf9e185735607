"""What a vote leaves behind: ballots as they came, choices, dissent, and how it stands."""

from typing import Literal

import msgspec

from mcp_proto.contracts.swarm import Ballot
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.electorate import ItemVotes
from swarm_coordinator.core.mechanisms import Reason
from swarm_coordinator.core.spec import EqualityName, Mechanism

__all__ = ["Cast", "Choice", "Dissent", "Tally", "Vote", "with_dissent"]


class _Shown(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """JSON, camelCase; what has no default is always said."""


class Cast(_Shown, frozen=True):
    """A ballot as it arrived.

    Attributes:
        voter: ``Voter.id``.
        ballot: what it says; None = what came is no ballot.
        step: in which step.
        order: place in the log; of several ballots of one voter the first counts.
    """

    voter: str
    ballot: Ballot | None
    step: str = ""
    order: int = 0


class Vote(_Shown, frozen=True):
    """What became of one ballot.

    Attributes:
        voter: who.
        choice: index in ``choices``; None = it abstained, or its ballot is spoiled.
        weight: of its voice.
        value: its own value where that differs from its choice's and is small.
        confidence: 0..1, as it said; None = it said nothing, or nonsense.
        abstained: it did not want to choose.
        spoiled: why its ballot could not be read; "" = it could.
        rationale: why it chose so.
    """

    voter: str
    weight: float
    choice: int | None = None
    value: msgspec.Raw = ABSENT
    confidence: float | None = None
    abstained: bool = False
    spoiled: str = ""
    rationale: str = ""


class Choice(_Shown, frozen=True):
    """Ballots that are equal.

    Attributes:
        choice: the compared part, as the oldest voter for it spells it; of numbers the centre.
        voters: in order of the electorate.
        weight: together.
        share: of the weight of all counted ballots, 0..1.
        confidence: mean of those given.
    """

    choice: msgspec.Raw
    voters: tuple[str, ...]
    weight: float
    share: float
    confidence: float | None = None


class Dissent(_Shown, frozen=True):
    """A counted ballot for something else than the decision."""

    voter: str
    choice: msgspec.Raw
    weight: float
    confidence: float | None = None
    rationale: str = ""


class Tally(_Shown, frozen=True):
    """How a vote stands. Everything in it was counted; ``reached`` is always said.

    Attributes:
        reached: a choice has won, or (``items``) enough took part.
        fixed: no ballot that is out can change ``reached`` and ``decision``.
        reason: why no choice has won.
        decision: the winning choice, or the list of accepted items; ``ABSENT`` = none.
        mechanism: rule.
        equality: mode.
        threshold: share needed (of ``majority`` more than it); 0 = none.
        needed: equal ballots needed by ``quorum``; 0 = another mechanism.
        electorate: voters; ``weights`` names each.
        weights: of each voter, by id.
        counted: ballots that count.
        abstained: voters.
        absent: voters that never will vote.
        outstanding: voters that may still.
        choices: heaviest first.
        votes: in order of the electorate.
        dissent: who disagreed with the decision.
        uncounted: ballots that came twice or from strangers, ``voter: reason``.
        items: the votes per item.
    """

    reached: bool
    fixed: bool
    reason: Reason
    mechanism: Mechanism
    equality: EqualityName
    electorate: int
    counted: int
    weights: dict[str, float]
    decision: msgspec.Raw = ABSENT
    threshold: float = 0.0
    needed: int = 0
    abstained: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    outstanding: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    votes: tuple[Vote, ...] = ()
    dissent: tuple[Dissent, ...] = ()
    uncounted: tuple[tuple[str, Literal["repeated", "stranger"]], ...] = ()
    items: ItemVotes | None = None

    @property
    def early(self) -> bool:
        """Decided while voters are out: their work can be cancelled."""
        return self.fixed and bool(self.outstanding)


def with_dissent(tally: Tally, winner: int) -> Tally:
    """The same tally with a decision, and who counted and was for something else.

    Args:
        tally: of choices.
        winner: index of the choice that was decided on, by the rule or otherwise; ``reached``
            stays as it is.
    """
    return msgspec.structs.replace(
        tally,
        decision=tally.choices[winner].choice,
        dissent=tuple(
            Dissent(
                voter=vote.voter,
                choice=tally.choices[vote.choice].choice,
                weight=vote.weight,
                confidence=vote.confidence,
                rationale=vote.rationale,
            )
            for vote in tally.votes
            if vote.choice is not None and vote.choice != winner
        ),
    )
