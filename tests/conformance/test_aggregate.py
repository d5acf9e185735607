"""The official suite at ``/mcp``, where a server mounted without prefix stands beside a collider.

A mesh per fixture, because names without a prefix can be given out once only; the fixture on the
bus has its turn in ``test_suite``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance import suite
from tests.conformance.counts import Note, counted
from tests.conformance.expectations import verdict
from tests.conformance.judged import JUDGED
from tests.conformance.room import Room, Served

pytestmark = [pytest.mark.usefixtures("official"), pytest.mark.timeout(240), pytest.mark.slow]

MODERN, NEWEST_LEGACY = suite.FROZEN
FIXTURES = [
    Served(name=f"{era}-{transport}", era=era, transport=transport, bare=True)
    for era in ("legacy", "modern")
    for transport in ("stdio", "http")
]
# Names before and after those of the fixtures, because order decides who keeps a URI.
COLLIDERS = tuple(
    Served(name=name, era="both", transport="stdio", arguments=("--collider",))
    for name in ("acollider", "zcollider")
)


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda one: one.name)
def shared(
    official: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Room, Served]]:
    served: Served = request.param
    made = Room(tmp_path_factory.mktemp("shared"), (served, *COLLIDERS))
    try:
        yield made.start(), served
    finally:
        made.stop()


@pytest.mark.parametrize("wire", suite.FROZEN)
@pytest.mark.parametrize("gateways", [1, 2])
def test_suite_passes_at_the_aggregate_of_a_server_without_prefix(
    shared: tuple[Room, Served], wire: str, gateways: int, tmp_path: Path, note: Note
) -> None:
    room, served = shared
    report = suite.run_server(room.url(gateways=gateways), wire, tmp_path)
    alike = (wire == MODERN) == (served.era == "modern")
    group = f"/mcp beside colliding servers{'' if alike else f', bridge to a {served.era} server'}"
    note(counted(report, group=group, wire=wire, run=f"{served.name}-{gateways}"))
    era = served.era if alike else f"bridged-{served.era}"
    problem = verdict(report, JUDGED[wire], wire, era, served.name)
    assert not problem, problem
