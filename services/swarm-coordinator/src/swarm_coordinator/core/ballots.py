"""Votes on results: which ballots count, which choice wins, and who disagreed and why.

The same ballots give the same tally in any order, and a tally that is ``fixed`` before all have
voted has the outcome of the full count.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import fsum
from typing import Literal

import msgspec

from mcp_proto.contracts.swarm import Ballot
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.ballot_reading import RATIONALE_CHARS_MAX, ballot_of
from swarm_coordinator.core.electorate import Electorate, Listed, item_votes, listed
from swarm_coordinator.core.equality import (
    NotComparableError,
    canonical_key,
    classes,
    is_exact,
    part_of,
)
from swarm_coordinator.core.mechanisms import (
    Judged,
    Standing,
    Table,
    quorum_size,
    stand,
    threshold_of,
    took_part,
)
from swarm_coordinator.core.spec import Coordination
from swarm_coordinator.core.votes import Cast, Choice, Dissent, Tally, Vote, with_dissent
from swarm_coordinator.core.weights import UNIT, Voter, units_of

__all__ = [
    "RATIONALE_CHARS_MAX",
    "Cast",
    "Choice",
    "Dissent",
    "Tally",
    "Vote",
    "ballot_of",
    "tally",
]

SHOWN_BYTES_MAX = 1_024
"""A value that differs from that of its choice (1.01 where 1.0 won) is shown up to this size."""


def tally(
    ballots: Sequence[Cast],
    rules: Coordination,
    electorate: Sequence[Voter],
    weights: Mapping[str, float],
    *,
    absent: Collection[str] = (),
    groups: Mapping[str, int] | None = None,
) -> Tally:
    """Count.

    Args:
        ballots: those that arrived, in any order.
        rules: how the vote is taken.
        electorate: who may vote, oldest first.
        weights: by voter (``weights.weights_of``).
        absent: voters that will send no ballot any more: their step ended otherwise.
        groups: with ``judge``: voter → group of equal choices, as the judge said.

    Returns:
        With ``judge``, all heard, several different choices and no ``groups``: ``reason`` is
        ``judge`` and ``fixed`` false.
    """
    count = _Count(rules, electorate, weights, absent)
    count.take(ballots)
    if rules.equality.kind == "items":
        return count.per_item()
    return count.per_choice(groups)


class _Count:
    """One count: the piles, then the outcome."""

    def __init__(
        self,
        rules: Coordination,
        electorate: Sequence[Voter],
        weights: Mapping[str, float],
        absent: Collection[str],
    ) -> None:
        self._rules = rules
        # One voice each, however many steps somebody has.
        self._voters = list({voter.id: voter for voter in electorate}.values())
        self._units = units_of(electorate, weights)
        self._gone = frozenset(absent)
        self._first: dict[str, Cast] = {}
        self._parts: dict[str, bytes] = {}
        self._listed: dict[str, list[Listed]] = {}
        self._spoiled: dict[str, str] = {}
        self._abstained: list[str] = []
        self._uncounted: list[tuple[str, Literal["repeated", "stranger"]]] = []

    def take(self, ballots: Sequence[Cast]) -> None:
        """Sort the ballots into piles, in the order of the electorate."""
        for cast in sorted(ballots, key=lambda one: (one.order, one.step, one.voter)):
            if cast.voter not in self._units:
                self._uncounted.append((cast.voter, "stranger"))
            elif cast.voter in self._first:
                self._uncounted.append((cast.voter, "repeated"))
            else:
                self._first[cast.voter] = cast
        for voter in self._units:
            cast = self._first.get(voter)
            if cast is None:
                continue
            if cast.ballot is not None and cast.ballot.abstain:
                self._abstained.append(voter)
                continue
            try:
                self._read(voter, cast.ballot)
            except NotComparableError as error:
                self._spoiled[voter] = str(error)

    def _read(self, voter: str, ballot: Ballot | None) -> None:
        equality = self._rules.equality
        if ballot is None or not bytes(ballot.choice):
            raise NotComparableError("it holds no choice")
        part = part_of(bytes(ballot.choice), equality)
        if equality.kind == "items":
            if not self._out():  # else nothing is decided yet, and lists can be long
                self._listed[voter] = listed(part, equality.keys)
        elif equality.kind == "judge":
            canonical_key(part)
        else:
            classes([part], equality)  # one that cannot be read must not spoil the others
        self._parts[voter] = part

    def _table(self) -> Table:
        out = self._out()
        return Table(
            electorate=len(self._units),
            counted=len(self._parts),
            units=self._weigh(self._parts),
            abstained=len(self._abstained),
            outstanding=len(out),
            outstanding_units=self._weigh(out),
        )

    def _out(self) -> tuple[str, ...]:
        silent = (voter for voter in self._units if voter not in self._first)
        return tuple(voter for voter in silent if voter not in self._gone)

    def _weigh(self, voters: Iterable[str]) -> int:
        return sum(self._units[voter] for voter in voters)

    # One choice

    def per_choice(self, groups: Mapping[str, int] | None) -> Tally:
        """Equal ballots together; the heaviest pile wins if it is heavy enough."""
        table = self._table()
        piles, asked = self._piles(groups)
        standings = [Standing(self._weigh(pile), len(pile)) for pile in piles.values()]
        judged = stand(standings, self._rules, table)
        if table.outstanding and not is_exact(self._rules.equality):
            # One more number can move every centre, and one more choice a judge's view.
            judged = Judged(None, "open", fixed=False)
        elif asked:
            judged = Judged(None, "judge", fixed=False)
        choices = [self._choice(shown, pile, table) for shown, pile in piles.items()]
        return self._tally(judged, choices, table)

    def _piles(self, groups: Mapping[str, int] | None) -> tuple[dict[str, list[str]], bool]:
        """Voters by the voter whose choice stands for theirs, heaviest pile first.

        And whether the judge has to say which of the piles are one.
        """
        voters, equality = list(self._parts), self._rules.equality
        if equality.kind == "judge":
            stands_for = self._judged(groups or {})
        else:
            parts, units = list(self._parts.values()), [self._units[voter] for voter in voters]
            stands_for = [voters[index] for index in classes(parts, equality, units)]
        piles: dict[str, list[str]] = {}
        for voter, shown in zip(voters, stands_for, strict=True):
            piles.setdefault(shown, []).append(voter)
        rank = {voter: index for index, voter in enumerate(voters)}

        def heavier(pair: tuple[str, list[str]]) -> tuple[int, int, int]:
            return -self._weigh(pair[1]), -len(pair[1]), rank[pair[1][0]]

        asked = equality.kind == "judge" and groups is None and len(piles) > 1
        return dict(sorted(piles.items(), key=heavier)), asked

    def _judged(self, groups: Mapping[str, int]) -> list[str]:
        keys: dict[str, bytes | int] = {
            voter: groups.get(voter, canonical_key(part)) for voter, part in self._parts.items()
        }
        first: dict[bytes | int, str] = {}
        return [first.setdefault(key, voter) for voter, key in keys.items()]

    def _choice(self, shown: str, pile: Sequence[str], table: Table) -> Choice:
        weight = self._weigh(pile)
        given = [one for voter in pile if (one := self._confidence(voter)) is not None]
        return Choice(
            choice=msgspec.Raw(self._parts[shown]),
            voters=tuple(pile),
            weight=weight / UNIT,
            share=weight / table.units if table.units else 0.0,
            confidence=fsum(given) / len(given) if given else None,
        )

    # Items

    def per_item(self) -> Tally:
        """Each item by itself, once all are in; the decision is the list of accepted ones."""
        table = self._table()
        if table.outstanding:
            return self._tally(Judged(None, "open", fixed=False), [], table)
        items = item_votes(
            self._listed,
            self._rules,
            Electorate(self._voters, self._rules.electorate),
            self._units,
            self._abstained,
        )
        reached = bool(self._listed) and took_part(table, self._rules)
        reason = "" if reached else "participation" if self._listed else "no_ballots"
        # Who has to resolve it chooses among the lists as they were given.
        lists = [] if reached else [self._choice(voter, (voter,), table) for voter in self._listed]
        told = self._tally(Judged(None, reason, fixed=True), lists, table)
        decision = b"[" + b",".join(bytes(one.item) for one in items.accepted) + b"]"
        return msgspec.structs.replace(
            told,
            reached=reached,
            decision=msgspec.Raw(decision) if reached else ABSENT,
            items=items,
        )

    # What is told

    def _confidence(self, voter: str) -> float | None:
        ballot = self._first[voter].ballot
        confidence = ballot.confidence if ballot is not None else None
        return confidence if confidence is not None and 0 <= confidence <= 1 else None

    def _tally(self, judged: Judged, choices: Sequence[Choice], table: Table) -> Tally:
        won = None if judged.winner is None else choices[judged.winner]
        rules = self._rules
        told = Tally(
            reached=won is not None,
            fixed=judged.fixed,
            reason=judged.reason,
            decision=ABSENT if won is None else won.choice,
            mechanism=rules.voting_mechanism,
            equality=rules.equality.kind,
            threshold=threshold_of(rules),
            needed=quorum_size(rules, table.electorate),
            electorate=table.electorate,
            counted=table.counted,
            weights={voter: units / UNIT for voter, units in self._units.items()},
            abstained=tuple(self._abstained),
            absent=tuple(
                voter for voter in self._units if voter in self._gone and voter not in self._first
            ),
            outstanding=self._out(),
            choices=tuple(choices),
            votes=tuple(self._votes(choices)),
            uncounted=tuple(self._uncounted),
        )
        return told if judged.winner is None else with_dissent(told, judged.winner)

    def _votes(self, choices: Sequence[Choice]) -> Iterable[Vote]:
        choice_of = {
            voter: index for index, choice in enumerate(choices) for voter in choice.voters
        }
        for voter in self._units:
            cast = self._first.get(voter)
            if cast is None:
                continue
            index, part = choice_of.get(voter), self._parts.get(voter, b"")
            own = index is not None and part != bytes(choices[index].choice)
            yield Vote(
                voter=voter,
                weight=self._units[voter] / UNIT,
                choice=index,
                value=msgspec.Raw(part) if own and len(part) <= SHOWN_BYTES_MAX else ABSENT,
                confidence=self._confidence(voter),
                abstained=voter in self._abstained,
                spoiled=self._spoiled.get(voter, ""),
                rationale=_rationale(cast),
            )


def _rationale(cast: Cast) -> str:
    return cast.ballot.rationale[:RATIONALE_CHARS_MAX] if cast.ballot is not None else ""
