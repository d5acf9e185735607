"""The official suite through the mesh.

Every wire at every server, over every transport, through one gateway and through two behind random
routing, eras alike and eras bridged; at the endpoint of one server and at the aggregate beside a
server with the same names. Cases without the mark ``slow`` are the selection of ``make test``: the
hardest one of each kind.
"""

from pathlib import Path

import pytest
from tests.conformance import suite
from tests.conformance.conftest import FIXTURES
from tests.conformance.counts import Note, counted
from tests.conformance.expectations import verdict
from tests.conformance.judged import JUDGED
from tests.conformance.peers import HttpPeer
from tests.conformance.room import Room, Served
from tests.conformance.servers.extensions import APP_TOOL, APP_URI, UI

pytestmark = pytest.mark.timeout(240)

MODERN, *LEGACY = suite.REVISIONS
SELECTED = {
    ("native", MODERN, 2),
    ("legacy-http", "2025-11-25", 2),
}
BRIDGED = {
    ("modern-http", "2025-11-25", 2),
    ("legacy-stdio", MODERN, 2),
}
EXTENSIONS = "ext-http"
EVERYTHING = [one for one in FIXTURES if one.module == "everything" and one.era != "both"]


def _cases(*, bridged: bool, selected: set[tuple[str, str, int]]) -> list[object]:
    cases: list[object] = []
    for one in EVERYTHING:
        for wire in suite.REVISIONS:
            if bridged == ((wire == MODERN) == (one.era == "modern")):
                continue
            for gateways in (1, 2):
                slow = (one.name, wire, gateways) not in selected
                cases.append(
                    pytest.param(
                        one,
                        wire,
                        gateways,
                        id=f"{one.name}-{wire}-{gateways}",
                        marks=[pytest.mark.slow] if slow else [],
                    )
                )
    return cases


@pytest.mark.parametrize(("served", "wire", "gateways"), _cases(bridged=False, selected=SELECTED))
def test_suite_passes_at_the_endpoint_of_a_server_of_the_same_era(
    room: Room, served: Served, wire: str, gateways: int, tmp_path: Path, note: Note
) -> None:
    url = room.url(f"u/{served.name}", gateways=gateways)
    report = suite.run_server(url, wire, tmp_path)
    run = f"{served.name}-{gateways}"
    note(counted(report, group="/mcp/u/<server> of the same era", wire=wire, run=run))
    problem = verdict(report, JUDGED[wire], wire, served.era, served.name)
    assert not problem, problem


@pytest.mark.parametrize(("served", "wire", "gateways"), _cases(bridged=True, selected=BRIDGED))
def test_gateway_bridges_the_eras(
    room: Room, served: Served, wire: str, gateways: int, tmp_path: Path, note: Note
) -> None:
    """The bridging proof.

    A server pinned to the modern era asks by multi-round trips only (bridge A), one pinned to a
    legacy era by requests in mid-call only (bridge B); the suite speaks the other era.
    """
    url = room.url(f"u/{served.name}", gateways=gateways)
    report = suite.run_server(url, wire, tmp_path)
    run = f"{served.name}-{gateways}"
    note(counted(report, group=f"bridge to a {served.era} server", wire=wire, run=run))
    problem = verdict(report, JUDGED[wire], wire, f"bridged-{served.era}", served.name)
    assert not problem, problem


@pytest.mark.parametrize(
    ("wire", "gateways"),
    [
        pytest.param(MODERN, 2),
        *(pytest.param(wire, 1, marks=pytest.mark.slow) for wire in suite.REVISIONS),
        *(pytest.param(wire, 2, marks=pytest.mark.slow) for wire in LEGACY),
    ],
)
def test_suite_passes_at_the_aggregate_beside_a_server_with_the_same_names(
    room: Room, wire: str, gateways: int, tmp_path: Path, note: Note
) -> None:
    report = suite.run_server(room.url(gateways=gateways), wire, tmp_path)
    group = "/mcp beside colliding servers"
    note(counted(report, group=group, wire=wire, run=f"native-{gateways}"))
    problem = verdict(report, JUDGED[wire], wire, "aggregate")
    assert not problem, problem


@pytest.mark.parametrize(
    ("server", "gateways"),
    [
        pytest.param("tasks-http", 1, marks=pytest.mark.slow),
        pytest.param("tasks-http", 2, marks=pytest.mark.slow),
        pytest.param("tasks-stdio", 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("scenario", suite.TASKS)
def test_tasks_scenario_passes_through_the_mesh(
    room: Room, server: str, gateways: int, scenario: str, tmp_path: Path, note: Note
) -> None:
    url = room.url(f"u/{server}", gateways=gateways)
    report = suite.run_server(url, MODERN, tmp_path, scenario=scenario)
    run = f"{server}-{gateways}"
    note(counted(report, group="tasks extension", wire=MODERN, run=run, only=scenario))
    problem = verdict(report, frozenset((scenario,)), MODERN, "tasks", server)
    assert not problem, problem


@pytest.mark.slow
@pytest.mark.parametrize("scenario", suite.SKILLS)
@pytest.mark.parametrize("endpoint", [f"u/{EXTENSIONS}", ""])
def test_skills_scenario_passes_through_the_mesh(
    room: Room, endpoint: str, scenario: str, tmp_path: Path, note: Note
) -> None:
    url = room.url(endpoint, gateways=2)
    report = suite.run_server(url, MODERN, tmp_path, scenario=scenario)
    note(counted(report, group="skills extension", wire=MODERN, run=endpoint, only=scenario))
    assert report.passed(scenario), report.explain(report.bad()) or report.output


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "prefix"), [(f"u/{EXTENSIONS}", ""), ("", f"{EXTENSIONS}__")])
async def test_an_app_reaches_its_client_as_its_server_wrote_it(
    room: Room, endpoint: str, prefix: str
) -> None:
    capabilities = {"extensions": {UI: {"mimeTypes": ["text/html;profile=mcp-app"]}}}
    peer = HttpPeer(f"{room.mesh.http}/mcp/{endpoint}".rstrip("/"), MODERN, capabilities)
    try:
        discovered = await peer.result("server/discover")
        assert UI in discovered["capabilities"]["extensions"]
        name = f"{prefix}{APP_TOOL['name']}"
        tools = {tool["name"]: tool for tool in await peer.everything("tools/list", "tools")}
        assert tools[name] == {**APP_TOOL, "name": name}
        (content,) = (await peer.result("resources/read", {"uri": APP_URI}))["contents"]
        assert content["mimeType"] == "text/html;profile=mcp-app"
        assert content["_meta"] == {"ui": {"csp": {"connectDomains": ["https://time.example"]}}}
    finally:
        await peer.close()


def test_balancer_sent_requests_to_both_gateways(room: Room, tmp_path: Path) -> None:
    before = list(room.proxy.chosen)
    suite.run_server(room.url("u/native", gateways=2), MODERN, tmp_path, scenario="tools-list")
    suite.run_server(room.url("u/native", gateways=2), MODERN, tmp_path, scenario="caching")
    assert sum(room.proxy.chosen) > sum(before)
    assert all(room.proxy.chosen), room.proxy.chosen
