"""A gateway and a runner on one broker, and a server name that no other test uses."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from mcp_proto import subjects
from mcp_proto.envelope import RequestEnvelope
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint

TENANT = "acme"
_numbers = itertools.count()

Serve = Callable[..., Awaitable[Endpoint]]
MakeCall = Callable[..., Awaitable[bytes]]


@pytest.fixture
def server() -> str:
    return f"srv{next(_numbers)}"


@pytest_asyncio.fixture
async def gateway(connect_bus: Callable[..., Awaitable[Bus]]) -> Bus:
    return await connect_bus("gateway", "gateway-1")


@pytest_asyncio.fixture
async def runner(connect_bus: Callable[..., Awaitable[Bus]]) -> Bus:
    return await connect_bus("tool-runner", "runner-1")


@pytest_asyncio.fixture
async def serve(runner: Bus, server: str) -> AsyncIterator[Serve]:
    """Start an endpoint for the test's server; drained at the end."""
    endpoints: list[Endpoint] = []

    async def start(
        handler: Callable[[Call], Awaitable[bytes]], *, slots: int = 8, bus: Bus = runner
    ) -> Endpoint:
        endpoint = Endpoint(
            bus,
            subject=subjects.call(subjects.ANY, server, subjects.ANY),
            queue=subjects.QUEUE,
            handler=handler,
            slots=slots,
            name="calls",
        )
        await endpoint.start()
        endpoints.append(endpoint)
        return endpoint

    yield start
    for endpoint in endpoints:
        await endpoint.drain(timeout_s=0.0)


@pytest.fixture
def call(gateway: Bus, server: str) -> MakeCall:
    """Call the test's server from the gateway."""

    async def make(
        payload: bytes = b'{"id":1}',
        *,
        timeout_s: float = 5.0,
        on_frame: Callable[[bytes], None] | None = None,
        request_id: str = "",
        bus: Bus = gateway,
    ) -> bytes:
        return await bus.call(
            subjects.call(TENANT, server, "tool"),
            payload,
            envelope=RequestEnvelope(method="tools/call", name="tool", request_id=request_id),
            timeout_s=timeout_s,
            tenant=TENANT,
            on_frame=on_frame,
        )

    return make
