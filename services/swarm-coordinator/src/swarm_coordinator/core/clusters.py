"""Clusters of numbers that agree within a tolerance, the same for the same numbers in any order."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor, lcm

import msgspec

from swarm_coordinator.core.figures import Exact
from swarm_coordinator.core.spec import Equality

__all__ = ["clusters"]


def clusters(values: Sequence[Exact], equality: Equality, weights: Sequence[int]) -> list[int]:
    """For each value the index of its centre (where that value appears first).

    A centre is the value within whose tolerance most weight lies (then: the least distance to
    those, then the smallest). It takes them, and the next one is sought among the rest.

    Args:
        values: numbers.
        equality: ``a`` and ``b`` agree when they differ by at most ``absolute``, or by at most
            ``relative`` (below 1) times the larger of their magnitudes.
        weights: one for each value, not negative.
    """
    line = _line(values, equality, weights)
    centre_of = [0] * len(line.values)
    ranges = [(0, len(line.values))]
    while ranges:
        start, end = ranges.pop()
        if start >= end:
            continue
        centre, low, high = _heaviest(line, start, end)
        centre_of[low:high] = [centre] * (high - low)
        # A centre on one side cannot reach over this cluster: the sides are independent.
        ranges += [(start, low), (high, end)]
    position = {value: index for index, value in enumerate(line.values)}
    places = [position[_scaled(one, line.scale)] for one in values]
    first = {place: index for index, place in reversed(list(enumerate(places)))}
    return [first[centre_of[place]] for place in places]


class _Line(msgspec.Struct, frozen=True):
    """Distinct values in order, scaled to integers.

    ``low`` and ``high`` are the positions each value reaches; ``weights`` and ``moments`` are
    prefix sums.
    """

    scale: int
    values: list[int]
    low: list[int]
    high: list[int]
    weights: list[int]
    moments: list[int]


def _line(values: Sequence[Exact], equality: Equality, weights: Sequence[int]) -> _Line:
    scale = lcm(*(value.denominator for value in values))
    weight_of: dict[int, int] = {}
    for value, weight in zip(values, weights, strict=True):
        key = _scaled(value, scale)
        weight_of[key] = weight_of.get(key, 0) + weight
    ordered = sorted(weight_of)
    absolute = Fraction(repr(equality.absolute)) * scale
    rest = 1 - Fraction(repr(equality.relative))
    sums, moments = [0], [0]
    for value in ordered:
        sums.append(sums[-1] + weight_of[value])
        moments.append(moments[-1] + weight_of[value] * value)
    return _Line(
        scale=scale,
        values=ordered,
        low=[
            bisect_left(
                ordered,
                ceil(min(value - absolute, value * rest if value > 0 else value / rest)),
            )
            for value in ordered
        ],
        high=[
            bisect_right(
                ordered,
                floor(max(value + absolute, value / rest if value > 0 else value * rest)),
            )
            for value in ordered
        ],
        weights=sums,
        moments=moments,
    )


def _scaled(value: Exact, scale: int) -> int:
    return value.numerator * (scale // value.denominator)


def _heaviest(line: _Line, start: int, end: int) -> tuple[int, int, int]:
    """Position of the next centre in a range, and from and to where it takes."""
    sums, moments = line.weights, line.moments
    best: tuple[tuple[int, int], int, int, int] | None = None
    for index in range(start, end):
        low, high = max(start, line.low[index]), min(end, line.high[index])
        distance = (
            line.values[index] * (2 * sums[index] - sums[low] - sums[high])
            - 2 * moments[index]
            + moments[low]
            + moments[high]
        )
        rank = (sums[low] - sums[high], distance)
        if best is None or rank < best[0]:
            best = rank, index, low, high
    if best is None:
        raise ValueError("an empty range has no centre")
    return best[1:]
