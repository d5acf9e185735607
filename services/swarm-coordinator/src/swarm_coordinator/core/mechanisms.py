"""The rules by which a choice wins, and whether ballots that are still out could change that.

Everything is whole numbers, so that ``>= 0.7`` of ten equal voices is seven of them, always.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from swarm_coordinator.core.spec import Coordination

__all__ = [
    "Judged",
    "Reason",
    "Standing",
    "Table",
    "quorum_size",
    "reach",
    "stand",
    "threshold_of",
    "took_part",
]

Reason = Literal["", "open", "participation", "no_ballots", "tie", "share", "absent", "judge"]
"""Why no choice has won: ``open`` = ballots are out that decide; "" = one has."""

_SCALE = 1_000_000_000


class Standing(msgspec.Struct, frozen=True):
    """A choice: weight in millionths, and ballots."""

    units: int = 0
    heads: int = 0


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What is on the table beside the choices.

    Attributes:
        electorate: voters.
        counted: counted ballots; ``units`` is their weight.
        abstained: voters that abstained.
        outstanding: voters that may still vote; ``outstanding_units`` is their weight.
    """

    electorate: int
    counted: int = 0
    units: int = 0
    abstained: int = 0
    outstanding: int = 0
    outstanding_units: int = 0

    @property
    def present(self) -> int:
        """Voters that voted or abstained."""
        return self.counted + self.abstained


class Judged(msgspec.Struct, frozen=True):
    """``winner``: index of the choice that has won for certain, or None and why not.

    ``fixed``: no ballot that is still out can change it.
    """

    winner: int | None
    reason: Reason
    fixed: bool


def stand(standings: Sequence[Standing], rules: Coordination, table: Table) -> Judged:
    """How a vote stands.

    Args:
        standings: choices.
        rules: mechanism, threshold, quorums. A vote that cannot be reached any more ends early
            only where nothing follows from it (``fail``): other resolutions read every ballot.
        table: the rest.
    """
    certain = _certain(standings, rules, table)
    if certain is not None:
        return Judged(certain, "", fixed=True)
    if table.outstanding:
        possible = rules.conflict_resolution != "fail" or _possible(standings, rules, table)
        if possible:
            return Judged(None, "open", fixed=False)
    return Judged(None, _why(standings, rules, table), fixed=True)


def reach(one: Standing, rules: Coordination, table: Table) -> Reason:
    """Why a choice that has no rival is not accepted, after all have voted; "" = it is.

    For items: who did not list one has not voted for another. So half of the voters, or two of
    them, are enough where the rule says so, however many did not.
    """
    if not table.counted:
        return "no_ballots"
    if not _participation(table.present, rules, table.electorate):
        return "participation"
    if rules.voting_mechanism == "quorum":
        enough = one.heads >= quorum_size(rules, table.electorate)
    elif rules.voting_mechanism == "unanimous":
        enough = 0 < one.heads == table.counted
        if enough and table.present < table.electorate:
            return "absent"
    else:
        enough = _share(one.units, table.units, rules)
    return "" if enough else "share"


def _certain(standings: Sequence[Standing], rules: Coordination, table: Table) -> int | None:
    """The choice that wins whatever those who are out do.

    The worst they can do is to stay away (for participation) or to vote for one rival together.
    """
    if not standings or not _participation(table.present, rules, table.electorate):
        return None
    if rules.voting_mechanism == "unanimous":
        alone = len(standings) == 1 and table.present == table.electorate
        return 0 if alone else None
    heads = rules.voting_mechanism == "quorum"
    ranks = [one.heads if heads else one.units for one in standings]
    best = max(range(len(ranks)), key=ranks.__getitem__)
    rival = max((rank for index, rank in enumerate(ranks) if index != best), default=0)
    swing = table.outstanding if heads else table.outstanding_units
    if ranks[best] <= rival + swing:
        return None
    if heads:
        return best if ranks[best] >= quorum_size(rules, table.electorate) else None
    return best if _share(ranks[best], table.units + swing, rules) else None


def _possible(standings: Sequence[Standing], rules: Coordination, table: Table) -> bool:
    """Whether any choice, also one nobody has made yet, can still win."""
    out = table.outstanding
    if not _participation(table.present + out, rules, table.electorate):
        return False
    if rules.voting_mechanism == "unanimous":
        return len(standings) <= 1 and table.present + out == table.electorate
    heads = rules.voting_mechanism == "quorum"
    swing = out if heads else table.outstanding_units
    ranks = [one.heads if heads else one.units for one in standings] + [0]
    needed = quorum_size(rules, table.electorate)
    for index, rank in enumerate(ranks):
        rival = max((other for at, other in enumerate(ranks) if at != index), default=0)
        reached = rank + swing
        enough = reached >= needed if heads else _share(reached, table.units + swing, rules)
        if enough and reached > rival:
            return True
    return False


def _why(standings: Sequence[Standing], rules: Coordination, table: Table) -> Reason:
    if not standings:
        return "no_ballots"
    if not _participation(table.present, rules, table.electorate):
        return "participation"
    if rules.voting_mechanism == "unanimous" and len(standings) == 1:
        return "absent"
    heads = rules.voting_mechanism == "quorum"
    ranks = sorted((one.heads if heads else one.units for one in standings), reverse=True)
    return "tie" if len(ranks) > 1 and ranks[0] == ranks[1] else "share"


def _participation(present: int, rules: Coordination, electorate: int) -> bool:
    """More than ``quorum`` of the electorate; all of it where that is 1."""
    needed = round(rules.quorum * _SCALE)
    if needed >= _SCALE:
        return 0 < electorate <= present
    return present * _SCALE > max(0, needed) * electorate


def _share(units: int, total: int, rules: Coordination) -> bool:
    if not units:
        return False
    if rules.voting_mechanism == "majority":
        return 2 * units > total
    return units * _SCALE >= round(rules.consensus_threshold * _SCALE) * total


def quorum_size(rules: Coordination, electorate: int) -> int:
    """Equal ballots that ``quorum`` needs, by default more than half; 0 = another mechanism."""
    if rules.voting_mechanism != "quorum":
        return 0
    return rules.quorum_size or electorate // 2 + 1


def threshold_of(rules: Coordination) -> float:
    """Share that a choice needs, of ``majority`` more than that; 0 = the mechanism has none."""
    if rules.voting_mechanism in ("threshold", "weighted"):
        return rules.consensus_threshold
    return {"majority": 0.5, "unanimous": 1.0}.get(rules.voting_mechanism, 0.0)


def took_part(table: Table, rules: Coordination) -> bool:
    """Whether enough voted or abstained."""
    return _participation(table.present, rules, table.electorate)
