"""Keys, broker configuration, contexts and service files on disk."""

import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from mesh_cli import bootstrap, plan
from mesh_cli.contexts import Context
from mesh_cli.failure import Failure
from mesh_cli.state import StateDir


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / ".mesh")
    made.create()
    return made


def test_secrets_are_readable_by_their_owner_only(state: StateDir) -> None:
    bootstrap.ensure_keys(state, plan.users(1, 1))

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.keys.iterdir()}
    assert {"kek", "pepper", "operator.nk", "gateway-1.nk"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_keys_are_kept_from_start_to_start(state: StateDir) -> None:
    users = plan.users(1, 1)
    first = bootstrap.public_keys(bootstrap.ensure_keys(state, users))

    assert bootstrap.public_keys(bootstrap.ensure_keys(state, users)) == first


def test_token_of_the_user_is_private_and_goes_when_it_is_no_longer_named(
    state: StateDir,
) -> None:
    users = plan.users(1, 1)
    made_key = state.keys / "admin.key"
    for token in ("of-my-own-choosing", "another-of-my-own"):
        where = bootstrap.ensure_keys(state, users, static_token=token)
        path = Path(where.static_token_file)
        assert state.credential == path
        assert path.read_text() == f"{token}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    where = bootstrap.ensure_keys(state, users)

    assert where.static_token_file == ""
    assert not path.exists()
    assert state.credential == made_key


def test_spoilt_key_file_is_named(state: StateDir) -> None:
    users = plan.users(1, 1)
    where = bootstrap.ensure_keys(state, users)
    state.seed("operator").write_text("rubbish\n")

    with pytest.raises(Failure, match=r"operator\.nk"):
        bootstrap.public_keys(where)


def test_broker_accepts_its_configuration(state: StateDir) -> None:
    users = plan.users(2, 2)
    where = bootstrap.ensure_keys(state, users)
    bootstrap.write_broker(state, users, where, 4222)

    checked = subprocess.run(
        [str(Path(sys.executable).with_name("nats-server")), "-t", "-c", str(state.broker_config)],
        capture_output=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr


def test_contexts_are_what_the_nats_tool_reads(state: StateDir) -> None:
    bootstrap.write_contexts(state, 4333)

    files = {path.name: path for path in state.contexts.iterdir()}
    operator = msgspec.json.decode(files["operator.json"].read_bytes(), type=Context)
    assert operator.url == "nats://127.0.0.1:4333"
    assert operator.nkey == str(state.seed("operator"))
    assert operator.inbox_prefix == "_MESH.operator.cli"
    assert "demo.json" in files


def test_service_file_keeps_text_that_looks_like_a_variable(tmp_path: Path) -> None:
    instance = plan.Instance(
        service="tool-runner",
        name="runner-1",
        module="tool_runner",
        tables={"mcp_servers": [{"name": "a", "env": {"K": "${HOME}"}, "args": ["$5", "é"]}]},
    )
    path = tmp_path / "runner-1.toml"
    bootstrap.write_toml(path, instance)

    (server,) = tomllib.loads(path.read_text())["mcp_servers"]
    assert server["env"] == {"K": "$${HOME}"}
    assert server["args"] == ["$5", "é"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
