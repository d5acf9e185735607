"""``coordinator``: merges outputs on their way up, breaks ties of votes, and plans by name.

A ``prompt`` step asks for a plan, see ``plans``.

A ``merge`` step (or ``payload.input`` with ``outputs``)::

    {"outputs": […], "aggregate": {"kind": "sum", "pointer": "/count"}}

``sum``, ``min``, ``max``, ``union``, ``intersection`` and ``best``; the answer has the form of one
output, because it may be merged again one level up: ``{"count": 7}``. ``best`` is the whole output
with the largest number at the pointer (the first of equals). Elements of lists are the same if
they are as JSON (1 = 1.0); each stands once, as first spelled. Sums are exact while all numbers are
integers and correctly rounded otherwise.

A tie (``payload.input`` as ``core/conflicts.question`` writes it)::

    {"why": "tie", "choices": [{"number": 1, "choice": …, "voters": 2, "share": 0.5,
                                "confidence": 0.8}, …]}

The answer is ``{"choice": 1, "by": "share"}``: the larger share, then more voters, then the higher
mean confidence (none counts as 0), then the lower number, which is that of the oldest voter. The
question for a judge (it has no ``why``) is refused: whether two texts mean the same is beyond it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from mesh_agents.contract import AgentType, Json, StepInput, StepOutput
from mesh_agents.types.inputs import Input, JsonValue, input_of, refuse
from mesh_agents.types.plans import planned
from mesh_agents.types.pointers import Missing, at, placed

__all__ = ["COORDINATOR", "Merge", "Tie", "run"]

OUTPUTS_MAX = 10_000


class Aggregate(Input, frozen=True, kw_only=True):
    """How; as in the tool schemas. Other members of it are not for associative functions."""

    kind: str
    pointer: str = ""
    on_conflict: str = ""
    tool: str = ""
    agent: str = ""


class Merge(Input, frozen=True, kw_only=True):
    """Outputs to be made one."""

    outputs: tuple[JsonValue, ...]
    aggregate: Aggregate


class Option(Input, frozen=True, kw_only=True):
    """A choice of a vote, as the question shows it."""

    number: int
    choice: JsonValue = None
    voters: int = 0
    share: float = 0.0
    confidence: float | None = None
    rationales: tuple[str, ...] = ()


class Tie(Input, frozen=True, kw_only=True):
    """A vote that reached nothing."""

    choices: tuple[Option, ...]
    why: str


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """Whose number, and by what."""

    choice: int
    by: Literal["share", "voters", "confidence", "order"]


def run(step: StepInput) -> StepOutput:
    """Merge, decide or plan; see the module.

    Raises:
        StepRejectedError: a plan is asked for that it does not know.
        StepFailedError: ``input``: neither, an unknown function, an output that does not fit.
    """
    if step.kind == "prompt":
        return planned(step)
    given = step.payload.get("input")
    if isinstance(given, dict) and "choices" in given:
        return _decided(input_of(step, Tie))
    wanted = input_of(step, Merge)
    function = _FUNCTIONS.get(wanted.aggregate.kind)
    if function is None:
        known = ", ".join(_FUNCTIONS)
        raise refuse(f"a coordinator merges by {known}, not by {wanted.aggregate.kind}")
    if not 1 <= len(wanted.outputs) <= OUTPUTS_MAX:
        raise refuse(f"input.outputs: 1..{OUTPUTS_MAX}")
    merged = function(wanted.outputs, wanted.aggregate.pointer)
    return StepOutput(
        structured=merged, text=f"{wanted.aggregate.kind} of {len(wanted.outputs)} outputs"
    )


def _parts(outputs: Sequence[Json], pointer: str) -> list[Json]:
    try:
        return [at(output, pointer) for output in outputs]
    except Missing as missing:
        raise refuse(f"input.outputs: {missing}") from None


def _numbers(outputs: Sequence[Json], pointer: str) -> list[int | float]:
    found: list[int | float] = []
    for number, part in enumerate(_parts(outputs, pointer)):
        if isinstance(part, bool) or not isinstance(part, int | float):
            raise refuse(f"input.outputs/{number}{pointer}: not a number")
        found.append(part)
    return found


def _sum(outputs: Sequence[Json], pointer: str) -> Json:
    numbers = _numbers(outputs, pointer)
    whole = all(isinstance(number, int) for number in numbers)
    try:
        return placed(pointer, sum(numbers) if whole else math.fsum(numbers))
    except OverflowError:
        raise refuse("input.outputs: the sum is no finite number") from None


def _min(outputs: Sequence[Json], pointer: str) -> Json:
    return placed(pointer, min(_numbers(outputs, pointer)))


def _max(outputs: Sequence[Json], pointer: str) -> Json:
    return placed(pointer, max(_numbers(outputs, pointer)))


def _best(outputs: Sequence[Json], pointer: str) -> Json:
    numbers = _numbers(outputs, pointer)
    return outputs[max(range(len(numbers)), key=numbers.__getitem__)]


def _lists(outputs: Sequence[Json], pointer: str) -> list[list[Json]]:
    found: list[list[Json]] = []
    for number, part in enumerate(_parts(outputs, pointer)):
        if not isinstance(part, list):
            raise refuse(f"input.outputs/{number}{pointer}: not a list")
        found.append(part)
    return found


def _union(outputs: Sequence[Json], pointer: str) -> Json:
    first: dict[bytes, Json] = {}
    for elements in _lists(outputs, pointer):
        for element in elements:
            first.setdefault(_key(element), element)
    return placed(pointer, list(first.values()))


def _intersection(outputs: Sequence[Json], pointer: str) -> Json:
    lists = _lists(outputs, pointer)
    everywhere = set.intersection(*({_key(element) for element in each} for each in lists))
    first: dict[bytes, Json] = {}
    for element in lists[0]:
        if _key(element) in everywhere:
            first.setdefault(_key(element), element)
    return placed(pointer, list(first.values()))


def _key(value: Json) -> bytes:
    """The same bytes for what is the same as JSON."""
    return msgspec.json.encode(_plain(value), order="sorted")


def _plain(value: Json) -> Json:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value


_FUNCTIONS: Mapping[str, Callable[[Sequence[Json], str], Json]] = {
    "sum": _sum,
    "min": _min,
    "max": _max,
    "union": _union,
    "intersection": _intersection,
    "best": _best,
}


def _decided(tie: Tie) -> StepOutput:
    if not tie.choices:
        raise refuse("input.choices: at least one")
    ranks: tuple[
        tuple[Literal["share", "voters", "confidence"], Callable[[Option], float]], ...
    ] = (
        ("share", lambda one: one.share),
        ("voters", lambda one: one.voters),
        ("confidence", lambda one: one.confidence or 0.0),
    )
    left = sorted(tie.choices, key=lambda one: one.number)
    by: Literal["share", "voters", "confidence", "order"] = "order"
    for name, rank in ranks:
        most = max(map(rank, left))
        left = [one for one in left if rank(one) >= most]
        if len(left) == 1:
            by = name
            break
    chosen = left[0].number
    return StepOutput(structured=Decided(choice=chosen, by=by), text=f"choice {chosen}, by {by}")


COORDINATOR = AgentType(
    name="coordinator",
    description="Merges outputs of other agents (sum, min, max, union, intersection, best) and "
    "breaks ties of votes by share, number of voters and confidence. Plans by name: quality_gate.",
    capabilities=("merge", "decide", "plan"),
    run=run,
    kinds=frozenset({"call", "merge", "vote", "prompt"}),
)
