"""Tests of tool_runner.core.instants."""

import pytest

from tool_runner.core.instants import instant, rfc3339, span_s

NOW = 1_795_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15), ("5m", 300), ("1h30m", 5400), ("7d", 604_800), ("250ms", 0.25), ("90", 90),
     (2.5, 2.5), ("2w", 1_209_600)],
)  # fmt: skip
def test_spans_are_read(text: str | float, seconds: float) -> None:
    assert span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "often", "5 m", "m5", "1h-", "nan", "inf", float("nan")])
def test_what_is_no_span_is_none(text: str | float) -> None:
    assert span_s(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", NOW),
        ("-15m", NOW - 900),
        ("now-1h30m", NOW - 5400),
        ("now - 10s", NOW - 10),
        (1_700_000_000, 1_700_000_000),
        ("1700000000.5", 1_700_000_000.5),
        ("2026-11-21T10:00:00Z", 1_795_255_200),
        ("2026-11-21T12:00:00+02:00", 1_795_255_200),
        ("2026-11-21 10:00:00", 1_795_255_200),
        ("2026-11-21", 1_795_219_200),
    ],
)
def test_moments_are_read(text: str | float, seconds: float) -> None:
    assert instant(text, NOW) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-", "now+1h", "2026-13-01", "1e400", 1e300, float("inf"), "-99999w"]
)
def test_what_is_no_moment_is_none(text: str | float) -> None:
    assert instant(text, NOW) is None


def test_moments_are_written_as_people_read_them() -> None:
    assert rfc3339(1_795_255_200) == "2026-11-21T10:00:00Z"
    assert rfc3339(1_795_255_200.25) == "2026-11-21T10:00:00.250Z"
