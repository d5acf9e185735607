"""Votes per item: which findings of many are accepted, each by those who could have seen it.

A list of findings is not one choice. Every element is voted on by itself: who lists it says yes,
who could have listed it and did not says no. Who could have is decided by the class of the item
(``"class"`` in it): without that, two tools of four reject a true finding that only those two can
see.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from swarm_coordinator.core import pointers
from swarm_coordinator.core.equality import NotComparableError, item_key
from swarm_coordinator.core.figures import Exact, exact
from swarm_coordinator.core.mechanisms import Standing, Table, reach
from swarm_coordinator.core.spec import Coordination
from swarm_coordinator.core.weights import Voter

__all__ = [
    "DECLARED",
    "EVERY_CLASS",
    "ITEMS_MAX",
    "Electorate",
    "ItemVote",
    "ItemVotes",
    "Listed",
    "electorate_fault",
    "item_votes",
    "listed",
]

EVERY_CLASS = "*"
"""In an electorate: for classes that are not named. Without it, every voter judges those."""
DECLARED = "declared"
"""As the electorate: a voter is competent for the classes that are among its capabilities."""
CLASS = "class"
"""Member of an item that names its class."""
ITEMS_MAX = 20_000
"""Items in one ballot; a longer list is not looked through."""

_NOBODY = "nobody is competent"

_Capabilities: TypeAlias = str | list[str]
_mapping = msgspec.json.Decoder(dict[str, _Capabilities])
_string = msgspec.json.Decoder(str)
Order: TypeAlias = tuple[tuple[int, Exact | str], ...]


class ItemVote(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One item.

    Attributes:
        item: as the oldest voter for it spells it.
        voters: who listed it and is competent.
        against: competent voters that voted and did not list it.
        competent: how many voters can judge it.
        share: weight of ``voters`` of that of all competent ballots, 0..1.
        reason: why it was not accepted.
        unheard: who listed it and is not competent.
    """

    item: msgspec.Raw
    voters: tuple[str, ...]
    competent: int
    share: float
    against: tuple[str, ...] = ()
    reason: str = ""
    unheard: tuple[str, ...] = ()


class ItemVotes(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All items, ordered by their key fields.

    ``undecided`` are those that too few of the competent voters could judge; they are not accepted.
    """

    accepted: tuple[ItemVote, ...]
    rejected: tuple[ItemVote, ...]
    undecided: tuple[ItemVote, ...]


class Listed(msgspec.Struct, frozen=True, gc=False):
    """An item of one ballot: its key, and its bytes."""

    key: bytes
    item: bytes


def listed(part: bytes, keys: Sequence[str]) -> list[Listed]:
    """The items of a ballot, each once.

    Raises:
        NotComparableError: not an array, too long, or an element cannot be compared.
    """
    try:
        every = pointers.elements(part)
    except pointers.NoSuchPlaceError as error:
        raise NotComparableError(str(error)) from None
    if len(every) > ITEMS_MAX:
        raise NotComparableError(f"more than {ITEMS_MAX} items")
    found: dict[bytes, Listed] = {}
    for raw in every:
        item = bytes(raw)
        key = item_key(item, keys)
        if key not in found:
            found[key] = Listed(key, item)
    return list(found.values())


def _order(one: Listed, keys: Sequence[str]) -> Order:
    """Line 9 before line 10: numbers by value, texts by their characters."""
    fields = [one.item]
    if keys and one.item.lstrip()[:1] == b"{":
        members = pointers.members(one.item)
        fields = [bytes(members.get(name, b"null")) for name in keys]
    return (*map(_rank, fields), (3, one.key.decode()))


def _rank(value: bytes) -> tuple[int, Exact | str]:
    try:
        number = exact(value.strip())
        return (2, _string.decode(value)) if number is None else (1, number)
    except (ValueError, RecursionError):  # no text, or a number with absurdly many digits
        return 0, value.decode("utf-8", "replace")


class Electorate:
    """Who can judge which class of items.

    Args:
        voters: all of them.
        rule: ``Coordination.electorate``.

    Raises:
        ValueError: the rule is not one; see ``electorate_fault``.
    """

    def __init__(self, voters: Sequence[Voter], rule: msgspec.Raw) -> None:
        self._voters = voters
        self._declared, self._classes = _rule(rule)
        self._known: dict[str, tuple[str, ...]] = {}

    def competent(self, item: bytes) -> tuple[str, ...]:
        """Voters that can judge an item, in order of the electorate."""
        name = self._class_of(item) if self._declared or self._classes is not None else ""
        if name not in self._known:
            self._known[name] = self._of_class(name)
        return self._known[name]

    def _class_of(self, item: bytes) -> str:
        try:
            return _string.decode(pointers.members(item).get(CLASS, b'""'))
        except (ValueError, RecursionError):
            return ""

    def _of_class(self, name: str) -> tuple[str, ...]:
        wanted: Collection[str] | None = None
        if self._declared:
            wanted = (name,)
        elif self._classes is not None:
            wanted = self._classes.get(name, self._classes.get(EVERY_CLASS))
        if wanted is None:
            return tuple(voter.id for voter in self._voters)
        return tuple(
            voter.id for voter in self._voters if not set(wanted).isdisjoint(voter.capabilities)
        )


def electorate_fault(rule: msgspec.Raw) -> str:
    """What is wrong with an electorate; "" = nothing. For checks at submit."""
    try:
        _rule(rule)
    except ValueError as error:
        return str(error)
    return ""


def _rule(rule: msgspec.Raw) -> tuple[bool, dict[str, tuple[str, ...]] | None]:
    data = bytes(rule).strip()
    if not data or data == b"null":
        return False, None
    if data == msgspec.json.encode(DECLARED):
        return True, None
    try:
        classes = _mapping.decode(data)
    except (ValueError, RecursionError):
        raise ValueError(
            f'electorate must be "{DECLARED}" or an object: class of items to capabilities'
        ) from None
    return False, {
        name: (given,) if isinstance(given, str) else tuple(given)
        for name, given in classes.items()
    }


def item_votes(
    ballots: Mapping[str, Sequence[Listed]],
    rules: Coordination,
    electorate: Electorate,
    units: Mapping[str, int],
    abstained: Collection[str],
) -> ItemVotes:
    """Decide on every item that any ballot lists, after all ballots are in.

    Args:
        ballots: items by voter, in order of the electorate.
        rules: mechanism, threshold and quorums, applied among the competent voters of each item.
        electorate: who is competent.
        units: weights in millionths.
        abstained: voters that abstained.
    """
    items: dict[bytes, Listed] = {}
    for ballot in ballots.values():
        for one in ballot:
            items.setdefault(one.key, one)
    keys = {voter: {one.key for one in ballot} for voter, ballot in ballots.items()}
    piles: dict[str, list[ItemVote]] = {"accepted": [], "rejected": [], "undecided": []}
    keys_of = rules.equality.keys
    for one in sorted(items.values(), key=lambda item: _order(item, keys_of)):
        pile, vote = _decide(one, keys, rules, electorate.competent(one.item), units, abstained)
        piles[pile].append(vote)
    return ItemVotes(**{name: tuple(pile) for name, pile in piles.items()})


def _decide(
    item: Listed,
    keys: Mapping[str, Collection[bytes]],
    rules: Coordination,
    competent: Sequence[str],
    units: Mapping[str, int],
    abstained: Collection[str],
) -> tuple[Literal["accepted", "rejected", "undecided"], ItemVote]:
    heard = [voter for voter in competent if voter in keys]
    yes = tuple(voter for voter in heard if item.key in keys[voter])
    no = tuple(voter for voter in heard if item.key not in keys[voter])
    total = sum(units[voter] for voter in heard)
    weight = sum(units[voter] for voter in yes)
    table = Table(
        electorate=len(competent),
        counted=len(heard),
        units=total,
        abstained=sum(voter in abstained for voter in competent),
    )
    reason = reach(Standing(weight, len(yes)), rules, table) if competent else _NOBODY
    vote = ItemVote(
        item=msgspec.Raw(item.item),
        voters=yes,
        against=no,
        competent=len(competent),
        share=weight / total if total else 0.0,
        reason=reason,
        unheard=tuple(
            voter for voter in keys if item.key in keys[voter] and voter not in competent
        ),
    )
    if not reason:
        return "accepted", vote
    return ("rejected" if reason == "share" else "undecided"), vote
