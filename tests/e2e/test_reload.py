"""A running mesh takes a changed ``mesh.toml`` over: all of it, or nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.running_mesh import AS_SHIPPED, RunningMesh

from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow

LAB = Path(__file__).parent / "servers" / "lab.py"
FAR = LAB.with_name("far.py")


def server(name: str, *args: str) -> str:
    return (
        f'[[mcp_servers]]\nname = "{name}"\ncommand = "{sys.executable}"\n'
        f"args = {json.dumps([str(LAB), *args])}\n"
    )


LAB_ALONE = server("lab")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    room = tmp_path_factory.mktemp("reload") / "room"
    two = ("--gateways", "2", "--runners", "2")
    running = RunningMesh(room, *two, config=LAB_ALONE, env=AS_SHIPPED)
    running.start()
    yield running
    assert running.stop() == 0
    assert running.left() == []


@pytest.fixture
def mesh(running: RunningMesh) -> Iterator[RunningMesh]:
    """A mesh with the server ``lab`` alone; what a test has changed is taken back."""
    yield running
    write(running, LAB_ALONE)
    running.mesh("reload")


def write(mesh: RunningMesh, text: str) -> None:
    (mesh.room / "mesh.toml").write_text(text)


def reload(mesh: RunningMesh, text: str) -> str:
    write(mesh, text)
    return mesh.mesh("reload").stdout.strip()


def refused(mesh: RunningMesh, text: str) -> str:
    write(mesh, text)
    done = mesh.mesh("reload", check=False)
    assert done.returncode == 78, done.stderr
    return done.stderr


def configs(mesh: RunningMesh) -> dict[str, str]:
    return {path.name: path.read_text() for path in mesh.state.glob("config/*")}


async def call(url: str, tool: str, **arguments: object) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(f"{url}/tools/{tool}", json=arguments)


async def answers(mesh: RunningMesh, tool: str) -> bool:
    found = [await call(url, tool, text="hello") for url in mesh.urls]
    return all(one.status_code == 200 for one in found)


async def gone(mesh: RunningMesh, tool: str) -> bool:
    found = [await call(url, tool, text="hello") for url in mesh.urls]
    return all(one.status_code == 404 for one in found)


async def test_server_added_by_a_reload_is_called_and_a_removed_one_is_gone(
    mesh: RunningMesh,
) -> None:
    said = await asyncio.to_thread(reload, mesh, LAB_ALONE + server("second"))
    assert said == "reloaded: started second"
    await eventually(lambda: answers(mesh, "second__echo"), timeout_s=20)

    said = await asyncio.to_thread(reload, mesh, LAB_ALONE)

    assert said == "reloaded: stopped second"
    await eventually(lambda: gone(mesh, "second__echo"), timeout_s=20)
    assert await answers(mesh, "lab__echo")
    names = await asyncio.to_thread(mesh.mesh, "server", "list")
    assert "second" not in names.stdout


async def test_calls_on_other_servers_go_on_while_one_is_changed(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    both = LAB_ALONE + server("second")
    await asyncio.to_thread(reload, mesh, both)
    await eventually(lambda: answers(mesh, "second__echo"), timeout_s=20)
    before = await call(mesh.http, "lab__pid")
    running = [asyncio.create_task(call(mesh.http, "lab__sleep", seconds=3)) for _ in range(4)]

    changed = LAB_ALONE + server("second", str(tmp_path / "counted"))
    said = await asyncio.to_thread(reload, mesh, changed)

    assert said == "reloaded: restarted second"
    assert not any(task.done() for task in running)
    assert [(await task).status_code for task in running] == [200] * 4
    assert (await call(mesh.http, "lab__pid")).json() == before.json()

    async def counts() -> bool:
        done = await call(mesh.http, "second__count", label="after", seconds=0)
        return done.status_code == 200 and (tmp_path / "counted").exists()

    await eventually(counts, timeout_s=20)


async def test_changed_limits_and_words_hold_at_once_for_connections_that_are_open(
    mesh: RunningMesh,
) -> None:
    async with httpx.AsyncClient(base_url=mesh.http, timeout=10) as client:
        assert (await client.post("/tools/echo", json={})).status_code == 200
        said = await asyncio.to_thread(
            reload, mesh, f"[performance]\nrate_limit_per_second = 1\n{LAB_ALONE}"
        )
        assert said == "reloaded: changed performance.rate_limit_per_second"
        codes = [(await client.post("/tools/echo", json={})).status_code for _ in range(3)]
        assert codes.count(429) >= 1, codes
        await asyncio.to_thread(reload, mesh, LAB_ALONE)
        codes = [(await client.post("/tools/echo", json={})).status_code for _ in range(5)]
        assert codes == [200] * 5


async def test_metrics_and_origins_follow_the_file(mesh: RunningMesh) -> None:
    origin = {"origin": "https://app.example.com"}
    async with httpx.AsyncClient(base_url=mesh.http, timeout=10) as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/health", headers=origin)).status_code == 403
        text = '[security]\ncors_origins = ["https://app.example.com"]\n'
        await asyncio.to_thread(
            reload, mesh, f'[metrics]\npath = "/internal/metrics"\n{text}{LAB_ALONE}'
        )
        assert (await client.get("/metrics")).status_code == 404
        assert b"mesh_info" in (await client.get("/internal/metrics")).content
        assert (await client.get("/health", headers=origin)).status_code == 200
        await asyncio.to_thread(reload, mesh, f"[metrics]\nenabled = false\n{LAB_ALONE}")
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/internal/metrics")).status_code == 404
        assert (await client.get("/health", headers=origin)).status_code == 403


@pytest.fixture
def far() -> Iterator[str]:
    """URL of a server on this machine."""
    child = subprocess.Popen(
        [sys.executable, str(FAR), "http", "0"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    yield child.stdout.readline().strip()
    child.kill()
    child.wait()
    child.stdout.close()


async def test_changed_upstreams_connect_servers_over_the_network_anew(
    mesh: RunningMesh, far: str
) -> None:
    words = ("server", "add", "far", far, "--tenant", "demo-tenant", "--wait", "3s")
    # A tenant's own server may not be on this machine, unless the operator says so.
    done = await asyncio.to_thread(mesh.mesh, *words, check=False)
    assert done.returncode != 0
    pid = (await call(mesh.http, "lab__pid")).json()

    async def adds() -> bool:
        return (await call(mesh.http, "far__add", a=2, b=3)).status_code == 200

    async def adds_no_more() -> bool:
        return not await adds()

    assert not await adds()
    text = f'[upstreams]\nallow_networks = ["127.0.0.1"]\n{LAB_ALONE}'
    assert await asyncio.to_thread(reload, mesh, text) == (
        "reloaded: changed upstreams.allow_networks"
    )
    await eventually(adds, timeout_s=20)
    await asyncio.to_thread(reload, mesh, LAB_ALONE)
    await eventually(adds_no_more, timeout_s=20)
    assert (await call(mesh.http, "lab__pid")).json() == pid
    await asyncio.to_thread(mesh.mesh, "server", "remove", "far", "--tenant", "demo-tenant")


async def test_level_of_the_log_changes_in_every_service(mesh: RunningMesh) -> None:
    await asyncio.to_thread(reload, mesh, f'[log]\nlevel = "error"\n{LAB_ALONE}')
    for name in ("registry-1", "tenant-auth-1", "runner-2", "gateway-2"):
        assert 'level = "error"' in configs(mesh)[f"{name}.toml"]
    sizes = {path: path.stat().st_size for path in mesh.state.glob("logs/gateway-*.log")}
    # What a service says of a reload is "info": now it is said no more.
    said = await asyncio.to_thread(
        reload, mesh, f'[log]\nlevel = "error"\n[server]\ndescription = "x"\n{LAB_ALONE}'
    )
    assert said == "reloaded: changed server.description"
    assert {path: path.stat().st_size for path in sizes} == sizes


async def test_virtual_server_of_the_file_comes_and_goes(mesh: RunningMesh) -> None:
    virtual = '[[virtual_servers]]\nname = "desk"\n[[virtual_servers.tools]]\nserver = "lab"\n'
    virtual += 'tool = "echo"\n'
    await asyncio.to_thread(reload, mesh, virtual + LAB_ALONE)
    listed = await asyncio.to_thread(mesh.mesh, "virtual", "list")
    assert "desk" in listed.stdout
    await asyncio.to_thread(reload, mesh, LAB_ALONE)
    listed = await asyncio.to_thread(mesh.mesh, "virtual", "list")
    assert "desk" not in listed.stdout


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[log]\nlevle = 'debug'\n", "mesh.toml:2: log.levle: unknown key; did you mean level?"),
        ("[log\n", "not valid TOML"),
        ("[server]\nport = 4000\n", "server.port cannot change while the mesh runs"),
        ('[[mcp_servers]]\nname = "kv"\ncommand = "x"\n', "is the name of something built in"),
    ],
)
async def test_wrong_file_changes_nothing_and_says_what_is_wrong(
    mesh: RunningMesh, text: str, why: str
) -> None:
    before = configs(mesh)
    # What could be taken over by itself stands beside it: a part of a file is never taken.
    said = await asyncio.to_thread(
        refused, mesh, f"{text}[performance]\nrate_limit_per_second = 1\n{server('second')}"
    )
    assert why in said
    assert "nothing was changed" in said
    assert configs(mesh) == before
    assert await gone(mesh, "second__echo")
    await eventually(lambda: why in mesh.said, timeout_s=5)


async def test_two_reloads_at_once_both_hear_what_became_of_them(mesh: RunningMesh) -> None:
    write(mesh, LAB_ALONE + server("second"))
    done = await asyncio.gather(*(asyncio.to_thread(mesh.mesh, "reload") for _ in range(3)))
    said = [one.stdout.strip() for one in done]
    assert set(said) <= {"reloaded: started second", "nothing changed"}
    assert "reloaded: started second" in said
    await eventually(lambda: answers(mesh, "second__echo"), timeout_s=20)


async def test_reload_while_a_service_is_started_again_ends_well(mesh: RunningMesh) -> None:
    old = mesh.kill("runner-2")
    said = await asyncio.to_thread(reload, mesh, LAB_ALONE + server("second"))
    assert said == "reloaded: started second"
    mesh.await_restart("runner-2", old)
    assert "second" in configs(mesh)["runner-2.toml"]
    await eventually(lambda: answers(mesh, "second__echo"), timeout_s=30)


async def test_hang_up_signal_reloads_and_the_mesh_goes_on(mesh: RunningMesh) -> None:
    write(mesh, LAB_ALONE + server("second"))
    os.kill(int(str(mesh.record()["pid"])), signal.SIGHUP)
    await eventually(lambda: answers(mesh, "second__echo"), timeout_s=20)


async def test_service_told_by_a_signal_reads_its_own_file_again(mesh: RunningMesh) -> None:
    path = mesh.state / "config" / "gateway-1.toml"
    old = path.read_text()
    path.write_text(old.replace('path = "/metrics"', 'path = "/numbers"'))
    async with httpx.AsyncClient(base_url=mesh.urls[0], timeout=10) as client:

        async def is_there(where: str) -> bool:
            return (await client.get(where)).status_code == 200

        os.kill(mesh.pids["gateway-1"], signal.SIGHUP)
        await eventually(lambda: is_there("/numbers"), timeout_s=5)
        # A file that needs a restart is refused, and the process lives on as it was.
        path.write_text(old.replace("[tcp]", "[tcp]\nreuse_port = true", 1))
        os.kill(mesh.pids["gateway-1"], signal.SIGHUP)
        log = mesh.state / "logs" / "gateway-1.log"
        await eventually(lambda: "these need a restart: tcp.reuse_port" in log.read_text())
        assert await is_there("/numbers")
        path.write_text(old)
        os.kill(mesh.pids["gateway-1"], signal.SIGHUP)
        await eventually(lambda: is_there("/metrics"), timeout_s=5)


async def test_watched_file_is_taken_over_by_itself(tmp_path: Path) -> None:
    watching = RunningMesh(tmp_path / "room", "--watch", config=LAB_ALONE)
    await asyncio.to_thread(watching.start)
    try:
        write(watching, LAB_ALONE + server("second"))
        await eventually(lambda: answers(watching, "second__echo"), timeout_s=20)
        write(watching, "[log]\nlevle = 'x'\n")
        await eventually(lambda: "did you mean level?" in watching.said, timeout_s=10)
        assert await answers(watching, "second__echo")
    finally:
        assert await asyncio.to_thread(watching.stop) == 0
    assert watching.left() == []
