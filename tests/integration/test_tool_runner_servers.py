"""Upstream servers on real runners: placement, takeover, definitions, faults, drain."""

import asyncio
import os
import secrets
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client
from tests.peers import require

from mcp_proto.contracts import registry as contract
from mcp_proto.contracts.registry import (
    ListServers,
    RestartServer,
    ServerDefinition,
    ServerPut,
    ServerRemove,
    ServerStatus,
)
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry.config import RegistryConfig
from registry.service import build as build_registry

EVIL = Path(__file__).parents[2] / "services" / "tool-runner" / "tests" / "evil_server.py"
MARK = secrets.token_hex(8)
"""On every command line of this run: other workers start the same program."""
TENANT = "demo-tenant"

pytestmark = [pytest.mark.usefixtures("broker"), pytest.mark.slow]


def evil(name: str = "evil", mode: str = "ok", **fields: Any) -> ServerDefinition:
    args = (str(EVIL), mode, MARK)
    return ServerDefinition(name=name, command=sys.executable, args=args, **fields)


def processes_with(text: str) -> list[int]:
    """Living processes of this run whose command line holds ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if text.encode() in line and MARK.encode() in line and state != "Z":
                found.append(int(entry.name))
    return found


class Mesh:
    """A registry, any number of runner processes, and a client."""

    def __init__(self, broker: Broker, directory: Path, client: Client, operator: Bus) -> None:
        self.broker = broker
        self.directory = directory
        self.client = client
        self.operator = operator
        self.runners: dict[str, Process] = {}

    async def run(
        self, instance: str, *servers: ServerDefinition, sandbox: str = 'tenant_servers = "none"'
    ) -> Process:
        """Start a runner process; servers are told apart by pids, which a sandbox hides."""
        file = self.directory / f"{instance}.toml"
        lines = [
            f'[service]\ninstance = "{instance}"\naccept_s = 0.05',
            f'[bus]\nurls = ["{self.broker.url}"]',
            f'nkey_seed_file = "{self.broker.seed_for("tool-runner", instance)}"',
            "[runner]\nallow_unsigned = true",
            f"[sandbox]\n{sandbox}",
        ]
        for one in servers:
            args = ", ".join(f'"{arg}"' for arg in one.args)
            lines.append(
                f'[[mcp_servers]]\nname = "{one.name}"\ncommand = "{one.command}"\n'
                f"args = [{args}]\ntimeout_s = {float(one.timeout_s)}\n"
                f"concurrency = {one.concurrency}"
            )
        file.write_text("\n".join(lines))
        log = (self.directory / f"{instance}.log").open("ab")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tool_runner", "--config", str(file), stdout=log, stderr=log
        )
        log.close()
        self.runners[instance] = process
        return process

    def log(self, instance: str) -> str:
        return (self.directory / f"{instance}.log").read_text()

    async def call(self, server: str, tool: str, **arguments: object) -> dict[str, Any]:
        body = msgspec.json.encode({"arguments": arguments})
        reply = await self.client.request(f"mesh.v1.{TENANT}.call.{server}.{tool}", body, timeout=8)
        return msgspec.json.decode(reply.data)

    async def text(self, server: str, tool: str, **arguments: object) -> str:
        answer = await self.call(server, tool, **arguments)
        assert "result" in answer, answer
        return answer["result"]["content"][0]["text"]

    async def answers(self, server: str = "evil") -> bool:
        """Whether a call works now."""
        try:
            return "result" in await self.call(server, "pid")
        except nats.errors.NoRespondersError:
            return False

    async def until_it_answers(self, server: str = "evil", timeout_s: float = 10.0) -> None:
        await eventually(lambda: self.answers(server), timeout_s=timeout_s, what=server)

    async def status(self, server: str) -> ServerStatus | None:
        listed = await self.operator.operation(contract.list_servers, ListServers())
        return next((one for one in listed.servers if one.server == server), None)

    async def stop(self) -> None:
        for process in self.runners.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
async def mesh(broker: Broker, connect_bus: Any, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        config = RegistryConfig(service=ServiceSection(instance="registry-1"))
        bus = await connect_bus("registry", "registry-1")
        await stack.enter_async_context(in_process(build_registry, config, bus))
        client = await nats.connect(broker.url, nkeys_seed=broker.seed_for("client", TENANT))
        stack.push_async_callback(client.close)
        one = Mesh(broker, tmp_path, client, await connect_bus("operator", "operator"))
        stack.push_async_callback(one.stop)
        yield one


async def test_server_is_called_listed_and_registered(mesh: Mesh) -> None:
    await mesh.run("runner-1", evil(), evil("bad", "silent"))
    await mesh.until_it_answers()

    async def registered() -> bool:
        status = await mesh.status("evil")
        return status is not None and status.state == "running" and status.tools > 10

    await eventually(registered)


async def test_server_that_is_no_mcp_server_says_so_and_harms_nothing_else(mesh: Mesh) -> None:
    bad = ServerDefinition(name="bad", command="echo", args=("hello",))
    await mesh.run("runner-1", bad, evil())
    await mesh.until_it_answers()
    answer = await mesh.call("bad", "anything")
    assert answer["error"]["code"] == -31017
    assert "before it spoke MCP" in answer["error"]["message"]
    assert answer["error"]["data"]["outcome"] == "not_executed"
    assert answer["error"]["data"]["upstream"] == "bad"

    async def quarantined() -> bool:
        return (await mesh.call("bad", "x"))["error"]["data"]["state"] == "quarantined"

    await eventually(quarantined, timeout_s=15.0)
    reply = await mesh.operator.request("mesh.v1._.inst.runner-1.servers", timeout_s=2.0)
    views = {one["server"]: one for one in msgspec.json.decode(reply.payload)["servers"]}
    assert views["bad"]["state"] == "quarantined"
    assert "before it spoke MCP" in views["bad"]["reason"]
    assert views["evil"]["state"] == "running"
    assert views["evil"]["pid"] > 0
    assert mesh.log("runner-1").count("the server ended: server bad") == 5
    assert await mesh.answers()


async def test_two_runners_never_run_one_server_twice(mesh: Mesh) -> None:
    servers = [evil(f"evil{n}", f"m{n}") for n in range(6)]
    for instance in ("runner-1", "runner-2"):
        await mesh.run(instance, *servers)
    for server in servers:
        await mesh.until_it_answers(server.name)
        assert len(processes_with(f"{EVIL}\0{server.args[1]}\0")) == 1
    assert sum(mesh.log(instance).count("the server runs") for instance in mesh.runners) == 6


async def test_survivor_takes_over_after_kill_9_and_no_descendant_is_left(mesh: Mesh) -> None:
    first = await mesh.run("runner-1", evil())
    await mesh.until_it_answers()
    pid = int(await mesh.text("evil", "fork"))
    # A sleep in a session of its own, whose parent is still there, and a shell with two more.
    await eventually(lambda: len(descendants(pid)) == 4)
    below = descendants(first.pid)
    assert pid in below
    await mesh.run("runner-2", evil())
    await eventually(lambda: "is ready" in mesh.log("runner-2"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    first.send_signal(signal.SIGKILL)
    await first.wait()
    await eventually(lambda: not below & living(), timeout_s=3.0)
    await mesh.until_it_answers(timeout_s=5.0)
    assert loop.time() - began < 5.0
    assert int(await mesh.text("evil", "pid")) != pid
    assert len(processes_with(str(EVIL))) == 1


def living() -> set[int]:
    """Every process that is no zombie."""
    return descendants(0) | descendants(1)


def descendants(pid: int) -> set[int]:
    """Living processes below ``pid``, whatever sessions they made."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


@pytest.mark.slow
async def test_holder_that_stops_hands_over_without_a_failed_call(mesh: Mesh) -> None:
    first = await mesh.run("runner-1", evil())
    await mesh.until_it_answers()
    await mesh.run("runner-2", evil())
    await eventually(lambda: "is ready" in mesh.log("runner-2"))
    before = await mesh.text("evil", "pid")
    stopping = asyncio.Event()
    failed: list[str] = []
    calls = 0

    async def load() -> None:
        nonlocal calls
        while not stopping.is_set():
            try:
                answer = await mesh.call("evil", "slow", n=0.01)
            except nats.errors.Error as error:
                failed.append(repr(error))
            else:
                failed.extend([str(answer)] if "result" not in answer else [])
            calls += 1

    load_tasks = [asyncio.ensure_future(load()) for _ in range(4)]
    first.terminate()
    assert await first.wait() == 0
    assert await mesh.text("evil", "pid") != before
    stopping.set()
    await asyncio.gather(*load_tasks)
    assert calls > 20
    assert not failed, (len(failed), failed[:3], mesh.log("runner-1"), mesh.log("runner-2"))
    assert len(processes_with(str(EVIL))) == 1


async def test_last_runner_stops_at_once_and_leaves_nothing(mesh: Mesh) -> None:
    runner = await mesh.run("runner-1", evil())
    await mesh.until_it_answers()
    loop = asyncio.get_running_loop()
    began = loop.time()
    runner.terminate()
    assert await runner.wait() == 0
    assert loop.time() - began < 3.0
    assert processes_with(str(EVIL)) == []


async def test_servers_are_added_restarted_and_removed_while_running(mesh: Mesh) -> None:
    await mesh.run("runner-1", evil("configured"))
    await mesh.operator.operation(
        contract.server_put, ServerPut(definition=evil("added", "a1", tenant=TENANT))
    )
    await mesh.until_it_answers("added")
    first = await mesh.text("added", "pid")
    await mesh.operator.operation(
        contract.server_restart, RestartServer(name="added", tenant=TENANT)
    )

    async def replaced(server: str, pid: str) -> bool:
        # No call fails meanwhile: they wait for the new child.
        return await mesh.text(server, "pid") != pid

    await eventually(lambda: replaced("added", first))
    assert len(processes_with(f"{EVIL}\0a1\0")) == 1
    await mesh.until_it_answers("configured")

    async def known() -> bool:
        return await mesh.status("configured") is not None

    await eventually(known)
    second = await mesh.text("configured", "pid")
    await mesh.operator.operation(contract.server_restart, RestartServer(name="configured"))
    await eventually(lambda: replaced("configured", second))
    await mesh.operator.operation(contract.server_remove, ServerRemove(name="added", tenant=TENANT))

    async def removed() -> bool:
        return not await mesh.answers("added") and await mesh.status("added") is None

    await eventually(removed)
    await eventually(lambda: not processes_with(f"{EVIL}\0a1\0"))


async def test_changed_definition_runs_the_new_command(mesh: Mesh) -> None:
    await mesh.run("runner-1")
    put = contract.server_put
    await mesh.operator.operation(put, ServerPut(definition=evil("one", "silent")))
    await eventually(lambda: bool(processes_with(f"{EVIL}\0silent\0")))
    await mesh.operator.operation(put, ServerPut(definition=evil("one", "ok"), replace=True))
    await mesh.until_it_answers("one")
    assert not processes_with(f"{EVIL}\0silent\0")


async def test_killed_child_fails_its_calls_at_once_and_comes_back(mesh: Mesh) -> None:
    await mesh.run("runner-1", evil())
    await mesh.until_it_answers()
    pid = int(await mesh.text("evil", "pid"))
    hanging = asyncio.ensure_future(mesh.call("evil", "hang"))
    await mesh.text("evil", "echo")
    loop = asyncio.get_running_loop()
    began = loop.time()
    os.kill(pid, signal.SIGKILL)
    answer = await hanging
    assert loop.time() - began < 0.5
    assert answer["error"]["code"] == -31017
    assert answer["error"]["data"] == {"upstream": "evil", "outcome": "unknown"}
    await mesh.until_it_answers(timeout_s=3.0)


async def test_cancel_reaches_the_child_within_200_ms(mesh: Mesh, connect_bus: Any) -> None:
    await mesh.run("runner-1", evil())
    await mesh.until_it_answers()
    gateway: Bus = await connect_bus("gateway", "gateway-1")
    subject = f"mesh.v1.{TENANT}.call.evil.hang"

    async def hang() -> bytes:
        return await gateway.call(
            subject, b"", envelope=RequestEnvelope(), timeout_s=30.0, tenant=TENANT
        )

    hanging = asyncio.ensure_future(hang())
    await mesh.text("evil", "pid")
    await asyncio.wait([hanging], timeout=0.05)
    hanging.cancel()
    await asyncio.wait([hanging])

    async def cancelled() -> bool:
        return await mesh.text("evil", "cancelled") != "[]"

    await eventually(cancelled, timeout_s=0.2)


async def test_progress_of_an_upstream_arrives_as_frames(mesh: Mesh, connect_bus: Any) -> None:
    await mesh.run("runner-1", evil())
    await mesh.until_it_answers()
    gateway: Bus = await connect_bus("gateway", "gateway-1")
    frames: list[bytes] = []
    params = {"arguments": {"n": 5}, "_meta": {"progressToken": "mine"}}
    body = await gateway.call(
        f"mesh.v1.{TENANT}.call.evil.progress",
        msgspec.json.encode(params),
        envelope=RequestEnvelope(),
        timeout_s=5.0,
        tenant=TENANT,
        on_frame=frames.append,
    )
    assert b'"result"' in body
    assert [msgspec.json.decode(one)["params"]["progressToken"] for one in frames] == ["mine"] * 5


async def test_changed_lists_reach_the_registry(mesh: Mesh) -> None:
    await mesh.run("runner-1", evil())
    await mesh.until_it_answers()

    async def tools() -> int:
        status = await mesh.status("evil")
        return status.tools if status else 0

    async def listed() -> bool:
        return await tools() > 0

    await eventually(listed)
    before = await tools()
    await mesh.text("evil", "grow")

    async def grown() -> bool:
        return await tools() == before + 1

    await eventually(grown)


async def test_failing_server_opens_the_breaker_and_a_probe_closes_it(mesh: Mesh) -> None:
    await mesh.run("runner-1", evil(timeout_s=0.2))
    await mesh.until_it_answers()
    for _ in range(5):
        assert (await mesh.call("evil", "hang"))["error"]["code"] == -31014
    answer = await mesh.call("evil", "pid")
    assert answer["error"]["code"] == -31017
    assert answer["error"]["data"]["outcome"] == "not_executed"
    assert 4000 <= answer["error"]["data"]["retryAfterMs"] <= 6500
    await mesh.until_it_answers(timeout_s=8.0)


async def test_tenants_server_added_at_run_time_is_in_a_sandbox_without_being_asked(
    mesh: Mesh,
) -> None:
    require("bwrap")
    await mesh.run("runner-1", evil("shared"), sandbox=f'tenant_paths = ["{EVIL.parent}"]')
    for name, more in (("own", {}), ("open", {"isolation": "none"})):
        definition = msgspec.structs.replace(evil(name, tenant=TENANT), **more)
        await mesh.operator.operation(contract.server_put, ServerPut(definition=definition))
    await mesh.until_it_answers("own")
    await mesh.until_it_answers("shared")
    # The first process of its namespace is bubblewrap's; the operator's own server has no wall.
    assert int(await mesh.text("own", "pid")) < 10
    assert "started in a sandbox, limits: " in mesh.log("runner-1")
    assert str(await mesh.text("shared", "pid")) in map(str, processes_with(str(EVIL)))

    async def refused() -> bool:
        views = await mesh.operator.request("mesh.v1._.inst.runner-1.servers", timeout_s=2.0)
        return any(
            "may not run without isolation" in one.get("reason", "")
            for one in msgspec.json.decode(views.payload)["servers"]
        )

    await eventually(refused)


async def test_server_of_one_tenant_is_not_there_for_another(mesh: Mesh, connect_bus: Any) -> None:
    await mesh.run("runner-1")
    definition = evil("own", tenant="acme")
    await mesh.operator.operation(contract.server_put, ServerPut(definition=definition))

    async def code(tenant: str) -> int:
        try:
            reply = await mesh.operator.request(
                f"mesh.v1.{tenant}.call.own.pid", b"", timeout_s=5.0
            )
        except MeshError as error:
            return error.code
        return (
            msgspec.json.decode(reply.data if hasattr(reply, "data") else reply.payload)
            .get("error", {})
            .get("code", 0)
        )

    async def serves() -> bool:
        return await code("acme") == 0

    await eventually(serves)
    assert await code("other") == -31011


async def test_servers_work_again_after_the_broker_was_away(mesh: Mesh) -> None:
    await mesh.run("runner-1", evil())
    await mesh.until_it_answers()
    pid = await mesh.text("evil", "pid")
    await mesh.broker.kill()
    await mesh.broker.start()
    await mesh.until_it_answers(timeout_s=6.0)
    # A short absence costs nobody the state of a server.
    assert await mesh.text("evil", "pid") == pid
