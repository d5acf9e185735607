"""Operators read health, readiness and metrics; web pages under foreign names do not."""

import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from mesh_chassis.config import OpsConfig
from mesh_chassis.health import Health
from mesh_chassis.metrics import Metrics
from mesh_chassis.ops_http import OpsListener, host_of
from mesh_chassis.tasks import Tasks


class Listening:
    def __init__(self, listener: OpsListener, health: Health, metrics: Metrics) -> None:
        self.listener, self.health, self.metrics = listener, health, metrics
        self.url = f"http://127.0.0.1:{listener.port}"

    async def get(self, path: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(self.url + path, headers=headers)


@pytest.fixture
async def ops() -> AsyncIterator[Listening]:
    health, metrics, tasks = Health("registry"), Metrics("registry", "1", "r"), Tasks("t")
    config = OpsConfig(allowed_hosts=("Ops.Example",))
    listener = OpsListener(config, health, metrics)
    await listener.start(tasks)
    yield Listening(listener, health, metrics)
    await listener.stop()
    assert len(tasks) == 0


async def test_healthz_answers_the_report_with_503_when_a_required_part_is_down(ops) -> None:
    state = True
    ops.health.add("nats", lambda: state)
    good = await ops.get("/healthz")
    state = False
    bad = await ops.get("/healthz")
    assert (good.status_code, bad.status_code) == (200, 503)
    assert bad.json() == {
        "status": "unhealthy",
        "agent": "registry",
        "uptime_seconds": 0,
        "checks": {"nats": "unhealthy"},
    }
    assert bad.headers["content-type"] == "application/json"


async def test_readyz_names_the_reasons(ops) -> None:
    assert (await ops.get("/readyz")).json() == {"ready": True, "reasons": []}
    ops.health.unready("draining")
    answer = await ops.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": ["draining"]}


async def test_metrics_are_prometheus_text(ops) -> None:
    ops.metrics.add("mesh_inflight")
    answer = await ops.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "mesh_inflight 1.0" in answer.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@x"])
async def test_foreign_host_names_are_refused(ops, host: str) -> None:
    for path in ("/healthz", "/metrics", "/other"):
        assert (await ops.get(path, Host=host)).status_code == 421


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "[::1]:9", "127.0.0.1", "ops.example.", "OPS.example:1"]
)
async def test_own_host_names_are_served(ops, host: str) -> None:
    assert (await ops.get("/healthz", Host=host)).status_code == 200


async def test_other_paths_and_methods_are_refused(ops) -> None:
    assert (await ops.get("/")).status_code == 404
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.post(ops.url + "/healthz")).status_code == 405


async def test_a_taken_port_is_an_error_at_start(ops) -> None:
    config = OpsConfig(port=ops.listener.port)
    with pytest.raises(OSError, match="in use"):
        await OpsListener(config, ops.health, ops.metrics).start(Tasks("x"))


async def test_stop_closes_the_listener(ops) -> None:
    await ops.listener.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", ops.listener.port), timeout=1)


@pytest.mark.parametrize(
    ("header", "name"),
    [("A.b:80", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("x.", "x"), (":80", ""), ("", "")],
)
def test_host_of_reads_the_name(header: str, name: str) -> None:
    assert host_of(header) == name
