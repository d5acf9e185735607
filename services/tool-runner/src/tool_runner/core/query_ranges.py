"""Whether a range of a query is one that can be asked for, decided before anything is asked."""

import math

import msgspec

__all__ = ["QueryRangeAsked", "fitting_step", "range_problem"]

STEPS_S = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
    3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800,
)  # fmt: skip
"""Steps that people choose."""
POINTS_WANTED = 250
"""Points of a step that we choose: enough for a shape, few enough to read."""


class QueryRangeAsked(msgspec.Struct, frozen=True):
    """Start, end and step in seconds."""

    start_s: float
    end_s: float
    step_s: float

    @property
    def points(self) -> int:
        """Points per series."""
        return math.floor((self.end_s - self.start_s) / self.step_s) + 1


def range_problem(asked: QueryRangeAsked, *, points_max: int, range_max_s: float) -> str | None:
    """What is wrong with a range, and what would not be; None = nothing."""
    if asked.end_s < asked.start_s:
        return "end is before start."
    if asked.step_s <= 0:
        return "step must be more than 0 seconds."
    length_s = asked.end_s - asked.start_s
    if range_max_s and length_s > range_max_s:
        return f"The range is {length_s:.0f} s long; at most {range_max_s:.0f} s are allowed."
    if asked.points > points_max:
        needed = fitting_step(length_s, points_max)
        return (
            f"{asked.points} points per series, at most {points_max} are allowed: "
            f"use a step of {needed:g} s or more, or a shorter range."
        )
    return None


def fitting_step(length_s: float, points_max: int = POINTS_WANTED) -> float:
    """The least usual step that gives at most so many points."""
    for step_s in STEPS_S:
        if math.floor(length_s / step_s) + 1 <= points_max:
            return float(step_s)
    return float(math.floor(length_s / max(1, points_max - 1)) + 1)
