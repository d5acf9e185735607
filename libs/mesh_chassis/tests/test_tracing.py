"""A trace id travels without a collector; with one, spans of two processes share it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from mesh_chassis.config import TelemetryConfig
from mesh_chassis.tracing import (
    SpanKind,
    current_traceparent,
    is_traceparent,
    setup_tracing,
    shutdown_tracing,
    start_span,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHILD = Path(__file__).parent / "traced_runner.py"


def test_a_span_without_parent_starts_a_valid_trace() -> None:
    first, second = start_span("x"), start_span("x")
    assert is_traceparent(first.traceparent)
    assert first.traceparent.endswith("-00")
    assert first.trace_id != second.trace_id


def test_a_span_passes_its_callers_context_on_when_nothing_records() -> None:
    with start_span("x", SpanKind.SERVER, PARENT, {"a": 1}, tracestate="v=1") as span:
        assert span.traceparent == PARENT
        assert span.tracestate == "v=1"
        assert span.trace_id == PARENT[3:35]
        span.set("k", 1)
        span.event("e")
        span.fail("no")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        PARENT[:-1],
        PARENT + "0",
        PARENT.upper(),
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
        PARENT.replace("-", "\n", 1),
        PARENT + "\n",
    ],
)
def test_a_span_starts_anew_when_the_callers_context_is_malformed(text: str) -> None:
    span = start_span("x", SpanKind.SERVER, text, tracestate="v=1")
    assert is_traceparent(span.traceparent)
    assert span.trace_id != PARENT[3:35]
    assert span.tracestate == ""


def test_spans_inside_a_span_belong_to_it() -> None:
    with start_span("outer", parent=PARENT):
        assert start_span("inner").trace_id == PARENT[3:35]
        assert current_traceparent() == PARENT
        with start_span("other", parent="00-" + "1" * 32 + "-" + "2" * 16 + "-00"):
            assert current_traceparent().startswith("00-1111")
        assert current_traceparent() == PARENT
    assert current_traceparent() == ""


async def test_tasks_keep_the_span_they_were_started_in() -> None:
    async def look() -> str:
        return current_traceparent()

    with start_span("x", parent=PARENT):
        task = asyncio.get_running_loop().create_task(look())
    assert await task == PARENT


def test_nothing_is_recorded_or_imported_when_no_endpoint_is_configured() -> None:
    assert not setup_tracing(TelemetryConfig(), service="s", instance="i", env={})
    code = (
        "import sys, mesh_chassis.tracing as t, mesh_chassis.config as c;"
        "t.setup_tracing(c.TelemetryConfig(), service='s', instance='i', env={});"
        "t.start_span('x'); sys.exit(any(m.startswith('opentelemetry') for m in sys.modules))"
    )
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


class Receiver:
    """A tiny OTLP/HTTP receiver."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, WireSpan]] = []
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("post /v1/traces ")
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        body = await reader.readexactly(length)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(15), self._changed:
            await self._changed.wait_for(lambda: len(self.spans) >= count)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def stop_recording() -> Iterator[None]:
    yield
    shutdown_tracing()


@pytest.mark.usefixtures("stop_recording")
async def test_spans_are_sent_with_kind_attributes_and_failure(receiver: Receiver) -> None:
    config = TelemetryConfig(otlp_endpoint=receiver.url, service_name="mine")
    assert setup_tracing(config, service="s", instance="i")
    attributes = {"mcp.method": "tools/call"}
    span = start_span("tools/call fs", SpanKind.CLIENT, PARENT, attributes)
    span.set("frames", 3)
    span.event("ack", {"ms": 1.5})

    def broken() -> None:
        with span:
            raise ValueError("secret")

    with pytest.raises(ValueError, match="secret"):
        broken()
    assert span.trace_id == PARENT[3:35]
    assert span.traceparent != PARENT
    await asyncio.to_thread(shutdown_tracing)
    await receiver.wait_for(1)
    ((service, sent),) = receiver.spans
    assert service == "mine"
    assert sent.name == "tools/call fs"
    assert sent.parent_span_id.hex() == PARENT[36:52]
    assert sent.kind == WireSpan.SPAN_KIND_CLIENT
    assert {a.key for a in sent.attributes} == {"mcp.method", "frames"}
    assert sent.status.message == "ValueError"
    assert sent.events[0].name == "ack"


@pytest.mark.usefixtures("stop_recording")
async def test_sampling_follows_the_parent_and_else_the_ratio(receiver: Receiver) -> None:
    config = TelemetryConfig(sample_ratio=0.0)
    assert setup_tracing(
        config, service="s", instance="i", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    )
    with start_span("not sampled") as span:
        assert int(span.traceparent[-2:], 16) & 1 == 0
    with start_span("parent refused", parent=PARENT[:-2] + "00"):
        pass
    with start_span("parent sampled", parent=PARENT) as span:
        assert int(span.traceparent[-2:], 16) & 1 == 1
        with start_span("child"):
            pass
    await asyncio.to_thread(shutdown_tracing)
    await receiver.wait_for(2)
    assert [span.name for _, span in receiver.spans] == ["child", "parent sampled"]
    assert receiver.spans[0][1].parent_span_id == receiver.spans[1][1].span_id


@pytest.mark.usefixtures("stop_recording")
async def test_one_trace_spans_two_processes_across_the_bus(
    receiver: Receiver, broker, connect_bus
) -> None:
    from mcp_proto import subjects
    from mcp_proto.envelope import RequestEnvelope

    setup_tracing(
        TelemetryConfig(otlp_endpoint=receiver.url), service="gateway", instance="gateway-1"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), receiver.url, broker.url,
        broker.seed_for("tool-runner", "runner-1"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"ready\n"
    bus = await connect_bus("gateway", "gateway-1")
    with start_span("tools/call traced", SpanKind.CLIENT) as span:
        answer = await bus.call(
            subjects.call("t", "traced", "x"),
            b'{"jsonrpc":"2.0","id":"1","method":"tools/call"}',
            envelope=RequestEnvelope(method="tools/call", traceparent=span.traceparent),
            timeout_s=5,
            tenant="t",
        )
    process.stdin.close()
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    await asyncio.to_thread(shutdown_tracing)
    await receiver.wait_for(2)
    assert answer.decode() == span.trace_id
    by_service = dict(receiver.spans)
    assert set(by_service) == {"gateway", "tool-runner"}
    assert {sent.trace_id.hex() for sent in by_service.values()} == {span.trace_id}
    assert by_service["tool-runner"].parent_span_id == by_service["gateway"].span_id
