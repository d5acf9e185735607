"""Service discovery as ADR-32 has it: exact types and members."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest_asyncio

from mcp_proto.errors import ErrorKind
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.discovery import Discovery
from mesh_chassis.bus.endpoint import Call, Endpoint

Serve = Callable[..., Awaitable[Endpoint]]
MakeCall = Callable[..., Awaitable[bytes]]


async def echo(call: Call) -> bytes:
    return call.payload


@pytest_asyncio.fixture
async def asked(serve: Serve, runner: Bus, gateway: Bus, call: MakeCall):
    endpoint = await serve(echo)
    await call(b"x")
    discovery = Discovery(
        runner, version="1.2.3", endpoints=[endpoint], description="runs tools",
        metadata={"node": "n1"},
    )  # fmt: skip
    await discovery.start()

    async def ask(subject: str) -> dict[str, Any]:
        return json.loads((await gateway.request(subject, timeout_s=1)).payload)

    yield ask
    await discovery.stop()


async def test_ping_of_all_of_a_name_and_of_an_id_is_answered(asked: Any) -> None:
    for subject in ("$SRV.PING", "$SRV.PING.tool-runner", "$SRV.PING.tool-runner.runner-1"):
        assert await asked(subject) == {
            "type": "io.nats.micro.v1.ping_response",
            "name": "tool-runner",
            "id": "runner-1",
            "version": "1.2.3",
            "metadata": {"node": "n1"},
        }


async def test_info_lists_endpoints_with_queue_groups(asked: Any, server: str) -> None:
    info = await asked("$SRV.INFO.tool-runner")
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert info["description"] == "runs tools"
    assert info["endpoints"] == [
        {
            "name": "calls",
            "subject": f"mesh.v1.*.call.{server}.*",
            "queue_group": "w",
            "metadata": {},
        }
    ]


async def test_stats_count_requests_and_times_in_nanoseconds(asked: Any) -> None:
    stats = await asked("$SRV.STATS.tool-runner.runner-1")
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stats["started"])
    [endpoint] = stats["endpoints"]
    assert endpoint["num_requests"] == 1
    assert endpoint["num_errors"] == 0
    assert endpoint["last_error"] == ""
    assert endpoint["processing_time"] == endpoint["average_processing_time"] > 0
    assert endpoint["data"]["slots"] == 8
    assert ErrorKind.DENIED
