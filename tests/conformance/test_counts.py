"""What ``make conformance`` prints last."""

import pytest
from tests.conformance import counts
from tests.conformance.counts import Count, lines
from tests.conformance.expectations import Expected

WANTED = ("a", "b", "c")


def _count(run: str, *missed: str, group: str = "/mcp", wanted: tuple[str, ...] = WANTED) -> Count:
    return Count(group=group, wire="2026-07-28", run=run, wanted=wanted, missed=missed)


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of which ``b`` stands in ``expected.toml``."""
    entry = Expected(wire="2026-07-28", upstream="*", check="b:some-check", reason="")
    monkeypatch.setattr(counts, "expected", lambda: (entry,))
    monkeypatch.setattr(counts, "version", lambda: "1.0")


def test_a_line_tells_the_worst_of_its_runs_and_names_what_did_not_pass() -> None:
    _, line = lines([_count("x"), _count("y", "b", "c")], ())
    assert line == "/mcp, 2026-07-28: 1 of 3 (2 runs; not: b [expected.toml], c)"


def test_scenarios_that_ran_one_by_one_add_up_to_one_run() -> None:
    _, line = lines([_count("x", wanted=(name,)) for name in WANTED], ())
    assert line == "/mcp, 2026-07-28: 3 of 3 (1 run)"


def test_cells_of_the_requirement_records_are_counted() -> None:
    name = "tests/conformance/test_requirements.py::test_lists"
    outcomes = [(f"{name}[http]", True), (f"{name}[tcp]", False), (name, True)]
    assert lines((), outcomes) == ["own requirement records: 1 of 2 cells hold"]


def test_nothing_is_said_of_a_run_without_the_suite() -> None:
    assert lines((), [("tests/conformance/test_proxy.py::test_it[/]", True)]) == []
