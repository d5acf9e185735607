"""Rows counted into summaries, and summaries into summaries: the figures of ``analyst``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from mesh_agents.contract import StepFailedError
from mesh_agents.types.inputs import Input, JsonValue, refuse
from mesh_agents.types.sketches import Column, Kept

__all__ = ["GROUPS_MAX", "Analysis", "Row", "Summary", "Tally", "merged"]

GROUPS_MAX = 10_000
"""Groups, and different values of a counted field, of one summary."""
VALUE_CHARS_MAX = 500

Row = Mapping[str, object]


class Analysis(Input, frozen=True, kw_only=True):
    """What is counted; see the module."""

    format: Literal["jsonl", "csv", "log"] = "jsonl"
    pattern: str = ""
    delimiter: str = ","
    group_by: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    where: dict[str, JsonValue] = msgspec.field(default_factory=dict[str, JsonValue])
    quantiles: tuple[float, ...] = (0.5, 0.95, 0.99)


class Figures(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One column of one group; ``invalid`` = present and no finite number."""

    count: int
    invalid: int
    min: float | None
    max: float | None
    sum: float
    mean: float | None
    deviation: float | None
    quantiles: dict[str, float | None]
    exact: bool
    kept: Kept


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with the same values of ``groupBy``."""

    key: dict[str, str | None]
    rows: int
    counts: dict[str, dict[str, int]]
    numbers: dict[str, Figures]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Output of ``analyse`` and ``merge``; see the module."""

    rows: int
    unreadable: int
    quantiles: list[float]
    groups: list[Group]


class _Counts:
    def __init__(self, numbers: Sequence[str], counts: Sequence[str]) -> None:
        self.rows = 0
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in counts}
        self.numbers = {name: Column() for name in numbers}
        self.invalid = dict.fromkeys(numbers, 0)


class Tally:
    """Rows of an analysis, or of summaries, counted."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._groups: dict[tuple[str | None, ...], _Counts] = {}
        self._rows = 0
        self._unreadable = 0

    def add(self, row: Row | None) -> None:
        """Count a row."""
        if row is None:
            self._unreadable += 1
            return
        wanted = self._analysis
        if any(row.get(name) != value for name, value in wanted.where.items()):
            return
        self._rows += 1
        group = self._group(tuple(_text(row.get(name)) for name in wanted.group_by))
        group.rows += 1
        for name in wanted.counts:
            value = _text(row.get(name))
            if value is not None:
                _counted(group.counts[name], value, 1)
        for name in wanted.numbers:
            value = row.get(name)
            if value is None or value == "":
                continue
            try:
                group.numbers[name].add(_number(value))
            except (TypeError, ValueError, OverflowError):
                group.invalid[name] += 1

    def merge(self, summary: Summary) -> None:
        """Count what another shard counted."""
        self._rows += summary.rows
        self._unreadable += summary.unreadable
        for other in summary.groups:
            group = self._group(tuple(other.key.get(name) for name in self._analysis.group_by))
            group.rows += other.rows
            for name, values in other.counts.items():
                for value, number in values.items():
                    _counted(group.counts[name], value, number)
            for name, figures in other.numbers.items():
                group.numbers[name].merge(figures.kept)
                group.invalid[name] += figures.invalid

    def summary(self) -> Summary:
        """What was counted; groups in order of their keys."""
        names = self._analysis.group_by
        order = sorted(
            self._groups, key=lambda key: [(part is not None, part or "") for part in key]
        )
        return Summary(
            rows=self._rows,
            unreadable=self._unreadable,
            quantiles=list(self._analysis.quantiles),
            groups=[
                Group(
                    key=dict(zip(names, key, strict=True)),
                    rows=self._groups[key].rows,
                    counts={
                        name: dict(sorted(found.items()))
                        for name, found in self._groups[key].counts.items()
                    },
                    numbers={
                        name: _figures(
                            column, self._groups[key].invalid[name], self._analysis.quantiles
                        )
                        for name, column in self._groups[key].numbers.items()
                    },
                )
                for key in order
            ],
        )

    def _group(self, key: tuple[str | None, ...]) -> _Counts:
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= GROUPS_MAX:
                raise _too_many("groups")
            group = _Counts(self._analysis.numbers, self._analysis.counts)
            self._groups[key] = group
        return group


def merged(outputs: Sequence[Summary]) -> Summary:
    """One summary of many.

    Raises:
        StepFailedError: ``input``: none, or of different analyses; ``limit``.
    """
    if not outputs:
        raise refuse("input.outputs: at least one summary")
    shapes = {_shape(one) for one in outputs if one.groups}
    if len(shapes) > 1:
        raise refuse("input.outputs: summaries of different analyses cannot be merged")
    group_by, counts, numbers, quantiles = (
        shapes.pop() if shapes else ((), (), (), tuple(outputs[0].quantiles))
    )
    tally = Tally(
        Analysis(
            group_by=group_by, counts=counts, numbers=numbers,
            quantiles=quantiles,
        )
    )  # fmt: skip
    for one in outputs:
        tally.merge(one)
    return tally.summary()


def _shape(
    summary: Summary,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[float, ...]]:
    group = summary.groups[0]
    return tuple(group.key), tuple(group.counts), tuple(group.numbers), tuple(summary.quantiles)


def _counted(values: Counter[str], value: str, number: int) -> None:
    values[value] += number
    if len(values) > GROUPS_MAX:
        raise _too_many("different values of a counted field")


def _too_many(what: str) -> StepFailedError:
    return StepFailedError(f"more than {GROUPS_MAX} {what}", type="limit", retryable=False)


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value if value is None else value[:VALUE_CHARS_MAX]
    return msgspec.json.encode(value).decode()[:VALUE_CHARS_MAX]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("no number")
    return float(value)


def _figures(column: Column, invalid: int, quantiles: Sequence[float]) -> Figures:
    kept = column.kept()
    return Figures(
        count=column.count,
        invalid=invalid,
        min=kept.min,
        max=kept.max,
        sum=column.sum,
        mean=column.mean,
        deviation=column.deviation,
        quantiles={f"{share:g}": column.quantile(share) for share in quantiles},
        exact=column.exact,
        kept=kept,
    )
