"""Calls with frames: order, errors and their outcome, cancel, deadlines, sizes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from mcp_proto import subjects
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus import waiters
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.bus.frames import decode_headers, frame_headers

Serve = Callable[..., Awaitable[Endpoint]]
MakeCall = Callable[..., Awaitable[bytes]]
TENANT = "acme"


async def echo(call: Call) -> bytes:
    return call.payload


async def serve_raw(bus: Bus, server: str, answer: Callable[[str], None]) -> None:
    """A runner that writes its frames itself."""
    await bus.client.add_route(
        subjects.call(subjects.ANY, server, subjects.ANY),
        subjects.QUEUE,
        lambda subject, reply, payload, block: answer(reply.decode()),
    )
    await bus.link.round_trip(1)


async def test_caller_gets_the_response_body_byte_for_byte(serve: Serve, call: MakeCall) -> None:
    await serve(echo)
    assert await call(b'{"id": 1,  "x":"\xc3\xa4"}') == b'{"id": 1,  "x":"\xc3\xa4"}'


async def test_caller_gets_every_notification_before_the_response(
    serve: Serve, call: MakeCall
) -> None:
    async def handler(request: Call) -> bytes:
        for number in range(200):
            await request.emit(b"%d" % number)
        return b"end"

    await serve(handler)
    heard: list[bytes] = []
    assert await call(on_frame=heard.append) == b"end"
    assert heard == [b"%d" % number for number in range(200)]


async def test_runner_writes_ack_then_messages_then_end_with_numbers(
    serve: Serve, gateway: Bus, runner: Bus, server: str
) -> None:
    async def handler(request: Call) -> bytes:
        await request.emit(b"m")
        return b"e"

    await serve(handler)
    frames: list[tuple[dict[str, str], bytes]] = []
    done = asyncio.Event()

    def hear(subject: bytes, reply: bytes, payload: bytes, block: bytes) -> None:
        frames.append((decode_headers(block), payload))
        if len(frames) == 3:
            done.set()

    inbox = "_MESH.gateway.gateway-1.raw"
    await gateway.client.add_route(inbox, "", hear)
    headers = RequestEnvelope(stream="1", request_id="01RAW").to_headers()
    subject = subjects.call(TENANT, server, "tool")
    await gateway.publish(subject, b"{}", headers=headers, reply=inbox)
    async with asyncio.timeout(2):
        await done.wait()
    assert [(head["Mesh-Frame"], head["Mesh-Seq"], body) for head, body in frames] == [
        ("ack", "0", b""),
        ("msg", "1", b"m"),
        ("end", "2", b"e"),
    ]
    assert frames[0][0]["Mesh-Instance"] == runner.instance
    assert not any("Mesh-Req" in head for head, _ in frames)


async def test_call_to_nobody_fails_fast_as_no_runner_after_one_repeat(call: MakeCall) -> None:
    before = time.monotonic()
    with pytest.raises(MeshError) as raised:
        await call()
    assert raised.value.kind is ErrorKind.NO_RUNNER
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    assert 0.05 <= time.monotonic() - before < 0.5


async def test_call_meets_a_runner_that_appears_before_the_repeat(
    serve: Serve, call: MakeCall
) -> None:
    task = asyncio.create_task(call(b"1"))
    await asyncio.sleep(0.005)  # let the first attempt meet nobody
    await serve(echo)
    assert await task == b"1"


async def test_busy_runner_is_asked_again_until_a_slot_is_free(
    serve: Serve, call: MakeCall
) -> None:
    async def handler(request: Call) -> bytes:
        await asyncio.sleep(0.002)
        return request.payload

    endpoint = await serve(handler, slots=2)
    answers = await asyncio.gather(*[call(b"%d" % number) for number in range(6)])
    assert answers == [b"%d" % number for number in range(6)]
    assert endpoint.stats.busy > 0


async def test_call_to_a_runner_that_stays_full_is_refused_within_100_ms(
    serve: Serve, call: MakeCall
) -> None:
    taken, release = asyncio.Event(), asyncio.Event()

    async def handler(request: Call) -> bytes:
        taken.set()
        await release.wait()
        return b"r"

    await serve(handler, slots=1)
    first = asyncio.create_task(call(b"1"))
    async with asyncio.timeout(2):
        await taken.wait()
    before = time.monotonic()
    with pytest.raises(MeshError) as raised:
        await call(b"2")
    assert time.monotonic() - before < 0.2
    assert raised.value.kind is ErrorKind.OVERLOADED
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    assert raised.value.retry_after_s is not None
    release.set()
    assert await first == b"r"


async def test_error_of_the_handler_reaches_the_caller_as_raised(
    serve: Serve, call: MakeCall
) -> None:
    async def handler(request: Call) -> bytes:
        raise MeshError(ErrorKind.NOT_FOUND, "no such tool", data={"tool": "x"})

    await serve(handler)
    with pytest.raises(MeshError) as raised:
        await call()
    assert raised.value.kind is ErrorKind.NOT_FOUND
    assert raised.value.message == "no such tool"
    assert raised.value.data == {"tool": "x"}


async def test_unexpected_exception_of_the_handler_reaches_the_caller_opaque(
    serve: Serve, call: MakeCall, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Call) -> bytes:
        raise RuntimeError("password=hunter2")

    await serve(handler)
    with pytest.raises(MeshError) as raised:
        await call()
    assert raised.value.kind is ErrorKind.INTERNAL
    assert raised.value.outcome is Outcome.UNKNOWN
    assert "hunter2" not in f"{raised.value.message}{raised.value.data}"
    assert "hunter2" in caplog.text


async def test_lost_frame_ends_the_call_as_unknown(
    gateway: Bus, runner: Bus, server: str, call: MakeCall
) -> None:
    def answer(reply: str) -> None:
        runner.client.send(reply, "", b"", frame_headers("ack", 0, {"Mesh-Instance": "runner-1"}))
        runner.client.send(reply, "", b"x", frame_headers("end", 2))

    await serve_raw(runner, server, answer)
    with pytest.raises(MeshError) as raised:
        await call()
    assert raised.value.kind is ErrorKind.LOST
    assert raised.value.outcome is Outcome.UNKNOWN


async def test_frames_with_headers_in_another_order_are_understood(
    runner: Bus, server: str, call: MakeCall
) -> None:
    def answer(reply: str) -> None:
        for seq, frame in enumerate(("ack", "msg", "end")):
            block = f"NATS/1.0\r\nX-Own: 1\r\nMesh-Seq: {seq}\r\nMesh-Frame: {frame}\r\n\r\n"
            runner.client.send(reply, "", frame.encode(), block.encode())

    await serve_raw(runner, server, answer)
    heard: list[bytes] = []
    assert await call(on_frame=heard.append) == b"end"
    assert heard == [b"msg"]


async def test_frames_after_the_terminal_one_are_dropped(
    gateway: Bus, runner: Bus, server: str, call: MakeCall
) -> None:
    def answer(reply: str) -> None:
        runner.client.send(reply, "", b"", frame_headers("ack", 0))
        runner.client.send(reply, "", b"first", frame_headers("end", 1))
        runner.client.send(reply, "", b"second", frame_headers("end", 2))

    await serve_raw(runner, server, answer)
    assert await call() == b"first"
    await gateway.link.round_trip(1)
    assert len(gateway.link.mux) == 0


async def test_handler_is_cancelled_when_the_callers_task_is(serve: Serve, call: MakeCall) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: Call) -> bytes:
        started.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            assert request.cancelled.is_set()
            cancelled.set()
            raise
        return b""

    endpoint = await serve(handler)
    task = asyncio.create_task(call())
    async with asyncio.timeout(2):
        await started.wait()
        task.cancel()
        before = time.monotonic()
        await cancelled.wait()
    assert time.monotonic() - before < 0.2
    assert endpoint.inflight == 0
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancel_before_the_ack_is_sent_once_the_ack_names_the_runner(
    runner: Bus, server: str, call: MakeCall
) -> None:
    replies: list[str] = []
    cancels: list[dict[str, str]] = []
    asked, told = asyncio.Event(), asyncio.Event()

    def answer(reply: str) -> None:
        replies.append(reply)
        asked.set()

    def on_cancel(subject: bytes, reply: bytes, payload: bytes, block: bytes) -> None:
        cancels.append(decode_headers(block))
        told.set()

    await serve_raw(runner, server, answer)
    await runner.client.add_route(
        subjects.instance(subjects.ANY, "runner-1", "cancel"), "", on_cancel
    )
    task = asyncio.create_task(call(request_id="01CANCEL"))
    async with asyncio.timeout(2):
        await asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not cancels
        block = frame_headers("ack", 0, {"Mesh-Instance": "runner-1"})
        runner.client.send(replies[0], "", b"", block)
        await told.wait()
    assert cancels[0]["Mesh-Req"] == "01CANCEL"


async def test_cancel_of_another_tenant_changes_nothing(
    serve: Serve, gateway: Bus, call: MakeCall
) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def handler(request: Call) -> bytes:
        started.set()
        await release.wait()
        return b"done"

    await serve(handler)
    task = asyncio.create_task(call(request_id="01OTHER"))
    async with asyncio.timeout(2):
        await started.wait()
        subject = subjects.instance("evil", "runner-1", "cancel")
        await gateway.request(subject, headers={"Mesh-Req": "01OTHER"}, timeout_s=1)
        release.set()
        assert await task == b"done"


async def test_call_over_its_time_is_a_deadline_with_unknown_outcome(
    serve: Serve, call: MakeCall
) -> None:
    stopped = asyncio.Event()

    async def handler(request: Call) -> bytes:
        assert 0 < request.remaining_s <= 0.2
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()
        return b""

    await serve(handler)
    before = time.monotonic()
    with pytest.raises(MeshError) as raised:
        await call(timeout_s=0.2)
    assert raised.value.kind is ErrorKind.DEADLINE
    assert raised.value.outcome is Outcome.UNKNOWN
    assert time.monotonic() - before < 0.5
    async with asyncio.timeout(1):
        await stopped.wait()


async def test_call_without_time_left_is_never_sent(serve: Serve, call: MakeCall) -> None:
    endpoint = await serve(echo)
    with pytest.raises(MeshError) as raised:
        await call(timeout_s=0.0)
    assert raised.value.kind is ErrorKind.DEADLINE
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    assert endpoint.stats.requests == 0


async def test_call_that_no_runner_acknowledges_ends_after_start_by_and_leeway(
    runner: Bus, server: str, call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "START_BY_S", 0.1)
    monkeypatch.setattr(waiters, "CLOCK_LEEWAY_S", 0.1)
    await serve_raw(runner, server, lambda reply: None)
    before = time.monotonic()
    with pytest.raises(MeshError) as raised:
        await call(timeout_s=30)
    assert raised.value.kind is ErrorKind.DEADLINE
    assert raised.value.outcome is Outcome.UNKNOWN
    assert time.monotonic() - before < 1


async def test_runner_that_falls_silent_after_its_ack_is_given_up(
    runner: Bus, server: str, call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "SILENCE_MAX_S", 0.3)

    def answer(reply: str) -> None:
        runner.client.send(reply, "", b"", frame_headers("ack", 0))

    await serve_raw(runner, server, answer)
    with pytest.raises(MeshError) as raised:
        await call(timeout_s=30)
    assert raised.value.kind is ErrorKind.LOST
    assert raised.value.outcome is Outcome.UNKNOWN


async def test_call_the_broker_forbids_fails_at_once_as_denied(runner: Bus) -> None:
    before = time.monotonic()
    with pytest.raises(MeshError) as raised:
        await runner.call(
            "mesh.v1.ACME.gw.tools.list",
            b"{}",
            envelope=RequestEnvelope(),
            timeout_s=10,
            tenant=TENANT,
        )
    assert raised.value.kind is ErrorKind.DENIED
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    assert raised.value.data["subject"] == "mesh.v1.ACME.gw.tools.list"
    assert time.monotonic() - before < 0.5


async def test_subscription_the_broker_forbids_fails_at_once_as_denied(runner: Bus) -> None:
    async def ignore(_: object) -> None: ...

    with pytest.raises(MeshError) as raised:
        await runner.subscribe("mesh.v1.acme.Call.x.y", ignore)
    assert raised.value.kind is ErrorKind.DENIED


@pytest.mark.parametrize(
    ("subject", "headers", "size"),
    [
        ("mesh.v1.acme.call.a." + "x" * 500, None, 0),
        ("mesh.v1.acme.call.a.b", {"X-Large": "x" * 3000}, 0),
        ("mesh.v1.acme.call.a.b", None, 1024 * 1024 - 16 * 1024 + 1),
    ],
    ids=["subject", "headers", "payload"],
)
async def test_message_the_broker_would_close_for_is_refused_and_the_connection_kept(
    gateway: Bus, subject: str, headers: dict[str, str] | None, size: int
) -> None:
    with pytest.raises(MeshError) as raised:
        await gateway.publish(subject, b"x" * size, headers=headers)
    assert raised.value.kind is ErrorKind.TOO_LARGE
    assert raised.value.outcome is Outcome.NOT_EXECUTED
    await gateway.link.round_trip(1)
    assert gateway.connected


async def test_message_of_the_largest_size_passes(gateway: Bus) -> None:
    body = b"x" * gateway.max_payload
    subject = subjects.call(TENANT, "nobody", "tool")
    await gateway.publish(subject, body, headers={"Mesh-Ctx": "x" * 2000})
    await gateway.link.round_trip(1)
    assert gateway.connected


async def test_full_table_of_calls_refuses_the_next_as_overloaded(
    gateway: Bus, runner: Bus, server: str, call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh_chassis.bus.mux.WAITERS_MAX", 1)
    await serve_raw(runner, server, lambda reply: None)
    first = asyncio.create_task(call())
    await asyncio.sleep(0)
    with pytest.raises(MeshError) as raised:
        await call()
    assert raised.value.kind is ErrorKind.OVERLOADED
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_broken_frame_listener_does_not_end_the_call(serve: Serve, call: MakeCall) -> None:
    async def handler(request: Call) -> bytes:
        await request.emit(b"m")
        return b"e"

    def broken(_: bytes) -> None:
        raise ValueError("listener")

    await serve(handler)
    assert await call(on_frame=broken) == b"e"


def test_request_ids_of_a_process_are_distinct_ulids() -> None:
    from mesh_chassis.bus.connection import BusConfig

    async def ids() -> list[str]:
        bus = Bus(BusConfig(), service="gateway", instance="gateway-1")
        return [bus.new_request_id() for _ in range(1000)]

    made = asyncio.run(ids())
    assert len(set(made)) == 1000
    assert {len(one) for one in made} == {26}
