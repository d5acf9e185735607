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
from tests.conformance.counts import Note, counted
from tests.conformance.room import Room

pytestmark = [pytest.mark.usefixtures("official"), pytest.mark.timeout(240), pytest.mark.slow]

MODERN, LEGACY = suite.FROZEN
AUTHORIZATION = (
    "auth/metadata-default",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/basic-cimd",
    "auth/scope-from-www-authenticate",
    "auth/scope-from-scopes-supported",
    "auth/scope-omitted-when-undefined",
    "auth/scope-step-up",
    "auth/scope-retry-limit",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-post",
    "auth/token-endpoint-auth-none",
    "auth/pre-registration",
)
"""Of both eras."""
OURS = {
    MODERN: (
        "tools_call",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        *AUTHORIZATION,
        "auth/resource-mismatch",
        "auth/offline-access-scope",
        "auth/offline-access-not-supported",
        "auth/authorization-server-migration",
        "auth/iss-supported",
        "auth/iss-not-advertised",
        "auth/iss-supported-missing",
        "auth/iss-wrong-issuer",
        "auth/iss-unexpected",
        "auth/iss-normalized",
        "auth/metadata-issuer-mismatch",
    ),
    LEGACY: (
        "initialize",
        "tools_call",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
        "json-schema-2020-12-preservation",
        *AUTHORIZATION,
    ),
}
BESIDE = {
    "2025-03-26": (
        "auth/2025-03-26-oauth-metadata-backcompat",
        "auth/2025-03-26-oauth-endpoint-fallback",
    ),
    "": ("auth/client-credentials-basic",),
}
"""Not required: the authorization of the first revision that had one, and an extension."""
RUN = {**OURS, **BESIDE}
OPEN: dict[str, str] = {}
"""What does not pass yet and why; a scenario that begins to pass fails until it is taken out."""
OUT_OF_SCOPE = {
    one["scenario"]: one["reason"]
    for one in tomllib.loads((Path(__file__).parent / "out_of_scope.toml").read_text())["client"]
}


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
        for wire in RUN
        for scenario in RUN[wire]
    ],
)
def test_mesh_is_the_client_that_the_suite_wants(
    quiet: Room, wire: str, scenario: str, tmp_path: Path, note: Note
) -> None:
    gateway = quiet.proxy.url
    words = (sys.executable, "-m", "tests.conformance.driver", str(quiet.mesh.room), gateway)
    report = suite.run_client(" ".join(words), scenario, wire, tmp_path)
    leg = "client leg" if wire in OURS else "client leg, not required"
    note(counted(report, group=leg, wire=wire or "extensions", run="quiet", only=scenario))
    assert report.passed(scenario), f"{report.explain(report.bad())}\n{report.output}"


@pytest.mark.parametrize("wire", OURS)
def test_every_required_client_scenario_is_run_and_every_extension_run_or_listed(wire: str) -> None:
    for scenario in suite.client_scenarios(wire):
        assert scenario in OURS[wire], scenario
    for scenario in suite.client_extensions(wire):
        assert (scenario in BESIDE[""]) != (scenario in OUT_OF_SCOPE), scenario


def test_only_extensions_are_out_of_scope() -> None:
    extensions = {name for wire in OURS for name in suite.client_extensions(wire)}
    assert set(OUT_OF_SCOPE) <= extensions
    assert all(len(reason) > 40 for reason in OUT_OF_SCOPE.values())
