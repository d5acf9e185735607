"""The ``docker`` tools against a real engine, and engines that are odd or absent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.server_types import linked_server
from tool_runner.upstreams.engine import absent
from tool_runner.upstreams.http_failures import failed

IMAGE = "mesh-shell:1"


class Rig:
    """Containers of a real engine, made and removed beside what is tested."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.client = engine.client()

    def run(self, name: str, script: str, **more: Any) -> Any:
        fields: dict[str, Any] = {"network_mode": "none", "detach": True, "name": name, **more}
        return self.client.containers.run(IMAGE, entrypoint=["/bin/sh", "-c", script], **fields)

    def close(self) -> None:
        for container in self.client.containers.list(all=True):
            container.remove(force=True)
        self.client.close()


@pytest.fixture
def rig(engine: Any) -> Iterator[Rig]:
    made = Rig(engine)
    yield made
    made.close()


@pytest.fixture
async def box(deploy: Any, rig: Rig) -> Any:
    """The server, shown everything."""
    return await deploy("docker", settings={"socket": rig.engine.socket})


SLEEP = "exec sleep 600"


async def test_compat_call_lists_containers_that_run_or_all(box: Any, rig: Rig) -> None:
    rig.run("web-1", SLEEP, labels={"tier": "front"})
    rig.run("job-1", "exit 3").wait()
    running = await box("list_containers")
    assert [one["name"] for one in running["containers"]] == ["web-1"]
    everything = await box("list_containers", all=True)
    told = {one["name"]: one for one in everything["containers"]}
    assert told["job-1"]["state"] == "exited"
    assert told["web-1"]["labels"] == {"tier": "front"}
    assert told["web-1"]["image"] == IMAGE
    jsonschema_rs.validate(box.tools["list_containers"]["outputSchema"], everything)
    few = await box("list_containers", all=True, limit=1)
    assert (len(few["containers"]), few["more"]) == (1, 1)
    assert (await box("list_containers", name="job"))["containers"] == []
    found = await box("list_containers", label="tier=front")
    assert [one["name"] for one in found["containers"]] == ["web-1"]


async def test_inspect_tells_everything_but_values_of_variables(box: Any, rig: Rig) -> None:
    made = rig.run("web-1", SLEEP, environment={"PASSWORD": "hidden"}, mem_limit="32m",
                   nano_cpus=500_000_000, pids_limit=20, working_dir="/tmp")  # fmt: skip
    told = await box("inspect", container="web-1")
    assert told["id"] == made.id
    assert told["state"]["status"] == "running"
    assert told["command"] == ["/bin/sh", "-c", SLEEP]
    assert told["envNames"] == ["PASSWORD", "PATH", "SECRET"]
    assert "hidden" not in json.dumps(told)
    assert (told["memoryLimitBytes"], told["cpus"], told["pidsLimit"]) == (32 << 20, 0.5, 20)
    assert told["networks"] == {"none": ""}
    jsonschema_rs.validate(box.tools["inspect"]["outputSchema"], told)
    assert (await box("inspect", container=made.id[:12]))["name"] == "web-1"
    rig.run("job-1", "exit 3").wait()
    assert (await box("inspect", container="/job-1"))["state"]["exitCode"] == 3


async def test_logs_tell_the_streams_apart_and_keep_the_newest(box: Any, rig: Rig) -> None:
    script = "echo one; echo two >&2; echo three; " + SLEEP
    rig.run("web-1", script)
    wanted = [("stdout", "one"), ("stderr", "two"), ("stdout", "three")]
    async with asyncio.timeout(10):
        while True:
            told = await box("logs", container="web-1")
            if len(told["lines"]) == 3:
                break
    assert sorted((one["stream"], one["text"]) for one in told["lines"]) == sorted(wanted)
    assert all(one["time"].startswith("20") for one in told["lines"])
    errors = await box("logs", container="web-1", stdout=False)
    assert [one["text"] for one in errors["lines"]] == ["two"]
    assert len((await box("logs", container="web-1", tail=1))["lines"]) == 1
    assert (await box("logs", container="web-1", since="2100-01-01T00:00:00Z"))["lines"] == []
    assert len((await box("logs", container="web-1", since="-10m"))["lines"]) == 3
    assert "is no time" in await box.refusal("logs", container="web-1", since="soon")
    said = await box.refusal("logs", container="web-1", stdout=False, stderr=False)
    assert "cannot both be false" in said


@pytest.mark.slow
async def test_logs_of_a_terminal_and_of_a_flood(box: Any, rig: Rig) -> None:
    rig.run("tty-1", "echo hello; exit 0", tty=True).wait()
    told = await box("logs", container="tty-1")
    assert [(one.get("stream"), one["text"]) for one in told["lines"]] == [(None, "hello")]
    line = "x" * 1000
    rig.run("flood-1", f"i=0; while [ $i -lt 2000 ]; do echo $i {line}; i=$((i+1)); done").wait()
    told = await box("logs", container="flood-1", tail=5000)
    assert told["truncated"] is True
    assert told["lines"][-1]["text"].startswith("1999 ")
    assert sum(len(one["text"]) for one in told["lines"]) < 256 * 1024
    rig.run("wide-1", "head -c 100000 /dev/zero | tr '\\0' y").wait()
    told = await box("logs", container="wide-1")
    assert told["truncated"] is True
    assert 7000 < len(told["lines"][-1]["text"]) <= 8192


@pytest.mark.slow
async def test_containers_are_stopped_started_and_restarted(box: Any, rig: Rig) -> None:
    made = rig.run("web-1", SLEEP)
    stopped = await box("stop", container="web-1", timeout=0)
    assert stopped == {"id": made.id, "name": "web-1", "changed": True, "state": "exited"}
    assert (await box("stop", container="web-1"))["changed"] is False
    assert (await box("start", container="web-1"))["state"] == "running"
    assert (await box("start", container="web-1"))["changed"] is False
    began = (await box("inspect", container="web-1"))["state"]["startedAt"]
    assert (await box("restart", container="web-1", timeout=0))["state"] == "running"
    assert (await box("inspect", container="web-1"))["state"]["startedAt"] > began


async def test_what_the_engine_refuses_is_a_tool_error(box: Any, rig: Rig) -> None:
    assert await box.refusal("inspect", container="nobody") == (
        "No such container: nobody. list_containers with all=true lists those there are."
    )
    rig.client.containers.create(IMAGE, entrypoint=["/no/such"], name="bad-1", network_mode="none")
    assert "no such file" in (await box.refusal("start", container="bad-1")).lower()
    assert "does not run" in await box.refusal("stats", container="bad-1")
    assert "No such image" in await box.refusal("inspect_image", image="a/b:c")


@pytest.mark.slow
async def test_stats_measure_a_busy_container(box: Any, rig: Rig) -> None:
    rig.run("busy-1", "while :; do :; done", mem_limit="64m", nano_cpus=300_000_000)
    told = await box("stats", container="busy-1")
    assert 1 < told["cpuPercent"] < 100
    assert told["memoryLimitBytes"] == 64 << 20
    assert told["pids"] == 1


async def test_images_are_listed_and_inspected(box: Any, rig: Rig) -> None:
    (row,) = [one for one in (await box("list_images"))["images"] if IMAGE in one["tags"]]
    told = await box("inspect_image", image=IMAGE)
    assert told["id"] == row["id"]
    assert told["envNames"] == ["PATH", "SECRET"]
    assert told["entrypoint"] == ["/bin/sh", "/server.sh"]
    assert "hidden" not in json.dumps(told)
    assert (await box("inspect_image", image=row["id"].removeprefix("sha256:")))["id"] == row["id"]


@pytest.mark.slow
async def test_containers_not_allowed_do_not_exist(deploy: Any, rig: Rig) -> None:
    web = rig.run("web-1", SLEEP, labels={"team": "a"})
    other = rig.run("web-2", SLEEP, labels={"team": "b"})
    base = rig.run("db-1", SLEEP, labels={"team": "a"})
    settings = {"socket": rig.engine.socket, "containers": ["web-*"], "labels": ["team=a"]}
    box = await deploy("docker", settings=settings)
    shown = await box("list_containers", all=True)
    assert [one["id"] for one in shown["containers"]] == [web.id]
    for hidden in (other, base):
        for named in (hidden.name, hidden.id, hidden.id[:12], f"/{hidden.name}"):
            for tool in ("inspect", "logs", "stats", "start", "stop", "restart"):
                assert "No such container" in await box.refusal(tool, container=named)
        hidden.reload()
        assert hidden.status == "running"


async def test_read_only_has_no_tool_that_changes_anything(deploy: Any, rig: Rig) -> None:
    settings = {"socket": rig.engine.socket, "read_only": True}
    box = await deploy("docker", settings=settings)
    assert {"start", "stop", "restart"}.isdisjoint(box.tools)
    assert all(tool["annotations"]["readOnlyHint"] for tool in box.tools.values())
    with pytest.raises(MeshError) as raised:
        await box.result("stop", container="web-1")
    assert raised.value.kind is ErrorKind.PARAMS


@pytest.mark.slow
async def test_an_engine_that_hangs_costs_a_call_its_time_and_then_the_life(
    deploy: Any, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linked_server, "CHECK_WITHIN_S", 0.5)
    box = await deploy("docker", settings={"socket": rig.engine.socket}, check_s=0.2)
    rig.engine.pause()
    try:
        with pytest.raises(MeshError) as raised:
            await box.result("list_containers", timeout_s=0.3)
        assert raised.value.kind is ErrorKind.DEADLINE
        assert raised.value.outcome is Outcome.UNKNOWN
        said = await asyncio.wait_for(box.server.wait_ended(), 20)
        assert "did not answer" in said
    finally:
        rig.engine.resume()


async def test_destructive_tools_say_so(deploy: Any, odd_engine: Any) -> None:
    box = await deploy("docker", settings={"socket": await odd_engine()})
    hints = {name: tool["annotations"] for name, tool in box.tools.items()}
    assert hints["stop"]["destructiveHint"] is True
    assert hints["restart"]["destructiveHint"] is True
    assert hints["start"]["destructiveHint"] is False
    assert hints["inspect"]["readOnlyHint"] is True


@pytest.mark.parametrize(
    "name", ["../images", "a/b", "a%2fb", "", "a b", "a?x=1", "..", "web\n", "ä", "a" * 300]
)
async def test_no_name_leaves_its_place(deploy: Any, odd_engine: Any, name: str) -> None:
    asked: list[str] = []
    box = await deploy("docker", settings={"socket": await odd_engine(asked=asked)})
    before = len(asked)
    assert "Invalid arguments" in await box.refusal("inspect", container=name)
    assert "Invalid arguments" in await box.refusal("inspect_image", image=f"{name}/../x")
    assert len(asked) == before


async def test_without_an_engine_the_start_says_what_is_missing(
    deploy: Any, tmp_path: Path
) -> None:
    with pytest.raises(MeshError) as raised:
        await deploy("docker", settings={"socket": str(tmp_path / "none.sock")})
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    assert "needs a Docker engine and none listens at" in raised.value.message


def test_a_socket_that_may_not_be_opened_is_told_from_one_that_is_absent() -> None:
    error = failed("docker", "cannot be reached (Permission denied)", Outcome.NOT_EXECUTED)
    said = absent("docker", "/var/run/docker.sock", error).message
    assert "may not open the Docker engine's socket" in said


async def test_a_tenants_own_server_gets_no_socket_of_the_runner(deploy: Any) -> None:
    with pytest.raises(MeshError) as raised:
        await deploy("docker", trusted=False)
    assert "tenant's own" in raised.value.message


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ({"ApiVersion": "1.20", "MinAPIVersion": "1.12"}, "the engine speaks 1.12 to 1.20"),
        ({"ApiVersion": "1.99", "MinAPIVersion": "1.90"}, "the engine speaks 1.90 to 1.99"),
        ({"hello": "world"}, "finds no Docker engine"),
    ],
)
async def test_engines_of_another_age_are_refused(
    deploy: Any, odd_engine: Any, version: dict[str, str], said: str
) -> None:
    with pytest.raises(MeshError) as raised:
        await deploy("docker", settings={"socket": await odd_engine(version)})
    assert said in raised.value.message


async def test_a_newer_engine_is_talked_to_in_a_version_we_know(
    deploy: Any, odd_engine: Any
) -> None:
    asked: list[str] = []
    newer = {"ApiVersion": "1.52", "MinAPIVersion": "1.44"}
    box = await deploy("docker", settings={"socket": await odd_engine(newer, asked=asked)})
    with contextlib.suppress(MeshError):
        await box.result("list_images")
    assert asked[-1].startswith("/v1.47/images/json")


async def test_an_engine_whose_answer_is_garbage_is_at_fault(deploy: Any, odd_engine: Any) -> None:
    box = await deploy("docker", settings={"socket": await odd_engine(body=b"[{]")})
    with pytest.raises(MeshError) as raised:
        await box.result("list_containers")
    assert raised.value.kind is ErrorKind.UPSTREAM
    assert "no Engine API" in raised.value.message


async def test_an_engine_that_breaks_off_leaves_the_outcome_open(
    deploy: Any, odd_engine: Any
) -> None:
    box = await deploy("docker", settings={"socket": await odd_engine(length=1000)})
    with pytest.raises(MeshError) as raised:
        await box.result("list_containers")
    assert raised.value.outcome is Outcome.UNKNOWN


@pytest.fixture
async def odd_engine(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """An engine of which only ``/version`` is real."""
    servers: list[asyncio.Server] = []

    async def start(
        version: dict[str, str] | None = None,
        *,
        body: bytes = b"[]",
        length: int = 0,
        asked: list[str] | None = None,
    ) -> str:
        said = json.dumps(version or {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}).encode()

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split()[1]
                if asked is not None:
                    asked.append(path)
                known = path == "/version"
                given = said if known else body
                size = len(given) if known or not length else length
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                    % (size, given)
                )
                await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        path = str(tmp_path / "odd.sock")
        servers.append(await asyncio.start_unix_server(one, path))
        return path

    yield start
    for server in servers:
        server.close()
