"""Virtual servers from files and flags, and how those of mesh.toml reach the registry."""

import json
import tomllib
from pathlib import Path

import click
import msgspec
import pytest
import tomlkit

from mcp_proto.contracts.virtuals import VirtualServer
from mesh_chassis.config import load
from mesh_cli import plan, user_file
from mesh_cli.bootstrap import write_toml
from mesh_cli.commands.virtual import read_file
from mesh_cli.failure import Failure
from mesh_cli.options import checked_endpoint
from mesh_cli.plan import Ports, Where


class _Registry(msgspec.Struct, forbid_unknown_fields=True):
    """What the registry reads of its file."""

    service: dict[str, object] = {}
    bus: dict[str, object] = {}
    log: dict[str, object] = {}
    virtual_servers: tuple[VirtualServer, ...] = ()


ONE = """
name = "desk"

[[tools]]
server = "git"
tool = "log"
arguments.repo = { value = "${not a variable}" }
arguments.n = { default = 3 }
"""


def test_a_file_holds_one_definition_or_several(tmp_path: Path) -> None:
    one = tmp_path / "one.toml"
    one.write_text(ONE)
    (found,) = read_file(one)
    assert (found.name, found.tools[0].arguments["n"].default) == ("desk", 3)
    same = tmp_path / "one.json"
    same.write_bytes(msgspec.json.encode(found))
    assert read_file(same) == [found]
    many = tmp_path / "many.json"
    tables = [json.loads(same.read_text()), {"name": "b", "tools": [{"server": "x", "tool": "y"}]}]
    many.write_text(json.dumps({"virtual_servers": tables}))
    assert [read.name for read in read_file(many)] == ["desk", "b"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "name = ", "Invalid value"),
        ("a.json", "[", "truncated"),
        ("a.json", "[1]", "Expected `object`"),
        ("a.json", '{"name":"a","tols":[]}', "unknown field `tols`"),
        ("a.toml", 'name = "a"\n[[tools]]\nserver = "s"\n', "`tool` - at `$.tools[0]`"),
        ("a.toml", 'name = "a b"\n[[tools]]\nserver = "s"\ntool = "t"\n', "name: 'a b'"),
        ("a.json", '{"virtual_servers":[{"name":"a"}]}', "virtual_servers[0]: tools: "),
    ],
)
def test_a_bad_file_is_refused_saying_where(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(Failure) as caught:
        read_file(path)
    assert said in caught.value.what
    assert str(path) in caught.value.what
    with pytest.raises(Failure, match="No such file"):
        read_file(tmp_path / "missing.toml")


def test_a_bad_definition_in_mesh_toml_is_refused_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text('[[virtual_servers]]\nname = "a"\n')
    with pytest.raises(Failure, match=r"virtual_servers\[0\]\.tools: "):
        user_file.read(str(path), {})


def test_definitions_of_mesh_toml_reach_the_registry_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    # Doubled, a reference stands for itself: in the user's file, and again in the registry's.
    tables = tomllib.loads(ONE.replace("${", "$${"))
    path.write_text(tomlkit.dumps({"virtual_servers": [tables]}))
    content = user_file.read(str(path), {}).content
    names = [user.name for user in plan.users(1, 1)]
    registry = plan.instances(
        content,
        [],
        ports=Ports(nats=4222, http=(3000,), tcp=(9500,)),
        where=Where(seeds=dict.fromkeys(names, "seed"), kek_file="kek", pepper_file="pepper"),
        runners=1,
    )[0]
    written = tmp_path / "registry.toml"
    write_toml(written, registry)
    (stored,) = load(_Registry, written, {}).virtual_servers
    assert stored == content.virtual_servers[0]
    assert isinstance(stored, VirtualServer)
    assert stored.tools[0].arguments["repo"].value == "${not a variable}"


def test_an_endpoint_on_a_command_line_is_checked() -> None:
    assert checked_endpoint("v/desk") == "v/desk"
    with pytest.raises(click.BadParameter, match="is not u/SERVER or v/VIRTUAL"):
        checked_endpoint("desk")
