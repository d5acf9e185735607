"""The suite, and one mesh with every fixture behind it, for all tests of this folder."""

import os
from collections.abc import Iterator

import pytest
from tests.conformance import suite
from tests.conformance.room import Room, Served

FIXTURES = (
    Served(name="legacy-stdio", era="legacy", transport="stdio"),
    Served(name="modern-stdio", era="modern", transport="stdio"),
    Served(name="legacy-http", era="legacy", transport="http"),
    Served(name="modern-http", era="modern", transport="http"),
    Served(name="native", era="modern", transport="native", bare=True),
    Served(name="tasks-http", era="modern", transport="http", module="tasks"),
    Served(name="tasks-stdio", era="modern", transport="stdio", module="tasks"),
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


@pytest.fixture(scope="session")
def room(official: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Two gateways, two runners, every fixture of ``FIXTURES``, a random balancer."""
    made = Room(tmp_path_factory.mktemp("room"), FIXTURES).start()
    try:
        yield made
    finally:
        made.stop()
