"""Endpoints: plain clients, refusals, duplicates, drain."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from mcp_proto import subjects
from mcp_proto.contracts import Operation
from mcp_proto.contracts.registry import Empty, Remove
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus import endpoint as endpoint_module
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint, serve_operation
from mesh_chassis.testing.broker import Broker
from mesh_chassis.tracing import current_traceparent

Serve = Callable[..., Awaitable[Endpoint]]
MakeCall = Callable[..., Awaitable[bytes]]
TENANT = "acme"


async def echo(call: Call) -> bytes:
    return call.payload


@pytest_asyncio.fixture
async def plain(shared_broker: Broker) -> AsyncIterator[Client]:
    """A stock NATS client of the tenant, as any person's script has it."""
    seed = shared_broker.seed_for("client", TENANT)
    client = await nats.connect(shared_broker.url, nkeys_seed=seed)
    yield client
    await client.close()


async def replies(
    client: Client, subject: str, body: bytes, headers: dict[str, str] | None = None
) -> list[Msg]:
    """Everything that comes back until a second request on the same path was answered."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(subject, body, reply=inbox, headers=headers)
    got = [await subscription.next_msg(timeout=2)]
    await client.flush()
    await asyncio.sleep(0.05)  # a second reply would have to be on its way by now
    while subscription.pending_msgs:
        got.append(await subscription.next_msg())
    await subscription.unsubscribe()
    return got


async def test_plain_client_gets_exactly_one_reply_without_frames(
    serve: Serve, plain: Client, server: str
) -> None:
    async def handler(call: Call) -> bytes:
        await call.emit(b"dropped")
        return b'{"jsonrpc":"2.0","id":1,"result":{}}'

    await serve(handler)
    subject = subjects.call(TENANT, server, "tool")
    got = await replies(plain, subject, b'{"id":1}', {"traceparent": "00-x", "My-Own": "1"})
    assert [(message.data, message.headers) for message in got] == [
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', None)
    ]


async def test_plain_client_gets_errors_as_json_rpc_with_the_service_error_pair(
    serve: Serve, plain: Client, server: str
) -> None:
    async def handler(call: Call) -> bytes:
        raise MeshError(ErrorKind.DENIED, "missing grant WriteKV")

    await serve(handler)
    [message] = await replies(plain, subjects.call(TENANT, server, "tool"), b'{"id":"abc"}')
    assert message.headers == {
        "Nats-Service-Error": "missing grant WriteKV",
        "Nats-Service-Error-Code": "403",
    }
    body = json.loads(message.data)
    assert body["id"] == "abc"
    assert body["error"]["code"] == -31003
    assert body["error"]["data"]["outcome"] == "not_executed"


async def test_command_line_client_gets_an_empty_headerless_message_after_the_end(
    serve: Serve, plain: Client, server: str
) -> None:
    await serve(echo)
    subject = subjects.call(TENANT, server, "tool")
    got = await replies(plain, subject, b"x", {"Mesh-Stream": "cli"})
    assert [(m.headers or {}).get("Mesh-Frame") for m in got] == ["ack", "end", None]
    assert got[-1].data == b""
    assert got[-1].headers is None


@pytest.mark.parametrize(
    "headers", [{"Mesh-Wire": "9"}, {"Mesh-Timeout-Ms": "soon"}, {"Mcp-Name": "=?base64?!?="}]
)
async def test_malformed_headers_are_refused_without_running_the_handler(
    serve: Serve, plain: Client, server: str, headers: dict[str, str]
) -> None:
    async def handler(call: Call) -> bytes:
        raise AssertionError("ran")

    await serve(handler)
    [message] = await replies(plain, subjects.call(TENANT, server, "tool"), b"{}", headers)
    body = json.loads(message.data)
    assert body["error"]["data"]["outcome"] == "not_executed"
    assert (message.headers or {})["Nats-Service-Error-Code"] == "400"


@pytest.mark.parametrize("name", ["Mesh-Deadline", "Mesh-Start-By"])
async def test_call_past_its_deadline_or_start_by_is_refused_unexecuted(
    serve: Serve, plain: Client, runner: Bus, server: str, name: str
) -> None:
    async def handler(call: Call) -> bytes:
        raise AssertionError("ran")

    await serve(handler)
    late = {name: str(runner.server_now_ms() - 2500)}
    [message] = await replies(plain, subjects.call(TENANT, server, "tool"), b"{}", late)
    error = json.loads(message.data)["error"]
    assert error["code"] == -31014
    assert error["data"]["outcome"] == "not_executed"


async def test_deadline_within_the_leeway_of_two_clocks_still_runs(
    serve: Serve, plain: Client, runner: Bus, server: str
) -> None:
    await serve(echo)
    headers = {"Mesh-Deadline": str(runner.server_now_ms() - 1000)}
    [message] = await replies(plain, subjects.call(TENANT, server, "tool"), b"ok", headers)
    assert message.data == b"ok"


async def test_a_deadline_counts_by_the_clock_of_the_broker_when_ours_is_an_hour_fast(
    serve: Serve, plain: Client, runner: Bus, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serve(echo)
    monkeypatch.setattr(runner.clock, "offset_ms", -3_600_000)
    headers = {"Mesh-Deadline": str(runner.server_now_ms() + 1000)}
    [message] = await replies(plain, subjects.call(TENANT, server, "tool"), b"ok", headers)
    assert message.data == b"ok"


async def test_duplicate_request_is_answered_from_memory_and_not_run_again(
    serve: Serve, call: MakeCall
) -> None:
    runs = 0

    async def handler(request: Call) -> bytes:
        nonlocal runs
        runs += 1
        return b"run %d" % runs

    endpoint = await serve(handler)
    assert await call(request_id="01DUP") == b"run 1"
    assert await call(request_id="01DUP") == b"run 1"
    assert endpoint.stats.duplicates == 1


async def test_duplicate_of_a_running_request_gets_the_same_answer(
    serve: Serve, call: MakeCall
) -> None:
    runs = 0
    started, release = asyncio.Event(), asyncio.Event()

    async def handler(request: Call) -> bytes:
        nonlocal runs
        runs += 1
        started.set()
        await release.wait()
        return b"run %d" % runs

    endpoint = await serve(handler)
    first = asyncio.create_task(call(request_id="01RUN"))
    async with asyncio.timeout(2):
        await started.wait()
        second = asyncio.create_task(call(request_id="01RUN"))
        while not endpoint.stats.duplicates:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.001)
        release.set()
        assert [await first, await second] == [b"run 1", b"run 1"]


@pytest.mark.parametrize("header", ["Mesh-Credential", "Mesh-Ctx"])
async def test_answer_from_memory_is_not_given_to_another_caller(
    serve: Serve, plain: Client, server: str, header: str
) -> None:
    async def handler(call: Call) -> bytes:
        return b"for " + call.headers[header].encode()

    await serve(handler)
    subject = subjects.call(TENANT, server, "tool")
    for who, gets in (("ann", b"for ann"), ("bob", None), ("ann", b"for ann")):
        [message] = await replies(plain, subject, b"{}", {"Mesh-Req": "1", header: who})
        if gets is None:
            assert json.loads(message.data)["error"]["code"] == -32600
        else:
            assert message.data == gets


async def test_repeats_of_a_running_request_are_bounded(
    serve: Serve, call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "FOLLOWERS_MAX", 0)
    started, release = asyncio.Event(), asyncio.Event()

    async def handler(request: Call) -> bytes:
        started.set()
        await release.wait()
        return b"done"

    await serve(handler)
    first = asyncio.create_task(call(request_id="01MANY"))
    async with asyncio.timeout(2):
        await started.wait()
        with pytest.raises(MeshError) as raised:
            await call(request_id="01MANY")
        release.set()
        assert await first == b"done"
    assert raised.value.kind is ErrorKind.OVERLOADED


async def test_handler_runs_inside_the_trace_of_its_caller(
    serve: Serve, plain: Client, server: str
) -> None:
    async def handler(call: Call) -> bytes:
        return current_traceparent().encode()

    await serve(handler)
    subject = subjects.call(TENANT, server, "tool")
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    [message] = await replies(plain, subject, b"{}", {"traceparent": trace})
    assert message.data[:35] == trace[:35].encode()


async def test_request_id_reused_for_another_body_is_refused(serve: Serve, call: MakeCall) -> None:
    await serve(echo)
    await call(b"one", request_id="01REUSE")
    with pytest.raises(MeshError) as raised:
        await call(b"two", request_id="01REUSE")
    assert raised.value.kind is ErrorKind.REQUEST


async def test_request_whose_reply_would_be_a_request_in_our_name_is_dropped(
    serve: Serve, gateway: Bus, server: str
) -> None:
    endpoint = await serve(echo)
    subject = subjects.call(TENANT, server, "tool")
    await gateway.publish(subject, b"{}", reply="mesh.v1.other.call.fs.delete")
    await gateway.publish(subject, b"{}")
    await gateway.link.round_trip(1)
    async with asyncio.timeout(1):
        while endpoint.stats.requests < 1:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.001)
    assert endpoint.stats.requests == 1


async def test_long_call_sends_keep_alive_frames(
    serve: Serve, plain: Client, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "KEEPALIVE_FRAME_S", 0.05)

    async def handler(call: Call) -> bytes:
        await asyncio.sleep(0.25)
        return b"e"

    await serve(handler)
    inbox = plain.new_inbox()
    subscription = await plain.subscribe(inbox)
    subject = subjects.call(TENANT, server, "tool")
    await plain.publish(subject, b"{}", reply=inbox, headers={"Mesh-Stream": "1"})
    kinds = [(await subscription.next_msg(timeout=2)).headers["Mesh-Frame"]]
    while kinds[-1] != "end":
        kinds.append((await subscription.next_msg(timeout=2)).headers["Mesh-Frame"])
    assert kinds[0] == "ack"
    assert kinds.count("ka") >= 2


async def test_drain_under_load_loses_no_call(
    connect_bus: Callable[..., Awaitable[Bus]], gateway: Bus, server: str, call: MakeCall
) -> None:
    """A rolling restart of two runners while callers keep 20 calls in flight (E26)."""

    async def handler(request: Call) -> bytes:
        await asyncio.sleep(0.003)
        return request.payload

    async def start(bus: Bus) -> Endpoint:
        endpoint = Endpoint(
            bus,
            subject=subjects.call(subjects.ANY, server, subjects.ANY),
            queue="w",
            handler=handler,
            slots=64,
        )
        await endpoint.start()
        return endpoint

    buses = [await connect_bus("tool-runner", f"runner-{n}") for n in (1, 2)]
    serving = [await start(bus) for bus in buses]
    stop = asyncio.Event()
    answered = 0

    async def caller() -> None:
        nonlocal answered
        while not stop.is_set():
            assert await call(b"%d" % answered) is not None
            answered += 1

    callers = [asyncio.create_task(caller()) for _ in range(20)]
    for turn in range(4):
        await asyncio.sleep(0.03)  # load between the restarts
        which = turn % 2
        await serving[which].drain()
        assert serving[which].inflight == 0
        serving[which] = await start(buses[which])
    stop.set()
    await asyncio.gather(*callers)
    assert answered > 100
    for endpoint in serving:
        await endpoint.drain()


async def test_drain_answers_what_outlasts_it_as_unknown(serve: Serve, call: MakeCall) -> None:
    started = asyncio.Event()

    async def handler(request: Call) -> bytes:
        started.set()
        await asyncio.sleep(30)
        return b""

    endpoint = await serve(handler)
    task = asyncio.create_task(call())
    async with asyncio.timeout(3):
        await started.wait()
        await endpoint.drain(timeout_s=0.05)
        with pytest.raises(MeshError) as raised:
            await task
    assert raised.value.kind is ErrorKind.LOST
    assert raised.value.outcome is Outcome.UNKNOWN
    assert raised.value.data["reason"] == "draining"
    assert endpoint.inflight == 0


async def test_handler_that_ignores_the_cancel_does_not_answer_twice(
    serve: Serve, call: MakeCall, server: str, plain: Client
) -> None:
    async def handler(request: Call) -> bytes:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return b"too late"
        return b""

    await serve(handler)
    headers = {"Mesh-Timeout-Ms": "60"}
    got = await replies(plain, subjects.call(TENANT, server, "tool"), b"{}", headers)
    assert [json.loads(message.data)["error"]["code"] for message in got] == [-31014]


remove = Operation("registry", "test-remove", Remove, Empty)
PARAMS = Remove(tenant="a", server="b", instance="c")


@pytest_asyncio.fixture
async def registry(connect_bus: Callable[..., Awaitable[Bus]]) -> Bus:
    return await connect_bus("registry", "registry-1")


@pytest_asyncio.fixture
async def operator(connect_bus: Callable[..., Awaitable[Bus]]) -> Bus:
    return await connect_bus("operator", "operator")


async def test_operation_gives_typed_parameters_and_a_typed_result(
    registry: Bus, operator: Bus
) -> None:
    seen: list[Remove] = []

    async def handler(params: Remove) -> Empty:
        seen.append(params)
        return Empty()

    endpoint = serve_operation(registry, remove, handler)
    await endpoint.start()
    assert await operator.operation(remove, PARAMS) == Empty()
    assert seen == [PARAMS]
    await endpoint.drain()


async def test_operation_raises_at_the_caller_what_the_service_raised(
    registry: Bus, operator: Bus
) -> None:
    async def handler(params: Remove) -> Empty:
        raise MeshError(ErrorKind.NOT_FOUND, "no such server")

    endpoint = serve_operation(registry, remove, handler)
    await endpoint.start()
    with pytest.raises(MeshError) as raised:
        await operator.operation(remove, PARAMS)
    assert raised.value.kind is ErrorKind.NOT_FOUND
    await endpoint.drain()


async def test_operation_with_parameters_of_another_shape_is_refused(
    registry: Bus, operator: Bus
) -> None:
    async def handler(params: Remove) -> Empty:
        raise AssertionError("ran")

    endpoint = serve_operation(registry, remove, handler)
    await endpoint.start()
    wrong = Operation("registry", "test-remove", Empty, Empty)
    with pytest.raises(MeshError) as raised:
        await operator.operation(wrong, Empty())
    assert raised.value.kind is ErrorKind.PARAMS
    await endpoint.drain()


async def test_operation_that_nobody_serves_is_no_runner(operator: Bus) -> None:
    with pytest.raises(MeshError) as raised:
        await operator.operation(remove, PARAMS, timeout_s=1)
    assert raised.value.kind is ErrorKind.NO_RUNNER


async def test_endpoint_the_broker_forbids_does_not_start(gateway: Bus) -> None:
    endpoint = Endpoint(gateway, subject="mesh.v1.*.call.fs.*", queue="w", handler=echo)
    with pytest.raises(MeshError) as raised:
        await endpoint.start()
    assert raised.value.kind is ErrorKind.DENIED


async def test_request_dropped_by_a_slow_subscription_is_answered_busy(
    operator: Bus,
) -> None:
    release = asyncio.Event()

    async def slow(message: Msg) -> None:
        await release.wait()
        await operator.publish(message.reply, b"handled")

    subject = "mesh.v1.acme.evt.log.slow"
    subscription = await operator.subscribe(subject, slow, pending=1)
    asking = [asyncio.create_task(operator.request(subject, timeout_s=3)) for _ in range(4)]
    await operator.link.round_trip(1)
    async with asyncio.timeout(2):
        done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    assert done
    assert all(one.result().headers["Nats-Service-Error-Code"] == "429" for one in done)
    release.set()
    assert {(await one).payload for one in waiting} >= {b"handled"}
    assert operator.link.dropped + len([1 for one in asking if one.result().headers == {}]) == 4
    await subscription.drain()


async def test_subscription_handles_messages_in_order_and_survives_a_failing_handler(
    operator: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []
    done = asyncio.Event()

    async def handler(message: Msg) -> None:
        heard.append(message.data)
        if message.data == b"2":
            raise ValueError("boom")
        if message.data == b"4":
            done.set()

    subscription = await operator.subscribe("mesh.v1.acme.evt.log.order", handler)
    for number in range(5):
        await operator.publish("mesh.v1.acme.evt.log.order", b"%d" % number)
    async with asyncio.timeout(2):
        await done.wait()
    assert heard == [b"0", b"1", b"2", b"3", b"4"]
    assert "boom" in caplog.text
    await subscription.unsubscribe()


async def test_error_larger_than_a_message_reaches_its_caller_and_keeps_the_connection(
    serve: Serve, call: MakeCall, plain: Client, server: str
) -> None:
    async def handler(call: Call) -> bytes:
        if call.payload == b"1":
            return b"2"
        raise MeshError(
            ErrorKind.UPSTREAM, "no", data={"why": "x" * 2_000_000}, outcome=Outcome.EXECUTED
        )

    await serve(handler)
    with pytest.raises(MeshError) as caught:
        await call(b"{}")
    assert (caught.value.kind, caught.value.outcome) == (ErrorKind.UPSTREAM, Outcome.EXECUTED)
    assert await call(b"1") == b"2"


async def test_error_does_not_repeat_an_id_that_fills_a_message(
    serve: Serve, call: MakeCall, plain: Client, server: str
) -> None:
    async def handler(call: Call) -> bytes:
        if call.payload == b"1":
            return b"2"
        raise MeshError(ErrorKind.PARAMS, "no")

    await serve(handler)
    huge = b'{"id":"%b"}' % (b"x" * (1024 * 1024 - 64))
    (reply,) = await replies(plain, subjects.call(TENANT, server, "echo"), huge)
    assert len(reply.data) < 1000
    assert await call(b"1") == b"2"
