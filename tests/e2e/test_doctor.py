"""``mesh doctor`` finds what is wrong with a real mesh, and says nothing of one that is well."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import run
from tests.e2e.running_mesh import PLAIN_ENVIRONMENT, RunningMesh

from mesh_chassis.broker_config import new_nkey

pytestmark = pytest.mark.slow

SHIFTED = """\
import sys, time
real = time.time
time.time = lambda: real() + {seconds}
from mesh_cli.main import main
main(sys.argv[1:])
"""


def findings(mesh: RunningMesh, *words: str) -> dict[str, str]:
    """Kind of finding → everything said about it."""
    done = mesh.mesh("doctor", "--json", *words, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found else 0)
    for one in found:
        assert one["what"]
        assert one["why"]
        assert one["mend"]
    told: dict[str, str] = {}
    for one in found:
        words = f"{one['what']} {one['why']} {one['mend']}\n"
        told[one["check"]] = told.get(one["check"], "") + words
    return told


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh of one's own: servers that other tests add would be findings."""
    yield from run(RunningMesh(tmp_path_factory.mktemp("doctor") / "room"))


@pytest.fixture
def ill(well: RunningMesh, tmp_path: Path) -> RunningMesh:
    """A stopped mesh: a copy of the files of one that runs."""
    mesh = RunningMesh(tmp_path / "room")
    shutil.copytree(well.state, mesh.state, ignore=shutil.ignore_patterns("jetstream", "run.json"))
    (mesh.state / "mesh.pid").write_text("")
    return mesh


def test_healthy_mesh_has_no_findings(well: RunningMesh) -> None:
    done = well.mesh("doctor")
    first, *walls = done.stdout.strip().splitlines()
    assert first == "nothing is wrong"
    assert [row.split()[1] for row in walls[1:]] == ["none", "sandbox", "container", "vm"]


def test_missing_broker_is_found(ill: RunningMesh) -> None:
    assert "mesh up" in findings(ill)["broker"]


def test_taken_port_is_found_with_the_program_that_has_it(ill: RunningMesh) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (ill.room / "mesh.toml").write_text(f"[server]\nport = {port}\n")
        told = findings(ill)["port"]
    assert str(port) in told
    assert "pid" in told


def test_misspelt_key_of_the_configuration_is_found(ill: RunningMesh) -> None:
    (ill.room / "mesh.toml").write_text("[server]\nhosst = '127.0.0.1'\n")
    told = findings(ill)["config"]
    assert "hosst" in told
    assert "mesh.toml" in told
    assert "host" in told.replace("hosst", "")


def test_dead_upstream_is_found_with_its_reason(well: RunningMesh) -> None:
    well.mesh("server", "add", "dead", "--wait", "0s", "--", "false")
    try:
        told = findings(well)["upstream"]
        assert "dead" in told
    finally:
        well.mesh("server", "remove", "dead")


def test_skewed_clock_is_found(well: RunningMesh) -> None:
    for seconds, word in ((60, "ahead"), (-60, "behind")):
        done = subprocess.run(
            [sys.executable, "-c", SHIFTED.format(seconds=seconds), "doctor", "--json"],
            cwd=well.room,
            env=PLAIN_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        found = {one["check"]: one["what"] for one in json.loads(done.stdout)}
        assert "60" in found["clock"] or "59" in found["clock"]
        assert word in found["clock"]


def test_wrong_key_is_found(well: RunningMesh) -> None:
    for user in ("operator", "gateway-1"):
        path = Path(well.seed(user))
        right = path.read_text()
        try:
            path.write_text(new_nkey()[0])  # as good as any, but of another mesh
            assert user in findings(well)["wrong-key"]
        finally:
            path.write_text(right)
    assert findings(well) == {}


def test_unreadable_key_and_open_mode_are_found(well: RunningMesh) -> None:
    seed = Path(well.seed("stdio-9"))
    right = seed.read_text()
    try:
        seed.write_text("not a key\n")
        assert "stdio-9" in findings(well)["wrong-key"]
        seed.write_text(right)
        seed.chmod(0o644)
        assert "chmod 600" in findings(well)["key-mode"]
    finally:
        seed.write_text(right)
        seed.chmod(0o600)


def test_service_that_hangs_is_found(well: RunningMesh) -> None:
    well.kill("registry-1", signal.SIGSTOP)
    try:
        assert "registry-1" in findings(well)["service"]
    finally:
        well.kill("registry-1", signal.SIGCONT)


GUARDED = f"""
[security]
auth_enabled = true

[[mcp_servers]]
name = "broken"
command = "{sys.executable}"
args = ["-c", "import sys; sys.exit('no database')"]
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that asks for keys, whose one server never starts."""
    yield from run(RunningMesh(tmp_path_factory.mktemp("guarded") / "room", config=GUARDED))


def test_server_that_never_started_is_listed_found_and_can_be_restarted(
    guarded: RunningMesh,
) -> None:
    (row,) = (
        one
        for one in json.loads(guarded.mesh("server", "list", "--json").stdout)
        if one["server"] == "broken"
    )
    assert row["state"] in {"failing", "quarantined"}
    assert row["defined"] == "config"
    assert "exited with status 1" in row["reason"]
    assert row["log"][-1] == "no database"
    assert "exited with status 1" in guarded.mesh("server", "list").stdout
    told = findings(guarded)["upstream"]
    assert "exited with status 1" in told
    assert "it last said: no database" in told
    assert "mesh server restart broken" in told
    assert "restarting broken" in guarded.mesh("server", "restart", "broken").stdout


def test_server_that_dies_after_it_has_run_is_found(guarded: RunningMesh, tmp_path: Path) -> None:
    flag = tmp_path / "gone"
    program = f"test -e {flag} && exit 7; exec {sys.executable} -m mcp_server_time"
    guarded.mesh("server", "add", "brief", "--", "sh", "-c", program)
    try:
        assert "brief" not in findings(guarded)["upstream"]
        flag.touch()
        guarded.mesh("server", "restart", "brief")
        until = time.monotonic() + 20
        while "brief" not in (told := findings(guarded)["upstream"]):
            assert time.monotonic() < until
        assert "exited with status 7" in told
        (row,) = (
            one
            for one in json.loads(guarded.mesh("server", "list", "--json").stdout)
            if one["server"] == "brief"
        )
        assert row["state"] in {"failing", "quarantined"}
        assert row["tools"] > 0
    finally:
        guarded.mesh("server", "remove", "brief")
