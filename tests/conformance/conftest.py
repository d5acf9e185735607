"""The suite, and one mesh with every fixture behind it, for all tests of this folder."""

import os
from collections.abc import Callable, Iterator

import msgspec
import pytest
from tests.conformance import counts, suite
from tests.conformance.room import Room, Served

FIXTURES = (
    Served(name="legacy-stdio", era="legacy", transport="stdio"),
    Served(name="modern-stdio", era="modern", transport="stdio"),
    Served(name="legacy-http", era="legacy", transport="http"),
    Served(name="modern-http", era="modern", transport="http"),
    Served(name="native", era="modern", transport="native", bare=True),
    Served(name="tasks-http", era="modern", transport="http", module="tasks"),
    Served(name="tasks-stdio", era="modern", transport="stdio", module="tasks"),
    Served(name="ext-http", era="modern", transport="http", module="extensions"),
    Served(name="zcollider", era="both", transport="stdio", arguments=("--collider",)),
)


@pytest.fixture(scope="session")
def official() -> None:
    """The official suite is installed; missing is a skip at home and a failure in CI."""
    problem = suite.missing()
    if problem and os.environ.get("CI") == "true":
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)


_PROPERTY = "conformance"
"""Carries a count from a test, in whatever process it runs, to the summary."""


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> counts.Note:
    """Keeps a count for the summary, whatever becomes of the test."""
    return lambda count: record_property(_PROPERTY, msgspec.json.encode(count).decode())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in numbers what passed."""
    reports = [
        one
        for kind in ("passed", "failed", "xfailed", "xpassed")
        for one in terminalreporter.getreports(kind)
        if isinstance(one, pytest.TestReport) and one.when == "call"
    ]
    found = [
        msgspec.json.decode(str(value), type=counts.Count)
        for one in reports
        for name, value in one.user_properties
        if name == _PROPERTY
    ]
    outcomes = [(one.nodeid, one.passed) for one in reports]
    if said := counts.lines(found, outcomes):
        terminalreporter.section("conformance")
        for line in said:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def room(official: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Two gateways, two runners, every fixture of ``FIXTURES``, a random balancer."""
    made = Room(tmp_path_factory.mktemp("room"), FIXTURES).start()
    try:
        yield made
    finally:
        made.stop()
