"""How a program finds its mesh: what is given, the environment, a directory, a context."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mesh_chassis.config import ConfigError
from mesh_sdk.agent.config import AgentConfig, AgentSection
from mesh_sdk.agent.process import config_of
from mesh_sdk.connect import find, take_seat


def state(room: Path, **run: Any) -> Path:
    folder = room / ".mesh"
    (folder / "keys").mkdir(parents=True)
    for n in (1, 2):
        (folder / "keys" / f"agent-{n}.nk").write_text("seed")
    record = {
        "pid": 1, "nats": "nats://127.0.0.1:4333", "tenant": "demo-tenant", "development": True,
        "endpoints": [{"instance": "gateway-1", "service": "gateway", "pid": 2,
                       "http": "http://127.0.0.1:3000", "tcp": "127.0.0.1:9500"}],
    } | run  # fmt: skip
    (folder / "run.json").write_bytes(msgspec.json.encode(record))
    return folder


def test_program_below_a_running_mesh_finds_it(tmp_path: Path) -> None:
    folder = state(tmp_path)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = find(env={}, start=below)
    assert (found.nats, found.http, found.tcp) == (
        "nats://127.0.0.1:4333", "http://127.0.0.1:3000", "127.0.0.1:9500",
    )  # fmt: skip
    assert (found.tenant, found.development, found.state) == ("demo-tenant", True, str(folder))
    assert find("http://127.0.0.1:3000", env={}, start=below).state == str(folder)


def test_url_of_another_mesh_takes_nothing_of_the_one_here(tmp_path: Path) -> None:
    state(tmp_path)
    found = find("nats://elsewhere:4222", env={"MESH_TENANT": "acme"}, start=tmp_path)
    assert (found.nats, found.state, found.development) == ("nats://elsewhere:4222", "", False)
    assert found.tenant == "acme"


def test_environment_decides_where_nothing_is_given(tmp_path: Path) -> None:
    seed = tmp_path / "seed.nk"
    seed.write_text("S")
    env = {"NATS_URL": "nats://b:1", "MESH_NKEY_SEED": str(seed), "MESH_KEY": "mk_x"}
    found = find(env=env, start=tmp_path)
    assert (found.url, found.seed_file, found.key) == ("nats://b:1", str(seed), "mk_x")
    assert find(env={**env, "MESH_URL": "https://mesh.example"}, start=tmp_path).http == (
        "https://mesh.example"
    )


def test_seed_that_is_no_file_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find(env={"MESH_NKEY_SEED": "SUSECRETSEED"}, start=tmp_path)
    assert "SUSECRET" not in str(caught.value)


def test_selected_context_of_the_nats_tool_comes_last(tmp_path: Path) -> None:
    contexts = tmp_path / "nats" / "context"
    contexts.mkdir(parents=True)
    (tmp_path / "nats" / "context.txt").write_text("prod\n")
    (contexts / "prod.json").write_text('{"url":"nats://p:4222","nkey":"/k.nk","description":"x"}')
    found = find(env={"XDG_CONFIG_HOME": str(tmp_path)}, start=tmp_path)
    assert (found.nats, found.seed_file) == ("nats://p:4222", "/k.nk")


def test_agents_take_different_seats_until_none_is_free(tmp_path: Path) -> None:
    state(tmp_path)
    found = find(env={}, start=tmp_path)
    first, second = take_seat(found, env={}), take_seat(found, env={})
    assert (first.instance, second.instance) == ("agent-1", "agent-2")
    with pytest.raises(ConfigError, match="all 16 agents"):
        take_seat(found, env={})
    with pytest.raises(ConfigError, match="agent-1 is no agent"):
        take_seat(found, instance="agent-1", env={})


def test_environment_overrides_what_an_agent_was_written_with(tmp_path: Path) -> None:
    state(tmp_path)
    found = find(env={}, start=tmp_path)
    seat = take_seat(found, env={})

    def made(**env: str) -> AgentConfig:
        return config_of(found, seat, tenant="", concurrency=9, threads=3, env=env)

    assert made().agent == AgentSection(
        tenant="demo-tenant", concurrency=9, threads=3, allow_unsigned=True
    )
    changed = made(MESH_AGENT_THREADS="5", MESH_OPS_PORT="9090")
    assert (changed.agent.threads, changed.ops.port) == (5, 9090)


def test_agent_away_from_a_local_mesh_needs_the_name_of_its_broker_user(tmp_path: Path) -> None:
    found = find("nats://b:1", env={}, start=tmp_path)
    with pytest.raises(ConfigError, match="MESH_INSTANCE"):
        take_seat(found, env={})
    assert take_seat(found, env={"MESH_INSTANCE": "w-1"}).instance == "w-1"
    with pytest.raises(ConfigError, match="connects to the broker"):
        take_seat(find("http://b:1", env={}, start=tmp_path), instance="w-1", env={})


def test_a_program_in_a_machine_connects_over_its_link_without_a_credential(tmp_path: Path) -> None:
    table = {
        "MESH_URL": "serial:/dev/virtio-ports/nats.0",
        "MESH_TENANT": "acme",
        "MESH_INSTANCE": "vm-1",
    }
    found = find(env=table, start=tmp_path)
    seat = take_seat(found, env=table)
    assert (found.nats, found.tcp, found.tenant) == (table["MESH_URL"], "", "acme")
    assert seat.instance == "vm-1"
    assert seat.bus.urls == ("serial:/dev/virtio-ports/nats.0",)
    assert (seat.bus.nkey_seed_file, seat.bus.creds_file) == ("", "")
