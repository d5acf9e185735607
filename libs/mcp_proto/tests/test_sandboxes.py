"""What may be said about isolation, in a definition and in a file."""

import msgspec
import pytest

from mcp_proto.contracts.registry import ContainerOptions, ServerDefinition
from mcp_proto.sandboxes import (
    SandboxOptions,
    SandboxTable,
    sandbox_options_problem,
    sandbox_table_problem,
)
from mcp_proto.server_types import server_problem

STDIO = ServerDefinition(name="a", command="server")


def problem(definition: ServerDefinition, **fields: object) -> str | None:
    return server_problem(msgspec.structs.replace(definition, **fields))


@pytest.mark.parametrize("isolation", ["", "none", "sandbox"])
def test_a_program_may_be_isolated_in_these_ways(isolation):
    assert problem(STDIO, isolation=isolation) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"isolation": "jail"}, "must be one of none, sandbox, container, vm"),
        ({"isolation": "vm"}, "not built yet"),
        ({"isolation": "container"}, "needs an image"),
        ({"isolation": "sandbox", "image": "acme/server", "command": ""}, "runs in a container"),
        ({"isolation": "none", "image": "acme/server"}, "runs in a container"),
        ({"sandbox": SandboxOptions()}, 'isolation must be "sandbox"'),
        ({"isolation": "none", "sandbox": SandboxOptions()}, 'isolation must be "sandbox"'),
        ({"isolation": "sandbox", "sandbox": SandboxOptions(network="lan")}, "network"),
        ({"isolation": "sandbox", "container": ContainerOptions()}, "with an image"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_wrong(fields, words):
    said = problem(STDIO, **fields)
    assert said is not None
    assert words in said


def test_an_image_is_a_container_whether_it_says_so_or_not():
    for isolation in ("", "container"):
        assert problem(STDIO, image="acme/server", isolation=isolation) is None


def test_servers_that_are_no_processes_have_no_isolation():
    http = ServerDefinition(name="a", transport="http", url="https://example.com/mcp")
    assert problem(http) is None
    assert "processes" in (problem(http, isolation="sandbox") or "")
    docker = ServerDefinition(name="a", type="docker")
    assert "processes" in (problem(docker, isolation="sandbox") or "")


def test_a_server_of_type_command_may_be_in_a_sandbox():
    tools = [{"name": "t", "description": "d", "argv": ["true"]}]
    command = ServerDefinition(name="a", type="command", settings={"tools": tools})
    assert problem(command, isolation="sandbox", sandbox=SandboxOptions()) is None
    assert "not built yet" in (problem(command, isolation="vm") or "")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"read_only": ("relative",)}, "read_only: 'relative' is no absolute path"),
        ({"read_only": ("/srv/../etc",)}, "absolute"),
        ({"read_only": ("/srv//x",)}, "absolute"),
        ({"read_only": ("/srv\0x",)}, "absolute"),
        ({"read_only": ("/",)}, "whole"),
        ({"read_write": ("/etc",)}, "read_write: /etc is too much"),
        ({"read_write": ("/var/run/docker.sock",)}, "root on this machine"),
        ({"read_only": ("/proc/1",)}, "made anew"),
        ({"read_only": tuple(f"/srv/{n}" for n in range(65))}, "at most 64"),
        ({"environment": ("A-B",)}, "no name of a variable"),
        ({"environment": ("MESH_TOKEN",)}, "belongs to the mesh"),
        ({"environment": ("mcp_auth_token",)}, "belongs to the mesh"),
        ({"environment": tuple(f"A{n}" for n in range(65))}, "at most 64"),
        ({"memory_mb": 1}, "memory_mb must be 6 to"),
        ({"memory_mb": -1}, "memory_mb"),
        ({"cpus": 5000}, "cpus"),
        ({"pids": 1}, "pids"),
        ({"files": 3}, "files"),
        ({"file_mb": -5}, "file_mb"),
        ({"tmp_mb": 1 << 40}, "tmp_mb"),
    ],
)
def test_wishes_are_bounded(fields, words):
    said = sandbox_options_problem(SandboxOptions(**fields))
    assert said is not None
    assert words in said


def test_wishes_that_say_nothing_are_fine():
    assert sandbox_options_problem(SandboxOptions()) is None
    assert sandbox_table_problem(SandboxTable()) is None


def test_folders_for_tenants_are_named_by_their_key():
    said = sandbox_table_problem(SandboxTable(tenant_paths=("/etc",)))
    assert (
        said
        == "sandbox.tenant_paths: /etc is too much to be given whole; name what is needed of it"
    )
