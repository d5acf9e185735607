"""The schema takes what ``mesh up`` takes, and refuses what an editor can know to be wrong."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from mcp_proto.server_types import TYPES
from mesh_cli.config_check.schema import schema
from mesh_cli.main import run

ROOT = Path(__file__).parents[4]
EXAMPLES = sorted(
    path
    for folder in ("examples", "deploy")
    for path in (ROOT / folder).rglob("*.toml")
    if path.name.startswith("mesh")
)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    # As editors get it: through JSON.
    return msgspec.json.decode(msgspec.json.encode(schema()))


@pytest.fixture(scope="module")
def validator(made: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(made)


def test_schema_is_a_schema(made: dict[str, Any]) -> None:
    assert jsonschema_rs.meta.is_valid(made)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_schema_takes_every_example(
    validator: jsonschema_rs.Draft202012Validator, path: Path
) -> None:
    errors = validator.iter_errors(tomllib.loads(path.read_text()))
    assert [(error.instance_path, error.message) for error in errors] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[server]\nhost = "${HOST:-127.0.0.1}"\nport = 0\n',
        '[log]\nlevel = "WARNING"\n',
        '[log]\nlevel = "${LEVEL}"\n',
        '[storage]\nbackend = "${BACKEND:-jetstream}"\n',
        '[[mcp_servers]]\nname = "a"\ncommand = "x"\nargs = ["y"]\n',
        '[[mcp_servers]]\nname = "p"\ntype = "prometheus"\nsettings = { points_max = 10 }\n',
        '[[virtual_servers]]\nname = "v"\n',
    ],
)
def test_schema_takes_right_files(validator: jsonschema_rs.Draft202012Validator, text: str) -> None:
    assert [error.message for error in validator.iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[server]\nprot = 1\n", ["server"]),
        ("[server]\nport = 70000\n", ["server", "port"]),
        ('[log]\nlevel = "loud"\n', ["log", "level"]),
        ('[storage]\nbackend = "disk"\n', ["storage", "backend"]),
        ('[[mcp_servers]]\ncommand = "x"\n', ["mcp_servers", 0]),
        ('[[mcp_servers]]\nname = "a"\ntype = "dokcer"\n', ["mcp_servers", 0, "type"]),
        (
            '[[mcp_servers]]\nname = "p"\ntype = "prometheus"\nsettings = { points_max = 0 }\n',
            ["mcp_servers", 0, "settings", "points_max"],
        ),
        (
            '[[mcp_servers]]\nname = "d"\ntype = "docker"\nsettings = { points_max = 1 }\n',
            ["mcp_servers", 0, "settings"],
        ),
    ],
)
def test_schema_refuses_wrong_files_at_the_place(
    validator: jsonschema_rs.Draft202012Validator, text: str, path: list[str | int]
) -> None:
    found = [error.instance_path for error in validator.iter_errors(tomllib.loads(text))]
    assert found == [path]


def test_every_type_of_server_has_its_settings(made: dict[str, Any]) -> None:
    branches = made["$defs"]["ServerDefinition"]["allOf"]
    assert [one["if"]["properties"]["type"]["const"] for one in branches] == list(TYPES)


def test_keys_say_what_they_mean(made: dict[str, Any]) -> None:
    server = made["$defs"]["ServerTable"]["properties"]
    assert server["host"]["description"].startswith("address of the HTTP edge")


def test_command_prints_it(capsys: pytest.CaptureFixture[str], made: dict[str, Any]) -> None:
    assert run(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == made
