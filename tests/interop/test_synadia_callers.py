"""Callers of the Synadia Agent Protocol, by its published SDK, prompt tools of ours as agents."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from synadia_ai.agents import (
    Agent,
    Agents,
    Attachment,
    AttachmentsNotSupportedError,
    Envelope,
    PayloadTooLargeError,
    ProtocolError,
    ResponseChunk,
    StatusChunk,
)

from gateway.config import ExposedAgent, SecurityConfig, SynadiaConfig
from gateway.testing import (
    DEMO_TENANT,
    Running,
    Surroundings,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.broker import Broker

EXPOSED = (
    ExposedAgent(server="helper", tool="ask", tenant=DEMO_TENANT, description="answers"),
    ExposedAgent(
        server="helper", tool="Draw.It", argument="what", tenant=DEMO_TENANT, session="draw"
    ),
)


def prompt_in(params: dict[str, msgspec.Raw], name: str = "prompt") -> str:
    return msgspec.json.decode(params["arguments"])[name]


async def ask(call, params) -> bytes:
    prompt = prompt_in(params)
    if prompt == "fail":
        return msgspec.json.encode(
            {"resultType": "complete", "isError": True, "content": [{"type": "text", "text": "é!"}]}
        )
    if prompt == "break":
        raise MeshError(ErrorKind.UPSTREAM, "it broke")
    if prompt == "slowly":
        token = msgspec.json.decode(params["_meta"])["progressToken"]
        for step in (1, 2):
            note = {"progressToken": token, "progress": step, "total": 2, "message": "thinking"}
            body = {"jsonrpc": "2.0", "method": "notifications/progress", "params": note}
            await call.emit(msgspec.json.encode(body))
    return text_result(f"you said {prompt}")


async def draw(call, params) -> bytes:
    return msgspec.json.encode(
        {
            "resultType": "complete",
            "content": [
                {"type": "text", "text": prompt_in(params, "what") * 40_000},
                {"type": "image", "mimeType": "image/png", "data": "aGk="},
                {"type": "resource_link", "uri": "mesh://a", "name": "a"},
            ],
        }
    )


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server("helper", tool("ask"), tool("Draw.It"), tool("secret"))
        parts.scripts |= {"helper:ask": ask, "helper:Draw.It": draw}
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    synadia = SynadiaConfig(expose=EXPOSED, heartbeat_s=1)
    async with running_gateway(around, connect_bus, synadia=synadia) as running:
        yield running


@contextlib.asynccontextmanager
async def connected(
    broker: Broker, tenant: str = DEMO_TENANT
) -> AsyncIterator[tuple[Client, list[str]]]:
    """A plain NATS client of a tenant, and what the broker refused it."""
    problems: list[str] = []

    async def note(error: Exception) -> None:
        problems.append(str(error))

    seed = broker.seed_for("client", tenant)
    client = await nats.connect(broker.url, nkeys_seed=seed, error_cb=note)
    try:
        yield client, problems
    finally:
        await client.close()


@pytest_asyncio.fixture
async def agents(broker: Broker, gateway: Running) -> AsyncIterator[Agents]:
    async with connected(broker) as (client, problems):
        found = Agents(nc=client)
        yield found
        await found.close()
        assert problems == []


async def agent(agents: Agents, session: str = "ask") -> Agent:
    (found,) = [one for one in await agents.discover(stall=0.2) if one.session_name == session]
    return found


async def answer(
    agent: Agent, prompt: Any, **options: Any
) -> tuple[str, list[str], list[Attachment]]:
    text, statuses, files = "", [], []
    async for chunk in agent.prompt(prompt, timeout=5.0, **options):
        match chunk:
            case ResponseChunk():
                text += chunk.text
                files += chunk.attachments or []
            case StatusChunk():
                statuses.append(chunk.status)
    return text, statuses, files


async def test_the_sdk_discovers_our_tools_as_agents(agents: Agents) -> None:
    found = {one.session_name: one for one in await agents.discover(stall=0.2)}
    assert set(found) == {"ask", "draw"}
    one = found["ask"]
    assert (one.agent, one.owner, one.protocol_version) == ("helper", DEMO_TENANT, "0.3")
    assert one.description == "answers"
    assert one.prompt_subject == f"agents.prompt.helper.{DEMO_TENANT}.ask"
    assert one.prompt_endpoint.queue_group == "agents"
    assert one.prompt_endpoint.max_payload_bytes == 512 * 1024
    assert one.prompt_endpoint.attachments_ok is False
    assert await agents.ping(one.instance_id)
    beat = await one.status()
    assert (beat.agent, beat.session, beat.instance_id) == ("helper", "ask", one.instance_id)


async def test_the_sdk_sees_heartbeats(agents: Agents) -> None:
    one = await agent(agents)
    heard = asyncio.Event()
    agents.on_heartbeat(one.instance_id, lambda _: heard.set())
    async with asyncio.timeout(5.0):
        await heard.wait()
    liveness = agents.liveness(one.instance_id)
    assert liveness is not None
    assert liveness.is_online


async def test_a_prompt_becomes_a_call_and_its_result_the_answer(
    agents: Agents, around: Surroundings
) -> None:
    one = await agent(agents)
    assert await answer(one, "hello") == ("you said hello", ["ack"], [])
    assert await answer(one, Envelope(prompt='{"é"', more=1)) == ('you said {"é"', ["ack"], [])
    assert [call.subject.names for call in around.seen] == [("helper", "ask")] * 2
    assert all(call.envelope.context for call in around.seen)


async def test_progress_is_told_as_status(agents: Agents) -> None:
    text, statuses, _ = await answer(await agent(agents), "slowly")
    assert text == "you said slowly"
    assert statuses == ["ack", "progress 1/2 thinking", "progress 2/2 thinking"]


async def test_long_texts_come_in_chunks_and_images_as_attachments(agents: Agents) -> None:
    text, _, files = await answer(await agent(agents, "draw"), "né")
    assert text == "né" * 40_000 + "a: mesh://a"
    assert [(one.filename, one.to_bytes()) for one in files] == [("image-2.png", b"hi")]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("fail", "service error 502: ?!"), ("break", "service error 502: it broke")],
)
async def test_a_failure_is_an_error_of_the_service(agents: Agents, prompt: str, said: str) -> None:
    with pytest.raises(ProtocolError, match=said.replace("?", r"\?")):
        await answer(await agent(agents), prompt)


async def test_the_sdk_refuses_what_the_agent_says_it_does_not_take(agents: Agents) -> None:
    one = await agent(agents)
    with pytest.raises(AttachmentsNotSupportedError):
        await answer(one, "look", attachments=[Attachment.from_bytes("a", b"a")])
    with pytest.raises(PayloadTooLargeError):
        await answer(one, "x" * 600_000)


async def streamed(client: Client, subject: str, payload: bytes, **headers: str) -> list[Any]:
    """What a caller without SDK gets, up to the terminator."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(subject, payload, reply=inbox, headers=headers or None)
    got: list[Any] = []
    while True:
        message = await subscription.next_msg(timeout=5.0)
        if not message.data and not message.headers:
            return got
        got.append(message)


async def test_an_exposure_may_fix_arguments_and_pick_a_part_of_the_result(
    around: Surroundings, broker: Broker, connect_bus
) -> None:
    async def told(call, params) -> bytes:
        given = msgspec.json.decode(params["arguments"])
        structured = {"result": {"a/b": [given, given["prompt"]]}}
        return msgspec.json.encode(
            {"resultType": "complete", "content": [], "structuredContent": structured}
        )

    around.scripts["helper:ask"] = told
    fixed = {"wait": True, "n": 3}
    exposed = tuple(
        ExposedAgent(
            server="helper", tool="ask", tenant=DEMO_TENANT, arguments=fixed, result=pointer,
            session=session,
        )
        for session, pointer in (
            ("text", "/result/a~1b/1"), ("json", "/result/a~1b/0"), ("none", "/result/c"),
        )
    )  # fmt: skip
    async with (
        running_gateway(around, connect_bus, synadia=SynadiaConfig(expose=exposed)),
        connected(broker) as (client, _),
    ):

        async def said(session: str) -> Any:
            subject = f"agents.prompt.helper.{DEMO_TENANT}.{session}"
            return (await streamed(client, subject, b"hello"))[-1]

        assert msgspec.json.decode((await said("text")).data)["data"] == "hello"
        whole = msgspec.json.decode((await said("json")).data)["data"]
        assert msgspec.json.decode(whole) == {"wait": True, "n": 3, "prompt": "hello"}
        assert "nothing at /result/c" in (await said("none")).headers["Nats-Service-Error"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b'{"prompt":""}',
        b"{",
        b'{"prompt":7}',
        b'{"prompt":"a","attachments":[{"filename":"a","content":"YQ=="}]}',
        b"\xff\xfe",
        b"x" * (512 * 1024 + 1),
    ],
)
async def test_a_bad_prompt_gets_an_error_and_the_end_and_no_ack(
    gateway: Running, around: Surroundings, broker: Broker, payload: bytes
) -> None:
    async with connected(broker) as (client, _):
        (only,) = await streamed(client, f"agents.prompt.helper.{DEMO_TENANT}.ask", payload)
    assert only.headers["Nats-Service-Error-Code"] == "400"
    assert msgspec.json.decode(only.data)["error"]["data"]["outcome"] == "not_executed"
    assert around.seen == []


async def test_a_prompt_has_the_grant_of_its_credential(
    around: Surroundings, connect_bus, broker: Broker, tmp_path: Path
) -> None:
    own = tmp_path / "own.key"
    own.write_text("exposed\n")
    around.allow("exposed")
    around.allow("weak", Grant(permissions=frozenset(("CallTools",)), allow=("kv:*",)))
    around.allow("foreign", tenant="other")
    subject = f"agents.prompt.helper.{DEMO_TENANT}."
    synadia = SynadiaConfig(
        expose=(
            ExposedAgent(server="helper", tool="ask", tenant=DEMO_TENANT, credential=f"file:{own}"),
            EXPOSED[1],
        )
    )
    security = SecurityConfig(development=False)
    async with (
        running_gateway(around, connect_bus, synadia=synadia, security=security),
        connected(broker) as (client, _),
    ):

        async def code(session: str, **headers: str) -> str:
            last = (await streamed(client, subject + session, b"hello", **headers))[-1]
            return (last.headers or {}).get("Nats-Service-Error-Code", "")

        assert await code("ask") == ""
        assert await code("draw") == "401"
        assert await code("ask", **{"Mesh-Credential": "weak"}) in {"403", "404"}
        assert await code("ask", **{"Mesh-Credential": "foreign"}) == "403"
        assert await code("ask", **{"Mesh-Credential": "nobody"}) == "401"
    assert len(around.seen) == 1


async def test_prompts_beyond_the_slots_are_refused_and_a_stop_ends_what_runs(
    around: Surroundings, connect_bus, broker: Broker
) -> None:
    began = asyncio.Event()

    async def hang(call, params) -> bytes:
        began.set()
        await asyncio.sleep(60)
        raise AssertionError

    around.scripts["helper:ask"] = hang
    subject = f"agents.prompt.helper.{DEMO_TENANT}.ask"
    synadia = SynadiaConfig(expose=EXPOSED, slots=1)
    section = ServiceSection(instance="gateway-1", accept_s=0.0, drain_s=2.5)
    async with connected(broker) as (client, _):
        async with running_gateway(around, connect_bus, synadia=synadia, service=section):
            running = asyncio.ensure_future(streamed(client, subject, b"one"))
            await began.wait()
            (only,) = await streamed(client, subject, b"two")
            assert only.headers["Nats-Service-Error-Code"] == "429"
        ack, failed = await running
    assert msgspec.json.decode(ack.data) == {"type": "status", "data": "ack"}
    assert failed.headers["Nats-Service-Error"] == "the gateway stops"


async def test_another_tenant_cannot_prompt(
    gateway: Running, around: Surroundings, broker: Broker
) -> None:
    async with connected(broker, "other") as (client, problems):
        await client.publish(
            f"agents.prompt.helper.{DEMO_TENANT}.ask", b"hello", reply=client.new_inbox()
        )
        await client.flush()
    assert any("permissions violation" in one.lower() for one in problems)
    assert around.seen == []


@pytest.mark.parametrize(
    "reply",
    [
        "mesh.v1.demo-tenant.gw.tools/call",
        "agents.prompt.helper.other.ask",
        "$SRV.PING",
        "_MESH.gateway.gateway-1.x",
    ],
)
async def test_an_answer_never_goes_where_it_would_speak_in_our_name(
    gateway: Running, around: Surroundings, broker: Broker, connect_bus, reply: str
) -> None:
    heard: list[str] = []
    operator = await connect_bus("operator", "operator")

    async def note(message: Any) -> None:
        heard.append(message.subject)

    for root in (
        "mesh.v1.demo-tenant.gw.>",
        "agents.prompt.*.other.*",
        "_MESH.gateway.gateway-1.x",
    ):
        await operator.subscribe(root, note)
    async with connected(broker) as (client, _):
        await client.publish(f"agents.prompt.helper.{DEMO_TENANT}.ask", b"hello", reply=reply)
        assert await streamed(client, f"agents.prompt.helper.{DEMO_TENANT}.ask", b"hello")
    assert len(around.seen) == 1
    assert heard == []
