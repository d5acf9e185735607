"""mesh.toml and the environment over it."""

from pathlib import Path

import pytest

from mesh_cli.failure import Exit, Failure
from mesh_cli.user_file import read

FULL = """
[server]
host = "127.0.0.1"
port = 3100
name = "office"
description = "tools of the office"

[tcp]
port = 9600

[security]
auth_enabled = false
cors_origins = ["https://app.example"]

[metrics]
enabled = true
path = "/metrics"

[performance]
max_connections = 50
request_timeout_seconds = 12
rate_limit_per_second = 500

[[mcp_servers]]
name = "files"
transport = "stdio"
command = "mcp-files"
args = ["--root", "${FILES_ROOT}"]
env = { TOKEN = "${FILES_TOKEN:-none}" }
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mesh.toml"
    path.write_text(text)
    return str(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(Failure) as caught:
        read(write(folder, text), {})
    assert caught.value.code is Exit.CONFIG
    return caught.value.what


def test_file_is_read_with_variables(tmp_path: Path) -> None:
    user = read(write(tmp_path, FULL), {"FILES_ROOT": "/srv"})

    assert user.content.server.port == 3100
    assert user.content.performance.rate_limit_per_second == 500
    (server,) = user.content.mcp_servers
    assert server.args == ("--root", "/srv")
    assert server.env == {"TOKEN": "none"}
    assert user.unused == ()


def test_no_file_is_all_defaults(tmp_path: Path) -> None:
    user = read(None, {}, folder=tmp_path)

    assert user.path == ""
    assert user.content.server.port == -1
    assert user.content.mcp_servers == ()


def test_file_in_the_folder_is_found_by_itself(tmp_path: Path) -> None:
    path = write(tmp_path, FULL.replace("${FILES_ROOT}", "/"))

    assert read(None, {}, folder=tmp_path).path == path


def test_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot read the file"):
        read(str(tmp_path / "none.toml"), {})


def test_unknown_key_is_refused_with_file_key_and_the_closest_known(tmp_path: Path) -> None:
    said = refusal(tmp_path, "[performance]\nrate_limit_per_secnd = 5\n")

    assert str(tmp_path / "mesh.toml") in said
    assert "performance.rate_limit_per_secnd" in said
    assert "did you mean rate_limit_per_second" in said


def test_unknown_key_of_a_server_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, '[[mcp_servers]]\nname = "a"\ncomand = "x"\n')

    assert "mcp_servers[0].comand" in said
    assert "command" in said


def test_wrong_type_is_refused_with_its_key(tmp_path: Path) -> None:
    assert "server.port" in refusal(tmp_path, '[server]\nport = "http"\n')


def test_port_out_of_range_is_refused(tmp_path: Path) -> None:
    assert "server.port" in refusal(tmp_path, "[server]\nport = 70000\n")


@pytest.mark.parametrize("name", ["a__b", "", "x" * 41, "a b", "-a"])
def test_bad_server_name_is_refused(tmp_path: Path, name: str) -> None:
    said = refusal(tmp_path, f'[[mcp_servers]]\nname = "{name}"\ncommand = "x"\n')

    assert "mcp_servers[0].name" in said


def test_server_named_twice_is_refused(tmp_path: Path) -> None:
    one = '[[mcp_servers]]\nname = "a"\ncommand = "x"\n'

    assert "used twice" in refusal(tmp_path, one + one)


def test_stdio_server_without_command_is_refused(tmp_path: Path) -> None:
    assert "needs a command" in refusal(tmp_path, '[[mcp_servers]]\nname = "a"\n')


def test_environment_of_earlier_systems_wins_over_the_file(tmp_path: Path) -> None:
    env = {
        "FILES_ROOT": "/",
        "MCP_SERVER_NAME": "lab",
        "MCP_SERVER_PORT": "3200",
        "MCP_HOST": "localhost",
        "MCP_TCP_PORT": "9700",
        "MCP_LOG_LEVEL": "DEBUG",
    }

    content = read(write(tmp_path, FULL), env).content

    assert (content.server.name, content.server.port) == ("lab", 3200)
    assert (content.server.host, content.tcp.port) == ("localhost", 9700)
    assert content.log.level == "DEBUG"


def test_environment_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="MCP_SERVER_PORT"):
        read(None, {"MCP_SERVER_PORT": "http"}, folder=tmp_path)


def test_tables_of_later_versions_are_accepted_and_reported(tmp_path: Path) -> None:
    user = read(write(tmp_path, '[firecracker]\nvm_id_prefix = "vm"\n'), {})

    assert user.unused == ("[firecracker]",)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[integrations.marketeer]\nenabled = true\n", "integrations.marketeer.url"),
        ("[firecracker]\nenabled = true\n", "firecracker"),
        ('[discovery]\nenabled = true\ntype = "etcd"\n', "discovery.etcd_endpoints"),
    ],
)
def test_what_a_user_would_rely_on_is_refused_while_it_is_missing(
    tmp_path: Path, text: str, key: str
) -> None:
    assert key in refusal(tmp_path, text)


@pytest.mark.parametrize("token", ["a" * 16, "!~" * 512, "of-my-own-choosing"])
def test_token_of_the_user_is_taken_from_file_and_environment(tmp_path: Path, token: str) -> None:
    path = write(tmp_path, '[security]\nauth_token = "${SECRET}"\n')

    assert read(path, {"SECRET": token}).content.security.auth_token == token
    over = read(path, {"SECRET": token, "MCP_AUTH_TOKEN": "x" * 20}).content
    assert over.security.auth_token == "x" * 20


@pytest.mark.parametrize(
    "token", ["a" * 15, "a" * 1025, "with a space in it", "é" * 20, "mk_live_" * 9]
)
def test_token_that_is_short_odd_or_a_key_of_the_mesh_is_refused_unseen(
    tmp_path: Path, token: str
) -> None:
    said = refusal(tmp_path, f'[security]\nauth_enabled = true\nauth_token = "{token}"\n')

    assert "security.auth_token" in said
    assert "MCP_AUTH_TOKEN" in said
    assert token not in said
