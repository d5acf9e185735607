"""Tests of mesh_sdk.manager.measured."""

from mesh_sdk.manager.measured import SAMPLES_MAX, TOOLS_MAX, Measured


def test_figures_count_calls_errors_and_newest_durations() -> None:
    measured = Measured()
    for n in range(SAMPLES_MAX * 2):
        measured.note("a:x", n / 1000, failed=n % 4 == 0)
    figures = measured.figures()["a:x"]
    assert (figures.calls, figures.errors) == (SAMPLES_MAX * 2, SAMPLES_MAX // 2)
    assert SAMPLES_MAX <= figures.p50_ms <= figures.p99_ms < SAMPLES_MAX * 2


def test_tools_above_the_bound_are_not_counted() -> None:
    measured = Measured()
    for n in range(TOOLS_MAX + 5):
        measured.note(f"a:{n}", 0.001, failed=False)
    assert len(measured.figures()) == TOOLS_MAX
