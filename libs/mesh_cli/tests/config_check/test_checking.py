"""``mesh config check`` reports everything that is wrong, where it stands."""

from pathlib import Path

import pytest

from mesh_cli.config_check.checking import check, read_again
from mesh_cli.failure import Exit, Failure
from mesh_cli.main import run

WRONG = """
[server]
port = 99999
naem = "x"
[security]
auth_token = "short"
[metrics]
path = "/tools/x"
[firecracker]
enabled = true
[[mcp_servers]]
name = "kv"
command = "there-is-no-such-program"
[[mcp_servers]]
comand = "python"
[[mcp_servers]]
name = "prom"
type = "prometheus"
url = "http://127.0.0.1:9090"
settings = { points_max = 0 }
[[mcp_servers]]
name = "prom"
command = "true"
[[mcp_servers]]
name = "far"
transport = "http"
url = "https://mcp.example.com/mcp"
bearer = "env:NOT_SET_ANYWHERE"
headers = { X-Key = "file:/nonexistent/key" }
"""
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def write(folder: Path, text: str) -> Path:
    path = folder / "mesh.toml"
    path.write_text(text)
    return path


def found(path: Path, **env: str) -> list[tuple[int, str, str]]:
    checked = check(str(path), {**ENVIRONMENT, **env})
    return [(one.line, one.key, one.text) for one in checked.found]


def test_every_problem_of_a_file_is_found_with_its_line(tmp_path: Path) -> None:
    places = [(line, key) for line, key, _ in found(write(tmp_path, WRONG))]
    assert places == [
        (3, "server.port"),
        (4, "server.naem"),
        (6, "security.auth_token (or MCP_AUTH_TOKEN)"),
        (8, "metrics.path"),
        (10, "firecracker.enabled"),
        (12, "mcp_servers[0].name"),
        (13, "mcp_servers[0].command"),
        (14, "mcp_servers[1].name"),
        (15, "mcp_servers[1].comand"),
        (20, "mcp_servers[2].settings.points_max"),
        (22, "mcp_servers[3].name"),
        (28, "mcp_servers[4].bearer"),
        (29, "mcp_servers[4].headers.X-Key"),
    ]


def test_misspelt_key_names_the_closest_one(tmp_path: Path) -> None:
    ((line, key, text),) = found(write(tmp_path, "[log]\nlevle = 'info'\n"))
    assert (line, key) == (2, "log.levle")
    assert "did you mean level?" in text


def test_file_that_is_no_toml_names_the_line(tmp_path: Path) -> None:
    ((line, _, text),) = found(write(tmp_path, "[log]\nlevel = \n"))
    assert line == 2
    assert "not valid TOML" in text


def test_secret_that_is_there_is_no_problem(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("x")
    path = write(
        tmp_path,
        f"""
        [[mcp_servers]]
        name = "far"
        transport = "http"
        url = "https://mcp.example.com/mcp"
        bearer = "env:FAR_TOKEN"
        headers = {{ X-Key = "file:{secret}" }}
        """,
    )
    assert found(path, FAR_TOKEN="x") == []
    assert [key for _, key, _ in found(path)] == ["mcp_servers[0].bearer"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[server]\nhost = "0.0.0.0"\n', "server.host"),
        ("[server]\nport = 4000\n[tcp]\nport = 4000\n", "tcp.port"),
        ('[security]\ncors_origins = ["*"]\n', "security.cors_origins"),
        ('[[virtual_servers]]\nname = "a b"\n', "virtual_servers[0].name"),
    ],
)
def test_values_that_do_not_go_together_are_found(tmp_path: Path, text: str, key: str) -> None:
    assert key in [one[1] for one in found(write(tmp_path, text))]


def test_wrong_variable_of_the_environment_is_found(tmp_path: Path) -> None:
    ((line, _, text),) = found(write(tmp_path, ""), MCP_SERVER_PORT="many")
    assert line == 0
    assert "MCP_SERVER_PORT" in text


def test_reload_refuses_a_wrong_file_but_not_a_missing_program(tmp_path: Path) -> None:
    write(tmp_path, '[[mcp_servers]]\nname = "a"\ncommand = "there-is-no-such-program"\n')
    assert read_again(None, ENVIRONMENT, tmp_path).content.mcp_servers[0].name == "a"
    write(tmp_path, WRONG)
    with pytest.raises(Failure) as refused:
        read_again(None, ENVIRONMENT, tmp_path)
    assert refused.value.code == Exit.CONFIG
    assert "mesh.toml:4: server.naem" in refused.value.what


def test_command_says_ok_or_ends_with_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MCP_AUTH_TOKEN", raising=False)
    path = write(tmp_path, "[log]\nlevel = 'debug'\n")
    assert run(["config", "check", str(path)]) == 0
    assert capsys.readouterr().err == f"{path}: ok\n"
    write(tmp_path, "[log]\nlevel = 'loud'\n")
    assert run(["config", "check", str(path)]) == 78
    assert capsys.readouterr().err.startswith(f"{path}:2: log.level: ")
    assert run(["config", "check", str(tmp_path / "absent.toml")]) == 78
