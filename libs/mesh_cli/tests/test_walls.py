"""Tests of mesh_cli.walls and of what the plan says of sandboxes."""

import msgspec
import pytest

from mcp_proto.containers import ContainersTable
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.sandboxes import SandboxOptions, SandboxTable
from mesh_cli.config_check.surroundings import around
from mesh_cli.failure import Exit, Failure
from mesh_cli.plan import Ports, Where, instances
from mesh_cli.user_file import MeshFile, SecurityTable, problems
from mesh_cli.walls import sandbox_options, walls


def test_options_are_read_as_the_kinds_they_are():
    said = sandbox_options(
        ("read_only=/a", "read_only=/b", "network=host", "memory_mb=64", "cpus=0.5")
    )
    assert said == SandboxOptions(read_only=("/a", "/b"), network="host", memory_mb=64, cpus=0.5)
    assert sandbox_options(()) is None


@pytest.mark.parametrize("pair", ["memory_mb", "=1", "memory_mb=many", "unknown=1"])
def test_an_option_that_makes_no_sense_is_a_mistake_of_the_caller(pair):
    with pytest.raises(Failure) as caught:
        sandbox_options((pair,))
    assert caught.value.code == Exit.USAGE


async def test_what_does_not_work_here_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "file").touch()
    for engine, words in ((tmp_path / "no.sock", "No such file"), (tmp_path / "file", "no socket")):
        rows = await walls(ContainersTable(engine=f"unix://{engine}"), SandboxTable())
        assert [one.isolation for one in rows] == ["none", "sandbox", "container", "vm"]
        assert [one.works for one in rows] == [True, False, False, False]
        assert "not installed" in rows[1].said
        assert words in rows[2].said


def tenants(content: MeshFile) -> str:
    made = instances(
        content,
        (),
        ports=Ports(nats_host="127.0.0.1", nats=1, http=(2,), tcp=(3,)),
        where=WHERE,
        runners=1,
    )
    runner = next(one for one in made if one.service == "tool-runner")
    return runner.tables["sandbox"]["tenant_servers"]


WHERE = Where(
    seeds=dict.fromkeys(("gateway-1", "registry-1", "tenant-auth-1", "runner-1"), "x"),
    pepper_file="p",
    kek_file="k",
    work_dir="w",
)


def test_development_mode_runs_tenants_servers_without_a_sandbox_where_there_is_none():
    assert tenants(MeshFile()) == "where_possible"
    guarded = MeshFile(security=SecurityTable(auth_enabled=True))
    assert tenants(guarded) == "sandbox"
    for chosen in ("sandbox", "none"):
        table = SandboxTable(tenant_servers=chosen)
        assert tenants(msgspec.structs.replace(MeshFile(), sandbox=table)) == chosen


def test_a_file_that_names_what_is_not_there_is_told_so(tmp_path):
    server = ServerDefinition(
        name="a",
        command="sh",
        isolation="sandbox",
        sandbox=SandboxOptions(read_only=(str(tmp_path / "no"),)),
    )
    found = [str(one.key) for one in around(MeshFile(mcp_servers=(server,)), {"PATH": "/none"})]
    assert "mcp_servers[0].isolation" in found
    assert "mcp_servers[0].sandbox.read_only" in found


def test_a_file_whose_isolation_cannot_be_is_refused():
    server = ServerDefinition(name="a", command="sh", isolation="vm")
    content = MeshFile(mcp_servers=(server,), sandbox=SandboxTable(tenant_paths=("/etc",)))
    said = {one.key: one.text for one in problems(content)}
    assert "not built yet" in said["mcp_servers[0]"]
    assert "too much" in said["sandbox.tenant_paths"]
