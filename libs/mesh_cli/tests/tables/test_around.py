"""Tables of what is around a mesh: agents elsewhere, etcd, Consul, Redis."""

from pathlib import Path

import pytest

from mesh_cli import plan
from mesh_cli.failure import Failure
from mesh_cli.plan import Ports, Where
from mesh_cli.user_file import MeshFile, read

FULL = """
[server]
name = "lab"
[[agents.known]]
name = "weather"
url = "http://weather.example:4000"
capabilities = ["forecast"]
[[agents.known]]
name = "off"
url = ""
enabled = false
[discovery]
enabled = true
type = "etcd"
etcd_endpoints = ["http://etcd.example:2379"]
registry_ttl_seconds = 60
heartbeat_interval_seconds = 30
announce_url = "http://gateway.example:3000"
[integrations.dragonfly]
enabled = true
host = "dragonfly.example"
port = 6380
channel_prefix = "mcp:"
subscribe_channels = ["tasks:*"]
publish_heartbeat = true
"""


def content(tmp_path: Path, text: str) -> MeshFile:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    user = read(str(path), {})
    assert user.unused == ()
    return user.content


def tables(file: MeshFile, service: str) -> dict[str, object]:
    names = [user.name for user in plan.users(1, 1)]
    where = Where(seeds={name: name for name in names}, kek_file="k", pepper_file="p")
    ports = Ports(nats=4222, http=(3000,), tcp=(9500,))
    made = plan.instances(file, [], ports=ports, where=where, runners=1)
    return dict(next(one.tables for one in made if one.service == service))


def test_file_of_an_earlier_system_reaches_registry_and_runner(tmp_path: Path) -> None:
    file = content(tmp_path, FULL)
    registry = tables(file, "registry")
    assert registry["discovery"]["announce_name"] == "lab"  # type: ignore[index]
    assert registry["agents"]["known"][0]["name"] == "weather"  # type: ignore[index]
    redis = tables(file, "tool-runner")["redis"]
    assert (redis["host"], redis["tenant"]) == ("dragonfly.example", plan.DEMO_TENANT)  # type: ignore[index]


def test_a_mesh_without_these_tables_gets_none_of_them(tmp_path: Path) -> None:
    file = content(tmp_path, "[discovery]\nenabled = true\ntype = 'nats'\n")
    assert not {"discovery", "agents"} & tables(file, "registry").keys()
    assert "redis" not in tables(file, "tool-runner")


def test_the_tenant_of_the_bridge_is_that_of_callers_with_a_credential(tmp_path: Path) -> None:
    text = "[security]\nauth_enabled = true\n[integrations.dragonfly]\nenabled = true\n"
    redis = tables(content(tmp_path, text), "tool-runner")["redis"]
    assert redis["tenant"] == plan.FIRST_TENANT  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[discovery]\ntype = 'zookeeper'\n", "discovery.type"),
        ("[discovery]\nenabled = true\ntype = 'consul'\n", "discovery.consul_url"),
        ("[discovery]\netcd_endpoints = ['etcd:2379']\n", "discovery.etcd_endpoints"),
        ("[discovery]\nheartbeat_interval_seconds = 40\n", "half of registry_ttl_seconds"),
        ("[discovery]\nallow_networks = ['10.0.0.0/99']\n", "discovery.allow_networks"),
        ("[discovery]\netcd_user = 'a'\netcd_password = 'plain'\n", "discovery.etcd_password"),
        ("[[agents.known]]\nname = 'a'\n", "url"),
        ("[[agents.known]]\nname = 'a__b'\nurl = 'http://h'\n", "agents.known[0].name"),
        ("[[agents.known]]\nname = 'a'\nurl = 'nats://h'\n", "agents.known[0].url"),
        ("[[agents.known]]\nname = 'kv'\nurl = 'http://h'\n", "another server"),
        (
            "[[agents.known]]\nname='a'\nurl='http://h'\n[[agents.known]]\nname='a'\nurl='http://i'\n",
            "used twice",
        ),
        ("[integrations.dragonfly]\npassword = 'plain'\n", "integrations.dragonfly.password"),
        ("[integrations.dragonfly]\ntenant = 'A B'\n", "integrations.dragonfly.tenant"),
        ("[integrations.dragonfly]\nsubscribe_channels = ['']\n", "subscribe_channels"),
    ],
)
def test_wrong_values_are_refused_by_their_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Failure) as caught:
        content(tmp_path, text)
    assert said in str(caught.value)
    assert "plain" not in str(caught.value)
