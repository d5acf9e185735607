"""Findings that need no running mesh."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_chassis.broker_config import new_nkey
from mesh_cli import bootstrap, plan
from mesh_cli.doctor import local
from mesh_cli.doctor.finding import Finding
from mesh_cli.plan import Instance, Ports
from mesh_cli.state import Endpoint, RunRecord, StateDir
from mesh_cli.user_file import MeshFile, ServerTable


def checks(findings: Iterator[Finding]) -> list[str]:
    return [finding.check for finding in findings]


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """A state directory as ``mesh up`` leaves it."""
    made = StateDir(tmp_path / ".mesh")
    made.create()
    users = plan.users(1, 1)
    where = bootstrap.ensure_keys(made, users)
    bootstrap.write_broker(made, users, where, 4222)
    ports = Ports(nats=4222, http=(3000,), tcp=(9500,))
    for instance in plan.instances(MeshFile(), [], ports=ports, where=where, runners=1):
        bootstrap.write_toml(made.service_config(instance.name), instance)
    return made


def test_sound_directory_has_no_findings(state: StateDir) -> None:
    assert checks(local.check_keys(state)) == []
    assert checks(local.check_leftovers(state)) == []


def test_key_that_others_can_read_is_found(state: StateDir) -> None:
    state.seed("gateway-1").chmod(0o644)

    (finding,) = local.check_keys(state)

    assert finding.check == "key-mode"
    assert finding.mend == f"chmod 600 {state.seed('gateway-1')}"


def test_missing_keys_are_found(state: StateDir) -> None:
    state.seed("runner-1").unlink()
    (state.keys / "kek").unlink()

    found = [finding.what for finding in local.check_keys(state)]

    assert len(found) == 2
    assert any("kek is missing" in what for what in found)
    assert any("runner-1.nk is missing" in what for what in found)


def test_key_that_the_broker_does_not_know_is_found(state: StateDir) -> None:
    state.seed("operator").write_text(new_nkey()[0])

    (finding,) = local.check_keys(state)

    assert finding.check == "wrong-key"
    assert "operator.nk" in finding.what


def test_keys_of_an_earlier_larger_mesh_are_no_finding(state: StateDir) -> None:
    for name in ("gateway-2", "runner-2"):
        seed = state.seed(name)
        seed.write_text(new_nkey()[0])
        seed.chmod(0o600)

    assert checks(local.check_keys(state)) == []


def test_rubbish_in_a_key_file_is_found(state: StateDir) -> None:
    state.seed("operator").write_text("rubbish")

    assert checks(local.check_keys(state)) == ["wrong-key"]


def test_stale_pid_is_found(state: StateDir) -> None:
    state.pid_file.write_text("12345\n")

    (finding,) = local.check_leftovers(state)

    assert finding.check == "stale-pid"
    assert "12345" in finding.what


def test_record_of_processes_that_are_gone_is_no_orphan(state: StateDir) -> None:
    point = Endpoint(instance="gateway-1", service="gateway", pid=2**22 - 1)
    state.write_run(RunRecord(pid=1, nats="", tenant="t", development=True, endpoints=(point,)))

    assert checks(local.check_leftovers(state)) == []


def test_taken_port_is_found_with_its_holder() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        content = MeshFile(server=ServerTable(port=port))

        found = [one for one in local.check_ports(content, None) if str(port) in one.what]

    assert len(found) == 1
    assert f"HTTP port {port} of 127.0.0.1 is taken by" in found[0].what
    assert "refuses to start" in found[0].why


def test_ports_of_the_running_mesh_are_no_finding() -> None:
    record = RunRecord(pid=1, nats="", tenant="t", development=True)

    assert checks(local.check_ports(None, record)) == []


def test_bad_user_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text("[server]\nprot = 1\n")

    (finding,) = local.check_user_file(str(path), {})

    assert finding.check == "config"
    assert str(path) in finding.what
    assert "server.prot" in finding.what


async def test_bad_service_file_is_found_by_asking_the_service(state: StateDir) -> None:
    tables = {"service": {"instance": "registry-1"}, "liveness": {"ttl": 5}}
    bad = Instance(service="registry", name="registry-1", module="registry", tables=tables)
    bootstrap.write_toml(state.service_config("registry-1"), bad)

    findings = await local.check_configs(state)

    assert [finding.check for finding in findings] == ["config"]
    assert "liveness.ttl" in findings[0].what


def test_everything_that_is_wrong_with_the_users_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(
        '[log]\nlevle = "info"\n[[mcp_servers]]\nname = "a"\ncommand = "there-is-no-such-program"\n'
    )
    found = [one.what for one in local.check_user_file(str(path), {"PATH": "/bin"})]
    assert [what.partition(": ")[0] for what in found] == [f"{path}:2", f"{path}:5"]
