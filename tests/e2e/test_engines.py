"""A mesh with a Docker engine: the type ``docker``, and a server from an image, by ``mesh``."""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from tests.docker_engine import IMAGE, Engine, running_engine
from tests.e2e.running_mesh import RunningMesh

pytestmark = pytest.mark.slow

CONFIG = """
[containers]
engine = "{address}"

[[mcp_servers]]
name = "docker"
type = "docker"
settings = {{ socket = "{socket}" }}

[[mcp_servers]]
name = "boxed"
image = "{image}"
args = ["stubborn"]
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine() as running:
        yield running


@pytest.fixture(scope="module")
def boxes(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    config = CONFIG.format(address=engine.address, socket=engine.socket, image=IMAGE)
    mesh = RunningMesh(tmp_path_factory.mktemp("boxes") / "room", config=config)
    mesh.start()
    try:
        yield mesh
    finally:
        code = mesh.stop()
    assert code == 0, mesh.logs()
    client = engine.client()
    assert client.containers.list(all=True, ignore_removed=True) == []
    client.close()


def said(mesh: RunningMesh, *words: str) -> str:
    """Standard output of a command that goes well."""
    return mesh.mesh(*words).stdout


def shown(mesh: RunningMesh) -> list[str]:
    told = json.loads(said(mesh, "call", "docker:list_containers", "all=true"))
    return sorted(one["name"] for one in told["containers"])


def test_operator_adds_a_server_from_an_image_and_sees_its_container(boxes: RunningMesh) -> None:
    options = ("--image", IMAGE, "--env", "GREETING=hi")
    assert "added two: 6 tools" in said(boxes, "server", "add", "two", *options, "--", "x")
    assert said(boxes, "call", "two:about").strip() == "/ 0 hi x"
    names = shown(boxes)
    assert [name.rpartition("-")[0] for name in names] == ["mesh-boxed", "mesh-two"]
    told = json.loads(said(boxes, "call", "docker:inspect", f"container={names[1]}"))
    assert "GREETING" in told["envNames"]
    boxes.mesh("server", "remove", "two")
    until = time.monotonic() + 15
    while len(shown(boxes)) > 1:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_next_life_of_a_killed_runner_removes_what_it_left(
    boxes: RunningMesh, engine: Engine
) -> None:
    client = engine.client()
    (before,) = client.containers.list()
    os.kill(boxes.pids["runner-1"], signal.SIGKILL)
    until = time.monotonic() + 30
    while True:
        now = client.containers.list(ignore_removed=True)
        if len(now) == 1 and now[0].id != before.id:
            break
        assert time.monotonic() < until, [one.name for one in now]
        time.sleep(0.1)
    client.close()
    while "running" not in said(boxes, "server", "list").split("boxed", 1)[1].splitlines()[0]:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert said(boxes, "call", "boxed:about").split()[-1] == "stubborn"
