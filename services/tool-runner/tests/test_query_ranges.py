"""Tests of tool_runner.core.query_ranges."""

import pytest

from tool_runner.core.query_ranges import QueryRangeAsked, fitting_step, range_problem


@pytest.mark.parametrize(
    ("length_s", "points_max", "step_s"),
    [(60, 250, 1), (3600, 250, 15), (86_400, 250, 600), (30 * 86_400, 250, 14_400),
     (0, 1, 1), (365 * 86_400 * 10, 250, 1_266_507)],
)  # fmt: skip
def test_fitting_step_is_a_usual_one(length_s: float, points_max: int, step_s: float) -> None:
    assert fitting_step(length_s, points_max) == step_s
    assert QueryRangeAsked(0, length_s, step_s).points <= points_max


@pytest.mark.parametrize("points_max", [1, 2, 3, 10, 11_000])
@pytest.mark.parametrize("length_s", [0, 1, 59.5, 3600, 10**9])
def test_the_step_that_is_offered_is_taken(length_s: float, points_max: int) -> None:
    step_s = fitting_step(length_s, points_max)
    asked = QueryRangeAsked(0, length_s, step_s)
    assert range_problem(asked, points_max=points_max, range_max_s=0) is None


def test_range_that_is_too_long_or_too_fine_or_upside_down_is_named() -> None:
    def problem(start_s: float, end_s: float, step_s: float) -> str | None:
        asked = QueryRangeAsked(start_s, end_s, step_s)
        return range_problem(asked, points_max=100, range_max_s=1000)

    assert problem(0, 100, 1) == (
        "101 points per series, at most 100 are allowed: use a step of 2 s or more, "
        "or a shorter range."
    )
    assert "at most 1000 s" in str(problem(0, 1001, 60))
    assert problem(1, 0, 1) == "end is before start."
    assert "more than 0" in str(problem(0, 1, 0))
    assert "more than 0" in str(problem(0, 1, -1))
    assert problem(0, 99, 1) is None
