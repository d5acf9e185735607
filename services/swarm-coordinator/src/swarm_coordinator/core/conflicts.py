"""What follows when a vote reached no decision, and what the voters' records say afterwards.

``expert_priority`` is decided here. The coordinator, a person, a judge and the voters themselves
are asked: this module writes the question and reads the answer. Nothing of it changes ``reached``.
"""

from collections.abc import Sequence

import msgspec

from swarm_coordinator.core.equality import NotComparableError, classes, part_of
from swarm_coordinator.core.spec import Equality
from swarm_coordinator.core.votes import Choice, Tally
from swarm_coordinator.core.weights import Voter, expertise

__all__ = [
    "AnswerError",
    "Expert",
    "agreement",
    "by_expertise",
    "chosen",
    "groups_of",
    "judge_question",
    "person_question",
    "question",
    "revote_question",
]

SHOWN_CHARS_MAX = 500
"""Of a choice in the text that a person reads."""


class AnswerError(ValueError):
    """The answer names no choice; public text."""


class Expert(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Whose choice it became, and by what.

    Attributes:
        choice: index in ``Tally.choices``.
        voter: the most expert voter for it.
        expertise: 1 + matched / required capabilities of the task.
        confidence: mean of the choice's voters; None = none gave one.
    """

    choice: int
    voter: str
    expertise: float
    confidence: float | None


def by_expertise(
    tally: Tally, electorate: Sequence[Voter], required: Sequence[str]
) -> Expert | None:
    """``expert_priority``: the choice of the most expert voter.

    Of choices with equal experts the one with the higher mean confidence (none counts as 0), then
    that of the oldest agent.

    Args:
        tally: of a vote that reached nothing.
        electorate: its voters.
        required: capabilities of the task.

    Returns:
        None without any counted ballot.
    """
    voters = {voter.id: voter for voter in electorate}
    rank = {voter.id: index for index, voter in enumerate(electorate)}
    best: tuple[tuple[float, float, int, int], Expert] | None = None
    for index, choice in enumerate(tally.choices):
        for name in choice.voters:
            skill = expertise(voters[name], required)
            place = (-skill, -(choice.confidence or 0.0), voters[name].joined_ms, rank[name])
            if best is None or place < best[0]:
                best = (
                    place,
                    Expert(choice=index, voter=name, expertise=skill, confidence=choice.confidence),
                )
    return None if best is None else best[1]


# Questions


class _Option(msgspec.Struct, frozen=True, omit_defaults=True):
    number: int
    choice: msgspec.Raw
    voters: int
    share: float
    confidence: float | None = None
    rationales: tuple[str, ...] = ()


class _Question(msgspec.Struct, frozen=True):
    why: str
    choices: tuple[_Option, ...]


def question(tally: Tally) -> bytes:
    """For the coordinator: ``{why, choices: [{number, choice, voters, share, …}]}``.

    The answer is one of the choices, or its number as ``{"choice": 2}``.
    """
    options = tuple(_option(tally, index, one) for index, one in enumerate(tally.choices))
    return msgspec.json.encode(_Question(tally.reason, options))


def revote_question(tally: Tally, round_: int) -> bytes:
    """For the voters: the same with ``round``; they see what others chose and why."""
    options = [_option(tally, index, one) for index, one in enumerate(tally.choices)]
    return msgspec.json.encode({"round": round_, "why": tally.reason, "choices": options})


def _option(tally: Tally, index: int, choice: Choice) -> _Option:
    return _Option(
        number=index + 1,
        choice=choice.choice,
        voters=len(choice.voters),
        share=choice.share,
        confidence=choice.confidence,
        rationales=tuple(
            vote.rationale for vote in tally.votes if vote.choice == index and vote.rationale
        ),
    )


def person_question(tally: Tally, about: str) -> bytes:
    """Params of an MCP elicitation (form): one field ``choice``, the number of a choice.

    Args:
        tally: of a vote that reached nothing.
        about: what was voted on, for people.
    """
    lines = [f"The vote on {about} reached no decision ({tally.reason}). Choose:"]
    for index, choice in enumerate(tally.choices):
        shown = bytes(choice.choice).decode("utf-8", "replace")
        if len(shown) > SHOWN_CHARS_MAX:
            shown = shown[:SHOWN_CHARS_MAX] + "…"
        lines.append(f"{index + 1}: {shown} ({choice.share:.0%}, {', '.join(choice.voters)})")
    numbers = [str(index + 1) for index in range(len(tally.choices))]
    field = {"type": "string", "title": "Choice", "enum": numbers}
    schema = {"type": "object", "properties": {"choice": field}, "required": ["choice"]}
    return msgspec.json.encode({"message": "\n".join(lines), "requestedSchema": schema})


def judge_question(tally: Tally) -> bytes:
    """For the judge: ``{choices: [{number, choice}]}``, each choice once.

    The answer is ``{"groups": [[1, 3], [2]]}``: numbers of choices that mean the same.
    """
    options = [
        {"number": index + 1, "choice": one.choice} for index, one in enumerate(tally.choices)
    ]
    return msgspec.json.encode({"choices": options})


# Answers


class _Numbered(msgspec.Struct, frozen=True):
    choice: int | str


class _Groups(msgspec.Struct, frozen=True):
    groups: tuple[tuple[int, ...], ...]


_numbered = msgspec.json.Decoder(_Numbered)
_grouped = msgspec.json.Decoder(_Groups)


def chosen(tally: Tally, answer: bytes, equality: Equality) -> int:
    """Index of the choice that an answer names, by value or as ``{"choice": number}``.

    Raises:
        AnswerError: none.
    """
    index = _by_value(tally, answer, equality)
    if index is None:
        index = _by_number(answer)
    if index is None or not 0 <= index < len(tally.choices):
        raise AnswerError(f"expected one of the {len(tally.choices)} choices, or its number")
    return index


def _by_value(tally: Tally, answer: bytes, equality: Equality) -> int | None:
    if equality.kind in ("judge", "items"):
        equality = Equality()
    choices = [bytes(one.choice) for one in tally.choices]
    for part in _readings(answer, equality):
        for index, choice in enumerate(choices):
            try:
                if len(set(classes([choice, part], equality))) == 1:
                    return index
            except NotComparableError:
                break
    return None


def _readings(answer: bytes, equality: Equality) -> list[bytes]:
    """The compared part of an answer, and the answer itself, which may be just that part."""
    try:
        return [part_of(answer, equality), answer]
    except NotComparableError:
        return [answer]


def _by_number(answer: bytes) -> int | None:
    try:
        number = int(_numbered.decode(answer).choice)
    except (ValueError, RecursionError):
        return None
    return number - 1


def groups_of(tally: Tally, answer: bytes) -> dict[str, int]:
    """Voter → group, as ``ballots.tally`` takes it; choices that the judge left out stay alone.

    Raises:
        AnswerError: not groups, an unknown number, or a number in two groups.
    """
    try:
        groups = _grouped.decode(answer).groups
    except (ValueError, RecursionError):
        raise AnswerError('expected {"groups": [[1, 3], [2]]}') from None
    found: dict[int, int] = {}
    for group, numbers in enumerate(groups):
        for number in set(numbers):
            if not 1 <= number <= len(tally.choices):
                raise AnswerError(f"there is no choice {number}")
            if number - 1 in found:
                raise AnswerError(f"choice {number} is in two groups")
            found[number - 1] = group
    return {
        voter: found.get(index, len(groups) + index)
        for index, choice in enumerate(tally.choices)
        for voter in choice.voters
    }


# Records


def agreement(tally: Tally) -> dict[str, bool]:
    """Whose counted ballot was the decision; of items, most of whose judgements were.

    Empty when nothing was reached by the rule: then nobody was right.
    """
    if not tally.reached:
        return {}
    if tally.items is None:
        against = {dissent.voter for dissent in tally.dissent}
        return {
            vote.voter: vote.voter not in against for vote in tally.votes if vote.choice is not None
        }
    right: dict[str, int] = {}
    wrong: dict[str, int] = {}
    for vote in tally.items.accepted:
        _score(vote.voters, right)
        _score(vote.against, wrong)
    for vote in tally.items.rejected:
        _score(vote.voters, wrong)
        _score(vote.against, right)
    judged = right.keys() | wrong.keys()
    return {voter: right.get(voter, 0) > wrong.get(voter, 0) for voter in sorted(judged)}


def _score(voters: Sequence[str], scores: dict[str, int]) -> None:
    for voter in voters:
        scores[voter] = scores.get(voter, 0) + 1
