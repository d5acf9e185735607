"""Tests of ``[containers]`` in ``mesh.toml``: it reaches every runner."""

from pathlib import Path

import pytest

from mesh_cli.failure import Failure
from mesh_cli.plan import Ports, Where, instances, users
from mesh_cli.user_file import read


def test_table_reaches_every_runner_and_servers_keep_image_and_type(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(
        '[containers]\nengine = "tcp://engine:2375"\nmemory_mb = 64\ntenant_networks = ["lan"]\n'
        '[[mcp_servers]]\nname = "a"\nimage = "acme/a:1"\ncontainer = {network = "bridge"}\n'
        '[[mcp_servers]]\nname = "d"\ntype = "docker"\nsettings = {containers = ["web-*"]}\n'
    )
    content = read(str(path), {}).content
    where = Where(
        seeds={user.name: "seed" for user in users(1, 2)}, kek_file="kek", pepper_file="pepper"
    )
    ports = Ports(nats=1, http=(2,), tcp=(3,))
    made = instances(content, content.mcp_servers, ports=ports, where=where, runners=2)
    runners = [one.tables for one in made if one.service == "tool-runner"]
    assert len(runners) == 2
    for tables in runners:
        assert tables["containers"] == {
            "engine": "tcp://engine:2375",
            "pull": True,
            "memory_mb": 64,
            "pids": 256,
            "cpus": 2.0,
            "tenant_networks": ["lan"],
        }
        assert tables["mcp_servers"] == [
            {"name": "a", "image": "acme/a:1", "container": {"network": "bridge"}},
            {"name": "d", "type": "docker", "settings": {"containers": ["web-*"]}},
        ]


@pytest.mark.parametrize("line", ['engine = "http://x"', "memory_mb = 1", "cpus = 0", "cpu = 1"])
def test_table_that_cannot_be_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(f"[containers]\n{line}\n")
    with pytest.raises(Failure, match="containers"):
        read(str(path), {})
