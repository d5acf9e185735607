"""Blocks to paste are valid and absolute."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from mesh_cli.commands.client_config import CLIENTS, Block, Way, mesh_command, render

OPEN = Way(url="http://127.0.0.1:3000/mcp", argv=("/opt/a b/mesh", "stdio", "--state", "/s/.mesh"))
GUARDED = msgspec.structs.replace(OPEN, token=True)


def blocks(client: str, way: Way) -> list[Block]:
    return CLIENTS[client][1](way)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("way", [OPEN, GUARDED])
def test_every_block_is_valid_json_toml_or_a_command(client: str, way: Way) -> None:
    for block in blocks(client, way):
        if block.text.startswith("{"):
            assert msgspec.json.decode(block.text)
        elif block.text.startswith("["):
            assert tomllib.loads(block.text)["mcp_servers"]["mesh"]
        else:
            assert block.text.startswith(("claude mcp add", "http://"))


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_gets_the_stdio_edge_by_absolute_path(client: str) -> None:
    assert "/opt/a b/mesh" in render(client, OPEN)
    assert "/s/.mesh" in render(client, OPEN)


def test_vscode_uses_its_own_names() -> None:
    http, stdio = (msgspec.json.decode(block.text) for block in blocks("vscode", OPEN))

    assert http == {"servers": {"mesh": {"type": "http", "url": OPEN.url}}}
    assert stdio["servers"]["mesh"]["type"] == "stdio"


def test_codex_names_the_variable_of_the_token_not_the_token() -> None:
    http, _ = (tomllib.loads(block.text) for block in blocks("codex", GUARDED))

    assert http["mcp_servers"]["mesh"]["bearer_token_env_var"] == "MCP_AUTH_TOKEN"


def test_token_is_left_out_where_none_is_needed() -> None:
    assert not any("Authorization" in render(client, OPEN) for client in CLIENTS)


def test_command_line_of_this_program_is_absolute() -> None:
    assert Path(mesh_command()[0]).is_absolute()
