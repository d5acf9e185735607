"""Figures of a column that merge without depending on how the rows were cut into shards.

Count, extremes, sum and sum of squares are exact (sums as expansions of floats, which are exact in
any order), so mean and deviation of merged shards are those of one run, to the last bit. Quantiles
are exact while a column has at most ``DISTINCT_MAX`` different values; above that every value is
kept as its logarithmic bucket (DDSketch, Masson et al. 2019), of which any quantile is within
``RELATIVE_ERROR`` of the true value. Which of both it is depends on the values alone.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

import msgspec

__all__ = ["DISTINCT_MAX", "RELATIVE_ERROR", "Column", "Kept"]

DISTINCT_MAX = 2_000
SIZE_MAX = 1e140
"""Larger numbers are refused: sums of their squares would be no finite floats."""
RELATIVE_ERROR = 0.005
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A column as it travels.

    Attributes:
        count: values.
        min: smallest; None = no values.
        max: largest.
        sums: expansion of the sum: floats whose exact sum it is, largest first.
        squares: the same of the squares (each rounded once).
        values: value and how often, ascending; used while there are few.
        buckets: sign·(index + offset) and how often, ascending by value; 0 is zero itself.
    """

    count: int = 0
    min: float | None = None
    max: float | None = None
    sums: list[float] = []
    squares: list[float] = []
    values: list[tuple[float, int]] = []
    buckets: list[tuple[int, int]] = []


class Column:
    """Values of a column, counted."""

    def __init__(self) -> None:
        self._values: Counter[float] | None = Counter()
        self._buckets: Counter[int] = Counter()
        self._sum: list[float] = []
        self._square: list[float] = []
        self._min = math.inf
        self._max = -math.inf
        self.count = 0

    def add(self, value: float) -> None:
        """Count a value.

        Raises:
            OverflowError: larger than ``SIZE_MAX``, infinite or not a number.
        """
        if not abs(value) <= SIZE_MAX:
            raise OverflowError("too large to be counted")
        square = value * value
        self.count += 1
        _grow(self._sum, value)
        _grow(self._square, square)
        self._min = min(self._min, value)
        self._max = max(self._max, value)
        if self._values is None:
            self._buckets[_bucket(value)] += 1
        else:
            self._values[value + 0.0] += 1  # -0.0 is 0.0
            self._coarsen()

    def merge(self, kept: Kept) -> None:
        """Count what another shard counted."""
        self.count += kept.count
        for part in kept.sums:
            _grow(self._sum, part)
        for part in kept.squares:
            _grow(self._square, part)
        if kept.min is not None and kept.max is not None:
            self._min = min(self._min, kept.min)
            self._max = max(self._max, kept.max)
        if kept.buckets and self._values is not None:
            self._to_buckets(self._values)
        if self._values is None:
            for value, number in kept.values:
                self._buckets[_bucket(value)] += number
            self._buckets.update(dict(kept.buckets))
        else:
            for value, number in kept.values:
                self._values[value + 0.0] += number
            self._coarsen()

    def _coarsen(self) -> None:
        if self._values is not None and len(self._values) > DISTINCT_MAX:
            self._to_buckets(self._values)

    def _to_buckets(self, values: Counter[float]) -> None:
        for value, number in values.items():
            self._buckets[_bucket(value)] += number
        self._values = None

    def kept(self) -> Kept:
        """As it travels; equal for equal values, whatever came first."""
        return Kept(
            count=self.count,
            min=self._min if self.count else None,
            max=self._max if self.count else None,
            sums=_canonical(self._sum),
            squares=_canonical(self._square),
            values=sorted(self._values.items()) if self._values is not None else [],
            buckets=sorted(self._buckets.items()),
        )

    @property
    def exact(self) -> bool:
        """Whether quantiles are those of the values themselves."""
        return self._values is not None

    @property
    def sum(self) -> float:
        """Correctly rounded."""
        return math.fsum(self._sum)

    @property
    def mean(self) -> float | None:
        """Correctly rounded; None without values."""
        return float(_exact(self._sum) / self.count) if self.count else None

    @property
    def deviation(self) -> float | None:
        """Of the sample (n - 1); None with fewer than two values."""
        if self.count < 2:
            return None
        spread = _exact(self._square) - _exact(self._sum) ** 2 / self.count
        return math.sqrt(max(Fraction(0), spread / (self.count - 1)))

    def quantile(self, share: float) -> float | None:
        """Smallest value with at least ``share`` of all at or below it; None without values."""
        if not self.count:
            return None
        rank = max(1, math.ceil(Fraction(share) * self.count))
        entries: Iterable[tuple[float, int]]
        if self._values is not None:
            entries = sorted(self._values.items())
        else:
            entries = ((_middle(index), n) for index, n in sorted(self._buckets.items()))
        seen = 0
        for value, number in entries:
            seen += number
            if seen >= rank:
                return min(max(value, self._min), self._max)
        return self._max


_OFFSET = 1 << 20
"""Added to indices, so that the sign of a key is the sign of its values."""


def _bucket(value: float) -> int:
    if value == 0:
        return 0
    index = math.ceil(math.log(abs(value)) / _LOG_GAMMA) + _OFFSET
    return index if value > 0 else -index


def _middle(key: int) -> float:
    if key == 0:
        return 0.0
    size = 2 * math.exp((abs(key) - _OFFSET) * _LOG_GAMMA) / (_GAMMA + 1)
    return size if key > 0 else -size


def _grow(parts: list[float], value: float) -> None:
    """Add to an expansion without an error (Shewchuk 1997): its parts never overlap."""
    kept = 0
    for part in parts:
        large, small = (value, part) if abs(value) >= abs(part) else (part, value)
        total = large + small
        rest = small - (total - large)
        if rest:
            parts[kept] = rest
            kept += 1
        value = total
    parts[kept:] = [value]


def _exact(parts: Sequence[float]) -> Fraction:
    return sum((Fraction(part) for part in parts), Fraction(0))


def _canonical(parts: Sequence[float]) -> list[float]:
    """The expansion that depends on the exact sum alone: each part is the rest, rounded."""
    rest = _exact(parts)
    found: list[float] = []
    while rest:
        part = float(rest)
        found.append(part)
        rest -= Fraction(part)
    return found
