"""Agents that the published SDK of the Synadia Agent Protocol hosts are tools of a server here."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from synadia_ai.agent_service import AgentService, PromptStream
from synadia_ai.agents import Attachment, Envelope, ResponseChunk, StatusChunk

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_types import server_problem
from mesh_chassis.testing.broker import Broker
from tool_runner.server_types.synadia import SynadiaServer
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.http import HttpSettings
from tool_runner.upstreams.upstream import Request

Handler = Callable[[Envelope, PromptStream], Awaitable[None]]


class Ear:
    def __init__(self) -> None:
        self.changed = asyncio.Event()

    def lists_changed(self) -> None:
        self.changed.set()

    def resource_updated(self, params: msgspec.Raw) -> None:
        raise AssertionError


@pytest_asyncio.fixture
async def elsewhere(broker: Broker) -> AsyncIterator[Client]:
    """A program of somebody else's, on the broker."""
    client = await nats.connect(broker.url, nkeys_seed=broker.seed_for("operator", "operator"))
    yield client
    await client.close()


@contextlib.asynccontextmanager
async def hosted(
    client: Client, handler: Handler, *, agent: str = "echo", owner: str = "acme",
    session: str = "main", **options: Any,
) -> AsyncIterator[AgentService]:  # fmt: skip
    service = AgentService(
        agent=agent, owner=owner, session_name=session, nc=client, description="says it again",
        **options,
    )  # fmt: skip
    service.on_prompt(handler)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def echo(envelope: Envelope, stream: PromptStream) -> None:
    match envelope.prompt:
        case "break":
            raise RuntimeError("a defect")
        case "ask":
            await stream.ask("Which one?", timeout=0.2)
        case "huge":
            for _ in range(40):
                await stream.send("x" * 100_000)
        case "hang":
            await asyncio.sleep(30)
        case "steps":
            await stream.send(StatusChunk(status="thinking"))
            await stream.send(StatusChunk(status="writing"))
    names = [one.filename for one in envelope.attachments or []]
    await stream.send(f"echo: {envelope.prompt}")
    await stream.send(ResponseChunk(text=f" {names}" if names else "."))
    if envelope.prompt == "file":
        file = Attachment.from_bytes("a b.txt", b"hi")
        await stream.send(ResponseChunk(text="", attachments=[file]))


class Rig:
    def __init__(self, server: SynadiaServer, ear: Ear) -> None:
        self.server, self.ear = server, ear
        self.notes: list[dict[str, Any]] = []

    async def tools(self) -> dict[str, dict[str, Any]]:
        offer = await self.server.read_offer()
        return {one.name: json.loads(bytes(one.definition)) for one in offer.tools}

    async def call(self, tool: str, *, timeout_s: float = 10.0, **arguments: Any) -> dict[str, Any]:
        async def notify(note: bytes) -> None:
            self.notes.append(json.loads(note)["params"])

        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}}
        request = Request(
            method="tools/call", params=msgspec.Raw(msgspec.json.encode(params)),
            timeout_s=timeout_s, notify=notify,
        )  # fmt: skip
        answer = await self.server.call(request)
        assert isinstance(answer, bytes)
        return json.loads(answer)


@pytest_asyncio.fixture
async def serve(broker, connect_bus) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    bus = await connect_bus("tool-runner", "runner-1")
    servers: list[SynadiaServer] = []

    async def start(
        *, tenant: str = "_", trusted: bool = True, check_s: float = 30.0, **settings: Any
    ) -> Rig:
        definition = ServerDefinition(name="away", tenant=tenant, type="synadia", settings=settings)
        assert server_problem(definition) is None
        network = NetworkSettings(http=HttpSettings(check_s=check_s), bus=bus)
        ear = Ear()
        server = SynadiaServer(definition, network, trusted, ear)
        servers.append(server)
        await server.start()
        return Rig(server, ear)

    yield start
    for server in servers:
        await server.close()


def text(result: dict[str, Any]) -> str:
    return result["content"][0]["text"]


async def test_an_agent_of_the_sdk_is_a_tool(elsewhere: Client, serve) -> None:
    async with hosted(elsewhere, echo), hosted(elsewhere, echo, session="second"):
        rig = await serve()
        tools = await rig.tools()
        assert set(tools) == {"echo_acme_main", "echo_acme_second"}
        assert tools["echo_acme_main"]["description"] == "says it again"
        result = await rig.call("echo_acme_main", prompt="hello {é}")
        assert (text(result), result.get("isError")) == ("echo: hello {é}.", None)
        file = {"filename": "a.txt", "content": "YQ=="}
        result = await rig.call("echo_acme_main", prompt="see", attachments=[file])
        assert text(result) == "echo: see ['a.txt']"
        result = await rig.call("echo_acme_main", prompt="file")
        assert result["content"][1] == {
            "type": "resource", "resource": {"uri": "attachment:a-b-txt", "blob": "aGk="},
        }  # fmt: skip


async def test_two_instances_of_an_agent_are_one_tool(elsewhere: Client, serve) -> None:
    async with hosted(elsewhere, echo), hosted(elsewhere, echo):
        rig = await serve()
        assert set(await rig.tools()) == {"echo_acme_main"}


async def test_status_of_the_agent_is_progress(elsewhere: Client, serve) -> None:
    async with hosted(elsewhere, echo):
        rig = await serve()
        await rig.call("echo_acme_main", prompt="steps")
    assert rig.notes == [
        {"progressToken": "p", "progress": 1, "message": "thinking"},
        {"progressToken": "p", "progress": 2, "message": "writing"},
    ]


async def test_what_goes_wrong_is_told_with_its_outcome(elsewhere: Client, serve) -> None:
    bounds = {"max_payload": "1KB", "attachments_ok": False, "max_concurrent_prompts": 8}
    async with hosted(elsewhere, echo, **bounds):
        rig = await serve(answer_bytes_max=1_000_000, quiet_s=0.5)
        (tool,) = await rig.tools()
        assert "at most 1024" in text(await rig.call(tool, prompt="x" * 2_000))
        assert "Invalid arguments" in text(await rig.call(tool, prompt=""))
        assert "attachments" in text(await rig.call(tool, prompt="a", attachments=[]))
        asked = await rig.call(tool, prompt="ask")
        assert asked["isError"]
        assert "Which one?" in text(asked)
        for prompt, kind, outcome in (
            ("break", ErrorKind.UPSTREAM, Outcome.EXECUTED),
            ("huge", ErrorKind.TOO_LARGE, Outcome.EXECUTED),
            ("hang", ErrorKind.UPSTREAM, Outcome.UNKNOWN),
        ):
            with pytest.raises(MeshError) as caught:
                await rig.call(tool, prompt=prompt)
            assert (caught.value.kind, caught.value.outcome) == (kind, outcome), prompt
        with pytest.raises(MeshError) as caught:
            await rig.call(tool, prompt="hang", timeout_s=0.2)
        assert caught.value.kind is ErrorKind.DEADLINE
    with pytest.raises(MeshError, match="has no agent echo") as caught:
        await rig.call(tool, prompt="gone")
    assert caught.value.outcome is Outcome.NOT_EXECUTED


async def test_agents_that_come_and_go_change_the_list(elsewhere: Client, serve) -> None:
    rig = await serve(check_s=0.05)
    assert await rig.tools() == {}
    async with hosted(elsewhere, echo):
        async with asyncio.timeout(5):
            await rig.ear.changed.wait()
        assert set(await rig.tools()) == {"echo_acme_main"}
        rig.ear.changed.clear()
    async with asyncio.timeout(5):
        await rig.ear.changed.wait()


async def test_a_tenants_own_server_has_the_agents_of_its_tenant(elsewhere: Client, serve) -> None:
    async with hosted(elsewhere, echo), hosted(elsewhere, echo, owner="other"):
        rig = await serve(tenant="acme", trusted=False)
        assert set(await rig.tools()) == {"echo_main"}
        chosen = await serve(include=["echo.o*.*"])
        assert set(await chosen.tools()) == {"echo_other_main"}
    definition = ServerDefinition(
        name="away", tenant="acme", type="synadia", settings={"owner": "other"}
    )
    assert "owner must be acme" in (server_problem(definition) or "")


async def test_a_record_never_names_another_subject_to_publish_to(elsewhere: Client, serve) -> None:
    def record(subject: str, name: str = "agents", **said: str) -> bytes:
        metadata = {"agent": "a", "owner": "b", "protocol_version": "0.3", **said}
        endpoint = {"name": "prompt", "subject": subject, "queue_group": "agents", "metadata": None}
        return json.dumps(
            {"name": name, "id": "1", "version": "1", "metadata": metadata, "endpoints": [endpoint]}
        ).encode()

    records = [
        record("mesh.v1.acme.call.kv.kv_get"),
        record("agents.prompt.a.b.*"),
        record("agents.prompt.a.b.>"),
        record("agents.hb.a.b.c"),
        record("agents.prompt.a.b.c.d"),
        record("agents.prompt.a.b.own", mesh="helper:ask"),
        record("agents.prompt.a.b.foreign", name="other"),
        b"{",
        b"",
        b'{"name":"agents","id":"1","description":"%b"}' % (b"x" * 100_000),
        record("agents.prompt.a.b.good"),
    ]

    async def lie(message: Any) -> None:
        for one in records:
            await elsewhere.publish(message.reply, one)

    await elsewhere.subscribe("$SRV.INFO.agents", cb=lie)
    await elsewhere.flush()
    rig = await serve()
    assert set(await rig.tools()) == {"a_b_good"}
