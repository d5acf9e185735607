"""The fixtures themselves, without the mesh: what fails through the mesh is then the mesh's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance import suite
from tests.conformance.expectations import expected
from tests.conformance.judged import JUDGED
from tests.conformance.room import Child, serve_http

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("official"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def legacy() -> Iterator[Child]:
    child = serve_http("everything", "--era", "legacy")
    yield child
    child.stop()


@pytest.fixture(scope="module")
def modern() -> Iterator[Child]:
    child = serve_http("everything", "--era", "modern")
    yield child
    child.stop()


@pytest.fixture(scope="module")
def tasks() -> Iterator[Child]:
    child = serve_http("tasks")
    yield child
    child.stop()


def url(child: Child) -> str:
    return f"http://localhost:{child.port}/mcp"


@pytest.mark.parametrize("wire", suite.REVISIONS)
def test_fixture_of_the_same_era_passes_everything(
    legacy: Child, modern: Child, wire: str, tmp_path: Path
) -> None:
    child = modern if wire == suite.REVISIONS[0] else legacy
    report = suite.run_server(url(child), wire, tmp_path)
    assert report.scenarios >= JUDGED[wire], report.output
    bad = report.bad(JUDGED[wire])
    assert not bad, report.explain(bad)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", suite.TASKS)
def test_task_fixture_passes_every_scenario_of_tasks(
    tasks: Child, scenario: str, tmp_path: Path
) -> None:
    report = suite.run_server(url(tasks), "2026-07-28", tmp_path, scenario=scenario)
    assert report.passed(scenario), report.explain(report.bad()) or report.output


@pytest.mark.parametrize("scenario", suite.SKILLS)
def test_extensions_fixture_passes_every_scenario_of_skills(scenario: str, tmp_path: Path) -> None:
    child = serve_http("extensions")
    try:
        report = suite.run_server(url(child), "2026-07-28", tmp_path, scenario=scenario)
    finally:
        child.stop()
    assert report.passed(scenario), report.explain(report.bad()) or report.output


def test_suite_requires_what_the_targets_say() -> None:
    assert len(suite.required("2026-07-28")) == 37
    assert len(suite.required("2025-11-25")) == 30
    assert len(suite.TASKS) == 9
    assert len(suite.SKILLS) == 3


def test_every_expected_failure_names_a_judged_scenario_and_a_reason() -> None:
    for entry in expected():
        assert entry.check.partition(":")[0] in JUDGED[entry.wire], entry
        assert len(entry.reason) > 20, entry
