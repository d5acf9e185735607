"""The client side of the official suite: its mock servers see the mesh as their client.

Each scenario's server becomes an upstream of a running mesh; the official client in front of the
mesh does what the scenario wants (``driver``), and the suite judges what reached its server.
"""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance import suite
from tests.conformance.room import Room

pytestmark = [pytest.mark.usefixtures("official"), pytest.mark.timeout(240), pytest.mark.slow]

MODERN, LEGACY = suite.FROZEN
OURS = {
    MODERN: (
        "tools_call",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
    ),
    LEGACY: (
        "initialize",
        "tools_call",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
        "json-schema-2020-12-preservation",
    ),
}
OPEN: dict[str, str] = {}
"""What does not pass yet and why; a scenario that begins to pass fails until it is taken out."""
OUT_OF_SCOPE = tomllib.loads((Path(__file__).parent / "out_of_scope.toml").read_text())["client"]


@pytest.fixture(scope="module")
def quiet(official: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """A mesh without fixtures."""
    made = Room(tmp_path_factory.mktemp("quiet"), ())
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("wire", "scenario"),
    [
        pytest.param(
            wire,
            scenario,
            marks=[pytest.mark.xfail(reason=OPEN[scenario], strict=True)]
            if scenario in OPEN
            else [],
        )
        for wire in OURS
        for scenario in OURS[wire]
    ],
)
def test_mesh_is_the_client_that_the_suite_wants(
    quiet: Room, wire: str, scenario: str, tmp_path: Path
) -> None:
    gateway = quiet.proxy.url
    words = (sys.executable, "-m", "tests.conformance.driver", str(quiet.mesh.room), gateway)
    report = suite.run_client(" ".join(words), scenario, wire, tmp_path)
    assert report.passed(scenario), report.explain(report.bad()) or report.output


@pytest.mark.parametrize("wire", OURS)
def test_every_required_client_scenario_is_run_or_listed_with_its_reason(wire: str) -> None:
    for scenario in suite.client_scenarios(wire):
        listed = [one for one in OUT_OF_SCOPE if scenario.startswith(one["scenarios"])]
        assert (scenario in OURS[wire]) != bool(listed), scenario
    assert all(len(one["reason"]) > 40 for one in OUT_OF_SCOPE)
