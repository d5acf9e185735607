"""Servers from OCI images in containers of a real engine (slow), and without any engine."""

import asyncio
import gzip
import hashlib
import io
import json
import os
import signal
import sys
import tarfile
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import docker
import msgspec
import pytest
from aiohttp import web

from mcp_proto.contracts.registry import ContainerOptions, ServerDefinition
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mesh_chassis.children import Children
from mesh_chassis.testing.conditions import eventually
from tool_runner.upstreams.containers import ContainerSettings, owner_of, sweep
from tool_runner.upstreams.factory import NetworkSettings, make
from tool_runner.upstreams.stdio import StdioSettings
from tool_runner.upstreams.upstream import Request

IMAGE = "mesh-shell:1"
NONE = "unix:///nowhere/docker.sock"


class Listener:
    def lists_changed(self) -> None:
        pass

    def resource_updated(self, params: msgspec.Raw) -> None:
        pass


class Box:
    """Starts servers from images, and calls them in few words."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.children = Children()
        self.upstreams: list[Any] = []

    def make(
        self,
        *args: str,
        image: str = IMAGE,
        trusted: bool = True,
        start_timeout_s: float = 20.0,
        settings: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        definition = ServerDefinition(name="boxed", image=image, args=args, **fields)
        containers = ContainerSettings(
            **{"engine": self.address, "owner": "me", "life": "now", **(settings or {})}
        )
        upstream = make(
            definition,
            self.children,
            Listener(),
            stdio=StdioSettings(start_timeout_s=start_timeout_s, containers=containers),
            network=NetworkSettings(),
            trusted=trusted,
        )
        self.upstreams.append(upstream)
        return upstream

    async def started(self, *args: str, **fields: Any) -> Any:
        upstream = self.make(*args, **fields)
        await upstream.start()
        return upstream

    @staticmethod
    async def call(upstream: Any, tool: str, *, timeout_s: float = 10.0) -> str:
        params = msgspec.Raw(msgspec.json.encode({"name": tool, "arguments": {}}))
        answer = await upstream.call(
            Request(method="tools/call", params=params, timeout_s=timeout_s)
        )
        assert not isinstance(answer, ErrorObject)
        return json.loads(answer)["content"][0]["text"]

    async def close(self) -> None:
        for upstream in self.upstreams:
            await upstream.close()
        await self.children.close()


@pytest.fixture
async def box(engine: Any) -> AsyncIterator[Box]:
    made = Box(engine.address)
    yield made
    await made.close()


@pytest.fixture
async def client(engine: Any) -> AsyncIterator[docker.DockerClient]:
    """The engine, seen by somebody else; no container may be left at the end."""
    made = engine.client()
    yield made
    try:
        await gone(made)
    finally:
        for one in made.containers.list(all=True, ignore_removed=True):
            one.remove(force=True)
        made.close()


async def gone(client: docker.DockerClient) -> None:
    """Wait until the engine has no container."""
    await eventually(
        lambda: not client.containers.list(all=True, ignore_removed=True), timeout_s=15
    )


async def test_server_in_a_container_is_listed_and_called(
    box: Box, client: docker.DockerClient
) -> None:
    upstream = box.make("a b", "c", env={"GREETING": "hello"}, cwd="/tmp")
    offer = await upstream.start()
    assert [tool.name for tool in offer.tools][:2] == ["about", "links"]
    assert upstream.handshake is not None
    assert await box.call(upstream, "about") == "/tmp 0 hello a b c"
    (container,) = client.containers.list()
    assert container.name.startswith("mesh-boxed-")
    assert container.labels["mesh.server"] == "boxed"
    assert upstream.log_tail() == ["mode a b"]
    await upstream.close()
    await gone(client)


@pytest.mark.slow
async def test_container_has_no_network_no_rights_and_bounded_memory(
    box: Box, client: docker.DockerClient
) -> None:
    upstream = await box.started(container=ContainerOptions(memory_mb=16, pids=20, cpus=0.5))
    assert (await box.call(upstream, "links")).split() == ["lo"]
    (container,) = client.containers.list()
    host = client.api.inspect_container(container.id)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (16 << 20, 16 << 20)
    assert (host["PidsLimit"], host["NanoCpus"]) == (20, 500_000_000)
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert not host["Privileged"]
    assert host["LogConfig"]["Type"] == "none"
    # Its tool eats all the memory there is: the kernel kills that, nothing else is harmed.
    assert await box.call(upstream, "eat", timeout_s=20) == "survived"
    await upstream.close()


@pytest.mark.slow
async def test_read_only_container_writes_to_tmp_alone(
    box: Box, client: docker.DockerClient
) -> None:
    upstream = await box.started(container=ContainerOptions(read_only=True, user="1000:1000"))
    said = await box.call(upstream, "write")
    assert "/file" in said
    assert "/tmp/file" not in said
    assert (await box.call(upstream, "about")).split()[1] == "1000"
    await upstream.close()


@pytest.mark.slow
async def test_large_messages_pass_both_ways(box: Box, client: docker.DockerClient) -> None:
    upstream = await box.started()
    answers = await asyncio.gather(*(box.call(upstream, "big") for _ in range(8)))
    assert {len(answer) for answer in answers} == {300_000}
    long = "y" * 1_000_000
    params = msgspec.Raw(msgspec.json.encode({"name": "about", "arguments": {"x": long}}))
    answer = await upstream.call(Request(method="tools/call", params=params, timeout_s=10))
    assert b'"text":' in answer
    await upstream.close()


@pytest.mark.slow
async def test_end_of_the_server_is_seen_with_its_status(
    box: Box, client: docker.DockerClient
) -> None:
    upstream = await box.started()
    with pytest.raises(MeshError) as raised:
        await box.call(upstream, "exit")
    assert raised.value.outcome is Outcome.UNKNOWN
    assert await asyncio.wait_for(upstream.wait_ended(), 5) == "exited with status 3"
    await upstream.close()
    await gone(client)


@pytest.mark.slow
async def test_server_killed_from_outside_ends_its_life(
    box: Box, client: docker.DockerClient
) -> None:
    upstream = await box.started()
    client.containers.list()[0].kill()
    assert await asyncio.wait_for(upstream.wait_ended(), 5) == "was killed by signal 9"
    await upstream.close()


@pytest.mark.slow
async def test_a_stubborn_server_is_removed_at_close(box: Box, client: docker.DockerClient) -> None:
    upstream = await box.started("stubborn")
    began = asyncio.get_running_loop().time()
    await upstream.close()
    assert asyncio.get_running_loop().time() - began < 12
    await gone(client)
    killed = await box.started("stubborn")
    killed.kill()
    await killed.close()
    await gone(client)


@pytest.mark.slow
async def test_what_is_no_mcp_server_says_so(box: Box, client: docker.DockerClient) -> None:
    with pytest.raises(MeshError) as raised:
        await box.started("-c", "echo hello", command="/bin/sh")
    assert "is it an MCP server?" in raised.value.message
    with pytest.raises(MeshError) as raised:
        await box.started(command="/no/such/program")
    assert "could not be started in its container" in raised.value.message
    assert "no such file" in raised.value.message
    with pytest.raises(MeshError) as raised:
        await box.started("-c", "sleep 600", command="/bin/sh", start_timeout_s=1.0)
    assert "did not speak MCP within 1 s" in raised.value.message
    for upstream in box.upstreams:
        await upstream.close()
    await gone(client)


@pytest.mark.slow
async def test_an_image_that_is_not_there_is_named(box: Box, client: docker.DockerClient) -> None:
    with pytest.raises(MeshError) as raised:
        await box.started(image="acme/none:1", settings={"pull": False})
    assert raised.value.message == (
        "server boxed has no image acme/none:1: pull it where the engine runs"
    )
    with pytest.raises(MeshError) as raised:
        await box.started(image="127.0.0.1:9/acme/none:1")
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    assert "cannot pull 127.0.0.1:9/acme/none:1" in raised.value.message


@pytest.mark.slow
async def test_an_image_is_pulled_from_a_registry(
    box: Box, client: docker.DockerClient, registry: Callable[[bytes], Any]
) -> None:
    saved = b"".join(client.images.get(IMAGE).save())
    host = await registry(saved)
    upstream = await box.started(image=f"{host}/acme/shell:7", env={"GREETING": "pulled"})
    assert "pulled" in await box.call(upstream, "about")
    await upstream.close()
    client.images.remove(f"{host}/acme/shell:7", force=True)


@pytest.mark.slow
async def test_killed_runner_ends_polite_servers_and_its_next_life_sweeps_the_rest(
    engine: Any, client: docker.DockerClient, tmp_path: Path
) -> None:
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(runner), engine.address, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"running\n"
    assert {one.labels["mesh.server"] for one in client.containers.list()} == {
        "polite",
        "stubborn",
    }
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()

    def left() -> list[str]:
        return [one.labels["mesh.server"] for one in client.containers.list(ignore_removed=True)]

    await eventually(lambda: left() == ["stubborn"], timeout_s=15)
    other = ContainerSettings(engine=engine.address, owner="somebody-else", life="2")
    assert await sweep(other) == 0
    assert left() == ["stubborn"]
    same = ContainerSettings(engine=engine.address, owner="killed", life="1")
    assert await sweep(same) == 0, "its own living containers"
    next_life = ContainerSettings(engine=engine.address, owner="killed", life="2")
    assert await sweep(next_life) == 1
    await gone(client)


@pytest.mark.slow
async def test_an_engine_that_hangs_lets_go_of_the_runner(
    engine: Any, box: Box, client: docker.DockerClient
) -> None:
    engine.pause()
    try:
        with pytest.raises(MeshError) as raised:
            await box.started(start_timeout_s=1.0)
        assert raised.value.kind is ErrorKind.UPSTREAM
        assert "had no container within 1 s" in raised.value.message
        async with asyncio.timeout(15):
            await box.upstreams[0].close()
    finally:
        engine.resume()


async def test_without_an_engine_the_start_says_what_is_missing() -> None:
    box = Box(NONE)
    with pytest.raises(MeshError) as raised:
        await box.started()
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    assert raised.value.message == (
        "server boxed needs a Docker engine and none listens at /nowhere/docker.sock: "
        "is it running?"
    )
    began = asyncio.get_running_loop().time()
    await box.close()
    assert asyncio.get_running_loop().time() - began < 1
    with pytest.raises(MeshError):
        await sweep(ContainerSettings(engine=NONE, owner="me", life="1"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ContainerOptions(network="bridge"), "may not use network bridge"),
        (ContainerOptions(memory_mb=1024), "may not have memory_mb 1024"),
        (ContainerOptions(pids=1000), "may not have pids 1000"),
        (ContainerOptions(cpus=4), "may not have cpus 4"),
    ],
)
async def test_a_tenants_own_server_gets_no_more_than_the_operator_allows(
    options: ContainerOptions, said: str
) -> None:
    box = Box(NONE)
    with pytest.raises(MeshError, match=said):
        await box.started(container=options, trusted=False)
    await box.close()
    allowed = {"tenant_networks": ("bridge",), "memory_mb": 2048, "pids": 2000, "cpus": 8.0}
    with pytest.raises(MeshError, match="needs a Docker engine"):
        await box.started(container=options, trusted=False, settings=allowed)
    await box.close()


def test_owner_is_the_same_in_the_next_life_and_another_elsewhere() -> None:
    own = owner_of("runner-1", ["nats://a:4222"])
    assert own == owner_of("runner-1", ["nats://a:4222"])
    assert len({own, owner_of("runner-2", ["nats://a:4222"]), owner_of("runner-1", [])}) == 3


RUNNER = textwrap.dedent(
    """
    import asyncio, sys

    from mcp_proto.contracts.registry import ServerDefinition
    from mesh_chassis.children import Children
    from tool_runner.upstreams.containers import ContainerSettings
    from tool_runner.upstreams.factory import NetworkSettings, make
    from tool_runner.upstreams.stdio import StdioSettings

    class Listener:
        def lists_changed(self): ...
        def resource_updated(self, params): ...

    async def main():
        containers = ContainerSettings(engine=sys.argv[1], owner="killed", life="1")
        made = [
            make(
                ServerDefinition(name=name, image="mesh-shell:1", args=(name,)),
                Children(), Listener(), stdio=StdioSettings(containers=containers),
                network=NetworkSettings(), trusted=True,
            )
            for name in ("polite", "stubborn")
        ]
        for one in made:
            await one.start()
        print("running", flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())
    """
)


def _manifest(saved: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Of what ``docker save`` gives, as a registry has it: manifest, and blobs by digest."""
    with tarfile.open(fileobj=io.BytesIO(saved)) as file:

        def read(name: str) -> bytes:
            member = file.extractfile(name)
            assert member is not None
            return member.read()

        (entry,) = json.loads(read("manifest.json"))
        config = read(entry["Config"])
        layers = [gzip.compress(read(layer)) for layer in entry["Layers"]]

    def described(kind: str, blob: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        return {"mediaType": kind, "size": len(blob), "digest": digest}

    base = "application/vnd.docker"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{base}.distribution.manifest.v2+json",
        "config": described(f"{base}.container.image.v1+json", config),
        "layers": [described(f"{base}.image.rootfs.diff.tar.gzip", one) for one in layers],
    }
    blobs = {described("", blob)["digest"]: blob for blob in (config, *layers)}
    return json.dumps(manifest).encode(), blobs


@pytest.fixture
async def registry() -> AsyncIterator[Callable[[bytes], Any]]:
    """An image registry on loopback, which engines talk to without TLS."""
    runners: list[web.AppRunner] = []

    async def start(saved: bytes) -> str:
        manifest, blobs = _manifest(saved)
        kind = json.loads(manifest)["mediaType"]
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"

        async def answer(request: web.Request) -> web.Response:
            name = request.path.rpartition("/")[2]
            if request.path == "/v2/":
                return web.Response(text="{}")
            if "/manifests/" in request.path and name in {"7", digest}:
                headers = {"Docker-Content-Digest": digest, "Content-Type": kind}
                return web.Response(body=manifest, headers=headers)
            if "/blobs/" in request.path and name in blobs:
                return web.Response(body=blobs[name])
            return web.Response(status=404)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()
