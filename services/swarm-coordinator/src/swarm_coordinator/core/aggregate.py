"""How the outputs of many steps become one: every function of ``resultAggregation``.

JSON bytes in, JSON bytes out. A value that is only passed on keeps its bytes, so integers of any
size and floats survive; sums are exact before they are written.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import msgspec

from mcp_proto.contracts.swarm import Ballot
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core import pointers
from swarm_coordinator.core.ballots import tally
from swarm_coordinator.core.equality import NotComparableError, classes, part_of
from swarm_coordinator.core.figures import Exact, exact, text_of
from swarm_coordinator.core.merging import MergeError, merged
from swarm_coordinator.core.spec import Aggregate, Coordination, Equality, Mechanism
from swarm_coordinator.core.views import Kind
from swarm_coordinator.core.votes import Cast, Tally
from swarm_coordinator.core.weights import Voter

__all__ = ["AggregateError", "Aggregated", "Output", "Reduction", "aggregate"]


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What one step came to.

    Attributes:
        step: its id.
        value: JSON.
        agent: who did it.
        order: place in the log, for ``first_success``.
        weight: voice, for ``weighted_vote``.
    """

    step: str
    value: bytes | msgspec.Raw
    agent: str = ""
    order: int = 0
    weight: float = 1.0


class Reduction(msgspec.Struct, frozen=True, kw_only=True):
    """A step that makes one value of all: its output is the aggregate.

    Attributes:
        kind: ``tool`` or ``merge``.
        payload: as in ``WorkItem``: the outputs, in step order, are its ``outputs``.
        agent: id, name or type of who shall do it; "" = whoever can.
    """

    kind: Kind
    payload: msgspec.Raw
    agent: str = ""


class Aggregated(msgspec.Struct, frozen=True, kw_only=True):
    """One value, or what it takes to get it.

    Attributes:
        value: ``ABSENT`` = none: a vote was not reached, or a step is needed.
        tally: of the voting functions.
        reduction: the step that is needed.
    """

    value: msgspec.Raw = ABSENT
    tally: Tally | None = None
    reduction: Reduction | None = None


class AggregateError(ValueError):
    """The outputs are not what the function takes.

    Attributes:
        where: step, and the JSON pointer into its output; "" = all of them.
        message: public text.
    """

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where
        self.message = message


def aggregate(
    how: Aggregate,
    outputs: Sequence[Output],
    *,
    equality: Equality | None = None,
    rules: Coordination | None = None,
) -> Aggregated:
    """Make one value of many.

    Args:
        how: function and its parameters; its pointer names the part of each output that is meant
            (``best``: the score by which a whole output is chosen).
        outputs: of steps that are done, in step order.
        equality: of ``union`` and ``intersection``; None = JSON.
        rules: of the voting functions: threshold, quorum and equality; None = the defaults.

    Raises:
        AggregateError: an output does not fit, or there is none where one is needed.
    """
    if how.kind in _VOTES:
        return _voted(how, outputs, rules or Coordination())
    if how.kind == "reduce":
        return _reduction(how, outputs)
    if how.kind in ("union", "intersection"):
        value = _sets(how, outputs, equality or Equality())
    else:
        value = _FUNCTIONS[how.kind](how, outputs)
    return Aggregated(value=msgspec.Raw(value))


# Passing on


def _all(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    return _array(_parts(how, outputs))


def _first_success(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    return _part(how, min(_some(outputs), key=lambda one: one.order))


def _concat(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    """Arrays to one array; texts to one text, each on a line of its own."""
    parts = _parts(how, outputs)
    if not parts or parts[0].lstrip()[:1] != b'"':
        return _array([one for each in _lists(how, outputs, parts) for one in each])
    texts: list[str] = []
    for output, part in zip(outputs, parts, strict=True):
        try:
            text = _string.decode(part)
        except (ValueError, RecursionError):
            raise _wrong(how, output, "not a string, as the first output is") from None
        if texts and text and not texts[-1].endswith("\n"):
            texts.append("\n")
        texts += [text] if text else []
    return msgspec.json.encode("".join(texts))


def _merge(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    try:
        return merged(_parts(how, outputs), how.on_conflict)
    except MergeError as error:
        raise _wrong(how, outputs[error.index], str(error)) from None


def _sets(how: Aggregate, outputs: Sequence[Output], equality: Equality) -> bytes:
    """Elements that any output holds, or all of them, each once, as first spelled."""
    lists = _lists(how, outputs, _parts(how, outputs))
    elements = [one for each in lists for one in each]
    owner = [index for index, each in enumerate(lists) for _ in each]
    try:
        # Elements are compared by their field where the equality names one.
        fields = [part_of(one, equality) for one in elements] if _by_field(equality) else elements
        same = classes(fields, equality)
    except NotComparableError as error:
        raise AggregateError(how.pointer, str(error)) from None
    first: dict[int, int] = {}
    holders: dict[int, set[int]] = {}
    for index, shown in enumerate(same):
        first.setdefault(shown, index)
        holders.setdefault(shown, set()).add(owner[index])
    everywhere = len(lists) if how.kind == "intersection" else 1
    return _array(
        [elements[index] for shown, index in first.items() if len(holders[shown]) >= everywhere]
    )


def _by_field(equality: Equality) -> bool:
    # Of ``items`` the pointer names the list in a ballot, and here the lists are there already.
    return bool(equality.pointer) and equality.kind != "items"


# Numbers


def _sum(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    return _written(how, _added(_numbers(how, outputs)))


def _avg(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    numbers = _numbers(how, _some(outputs))
    return _written(how, _divided(_added(numbers), len(numbers)))


def _min(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    numbers = _numbers(how, _some(outputs))
    return _part(how, outputs[min(range(len(numbers)), key=numbers.__getitem__)])


def _max(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    return _part(how, _top(how, outputs))


def _best(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    return bytes(_top(how, outputs).value)


def _top(how: Aggregate, outputs: Sequence[Output]) -> Output:
    numbers = _numbers(how, _some(outputs))
    return outputs[max(range(len(numbers)), key=numbers.__getitem__)]


def _median(how: Aggregate, outputs: Sequence[Output]) -> bytes:
    numbers = _numbers(how, _some(outputs))
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    middle = len(order) // 2
    if len(order) % 2:
        return _part(how, outputs[order[middle]])
    return _written(how, _divided(_added([numbers[order[middle - 1]], numbers[order[middle]]]), 2))


def _numbers(how: Aggregate, outputs: Sequence[Output]) -> list[Exact]:
    found: list[Exact] = []
    for output, part in zip(outputs, _parts(how, outputs), strict=True):
        try:
            number = exact(part.strip())
        except ValueError as error:
            raise _wrong(how, output, str(error)) from None
        if number is None:
            raise _wrong(how, output, "not a number")
        found.append(number)
    return found


def _added(numbers: Sequence[Exact]) -> Exact:
    if all(isinstance(one, int) for one in numbers):
        return sum(numbers)
    return sum(numbers, Fraction(0))


def _divided(total: Exact, count: int) -> Exact:
    """An integer stays one where the division leaves nothing."""
    quotient = Fraction(total, count)
    whole = isinstance(total, int) and quotient.denominator == 1
    return quotient.numerator if whole else quotient


def _written(how: Aggregate, value: Exact) -> bytes:
    try:
        return text_of(value)
    except ValueError as error:
        raise AggregateError(how.pointer, str(error)) from None


# Votes and reductions

_VOTES: Mapping[str, Mechanism] = {
    "majority_vote": "majority",
    "weighted_vote": "weighted",
    "unanimous": "unanimous",
}


def _voted(how: Aggregate, outputs: Sequence[Output], rules: Coordination) -> Aggregated:
    """Each output is the ballot of its step."""
    rules = msgspec.structs.replace(rules, voting_mechanism=_VOTES[how.kind])
    parts = _parts(how, _some(outputs))
    casts = [
        Cast(voter=output.step, step=output.step, ballot=Ballot(choice=msgspec.Raw(part)))
        for output, part in zip(outputs, parts, strict=True)
    ]
    weighted = how.kind == "weighted_vote"
    weights = {one.step: one.weight if weighted else 1.0 for one in outputs}
    result = tally(casts, rules, [Voter(id=one.step) for one in outputs], weights)
    return Aggregated(value=result.decision, tally=result)


def _reduction(how: Aggregate, outputs: Sequence[Output]) -> Aggregated:
    given = msgspec.Raw(_array(_parts(how, outputs)))
    if how.tool:
        body: dict[str, object] = {"tool": how.tool, "arguments": {"outputs": given}}
    else:
        body = {"input": {"outputs": given}}
    payload = msgspec.Raw(msgspec.json.encode(body))
    kind: Kind = "tool" if how.tool else "merge"
    return Aggregated(reduction=Reduction(kind=kind, payload=payload, agent=how.agent))


# Parts of outputs

_string = msgspec.json.Decoder(str)


def _parts(how: Aggregate, outputs: Sequence[Output]) -> list[bytes]:
    if how.kind == "best" and not how.pointer:
        raise AggregateError("", "best needs the pointer to a score")
    return [_part(how, output) for output in outputs]


def _part(how: Aggregate, output: Output) -> bytes:
    try:
        return pointers.at(output.value, how.pointer)
    except pointers.NoSuchPlaceError as error:
        raise AggregateError(output.step, str(error)) from None


def _lists(how: Aggregate, outputs: Sequence[Output], parts: Sequence[bytes]) -> list[list[bytes]]:
    lists: list[list[bytes]] = []
    for output, part in zip(outputs, parts, strict=True):
        try:
            lists.append([bytes(one) for one in pointers.elements(part)])
        except pointers.NoSuchPlaceError as error:
            raise _wrong(how, output, str(error)) from None
    return lists


def _some(outputs: Sequence[Output]) -> Sequence[Output]:
    if not outputs:
        raise AggregateError("", "there is no output")
    return outputs


def _wrong(how: Aggregate, output: Output, message: str) -> AggregateError:
    return AggregateError(output.step + how.pointer, message)


def _array(elements: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(elements) + b"]"


_FUNCTIONS: Mapping[str, Callable[[Aggregate, Sequence[Output]], bytes]] = {
    "all": _all,
    "first_success": _first_success,
    "concat": _concat,
    "merge": _merge,
    "sum": _sum,
    "avg": _avg,
    "min": _min,
    "max": _max,
    "median": _median,
    "best": _best,
}
