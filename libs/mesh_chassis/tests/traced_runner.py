"""A runner in a process of its own: answers each call with the trace id it was called in."""

import asyncio
import sys

from mcp_proto import subjects
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.config import TelemetryConfig
from mesh_chassis.tracing import SpanKind, setup_tracing, shutdown_tracing, start_span


async def answer(call: Call) -> bytes:
    with start_span("tools/call traced", SpanKind.SERVER, call.envelope.traceparent) as span:
        return span.trace_id.encode()


async def main(endpoint: str, url: str, seed: str) -> None:
    setup_tracing(
        TelemetryConfig(otlp_endpoint=endpoint), service="tool-runner", instance="runner-1"
    )
    config = BusConfig(urls=(url,), nkey_seed_file=seed)
    bus = await Bus.connect(config, service="tool-runner", instance="runner-1")
    served = Endpoint(
        bus,
        subject=subjects.call(subjects.ANY, "traced", subjects.ANY),
        queue=subjects.QUEUE,
        handler=answer,
    )
    await served.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await served.drain()
    await bus.close()
    shutdown_tracing()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
