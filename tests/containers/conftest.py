"""A mesh in which broker and every service is a container built from deploy/docker."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

IMAGES = (
    "broker",
    "registry",
    "tenant-auth",
    "tool-runner",
    "swarm-coordinator",
    "agent-host",
    "gateway",
)
INSTANCES = {
    "registry-1": "registry",
    "tenant-auth-1": "tenant-auth",
    "runner-1": "tool-runner",
    "runner-2": "tool-runner",
    "swarm-1": "swarm-coordinator",
    "agent-host-1": "agent-host",
    "gateway-1": "gateway",
}
READY_S = 60.0
MESH = str(Path(sys.executable).with_name("mesh"))


class ContainerMesh:
    """Addresses of the running containers, and the containers by instance."""

    def __init__(self, root: Path, containers: dict[str, DockerContainer]) -> None:
        self.root = root
        self.containers = containers

    def port(self, instance: str, inside: int) -> int:
        """The port on this machine's loopback behind a container's port."""
        return int(self.containers[instance].get_exposed_port(inside))

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port('gateway-1', 3000)}"

    def command(self, *words: str) -> str:
        """Run the mesh command as the operator of this mesh; its standard output."""
        done = subprocess.run(
            [
                MESH,
                "--server",
                f"nats://127.0.0.1:{self.port('broker', 4222)}",
                "--nkey",
                str(self.root / "keys" / "operator.nk"),
                *words,
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def wait_for_port(port: int) -> None:
    """Wait until somebody listens on loopback."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    """The Docker engine; without one these tests fail, since they were asked for by name."""
    client = docker.from_env()
    client.ping()
    tags = {tag for image in client.images.list() for tag in image.tags}
    missing = [name for name in IMAGES if f"mesh/{name}:latest" not in tags]
    assert not missing, f"build the images first (deploy/docker/build): {missing}"
    return client


@pytest.fixture(scope="session")
def mesh(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerMesh]:
    """Broker, registry, tenant-auth, two runners and a gateway, each in its container."""
    root = tmp_path_factory.mktemp("mesh")
    config = root / "mesh.toml"
    config.write_text('[server]\nhost = "0.0.0.0"\n[security]\nauth_enabled = true\n')
    subprocess.run(
        [MESH, "export", str(root), "--config", str(config), "--runners", "2"],
        check=True,
        timeout=30,
    )
    user = f"{os.getuid()}:{os.getgid()}"
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network())
        broker = (
            DockerContainer("mesh/broker", user=user)
            .with_network(network)
            .with_network_aliases("broker")
            .with_volume_mapping(str(root / "broker"), "/etc/nats", "ro")
            .with_volume_mapping(str(root / "data"), "/data", "rw")
            .with_exposed_ports(4222)
        )
        containers = {"broker": stack.enter_context(broker)}
        for instance, image in INSTANCES.items():
            container = (
                DockerContainer(f"mesh/{image}", user=user)
                .with_network(network)
                .with_volume_mapping(str(root / instance), "/etc/mesh", "ro")
            )
            if image == "gateway":
                container = container.with_exposed_ports(3000, 9500)
            containers[instance] = stack.enter_context(container)
        made = ContainerMesh(root, containers)
        wait_for_port(made.port("gateway-1", 3000))
        yield made
