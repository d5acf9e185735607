"""Parts of a service start and stop in one order, each bounded, none keeping the next from it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest

from mcp_proto import buckets, subjects
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis import service as service_module
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.health import Health, Status
from mesh_chassis.keyring import KeyRing
from mesh_chassis.metrics import Metrics
from mesh_chassis.service import Hook, Service
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.provision import written_by

Make = Callable[[], Awaitable[Service]]


class Told:
    """Stands in for presence and writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def start(self) -> None:
        self.said.append("start")

    def set_slots(self, slots: int, inflight: Callable[[], int]) -> None:
        self.said.append(f"slots {slots}")

    def set_servers(self, servers: Mapping[str, str]) -> None:
        self.said.append(f"servers {dict(servers)}")

    def set_draining(self) -> None:
        self.said.append("draining")

    async def stop(self) -> None:
        self.said.append("stop")


@pytest.fixture
async def service(connect_bus) -> AsyncIterator[Service]:
    service = Service(
        name="tool-runner",
        version="1",
        instance="runner-2",
        bus=await connect_bus("tool-runner", "runner-2"),
        tasks=Tasks("test"),
        health=Health("tool-runner"),
        metrics=Metrics("tool-runner", "1", "runner-2"),
        presence=Told(),
    )
    yield service
    await service.stop()


def endpoint(bus: Bus, server: str, release: asyncio.Event | None = None) -> Endpoint:
    async def answer(_: Call) -> bytes:
        if release is not None:
            await release.wait()
        return b'"done"'

    return Endpoint(
        bus,
        subject=subjects.call(subjects.ANY, server, subjects.ANY),
        queue=subjects.QUEUE,
        handler=answer,
        slots=3,
    )


def noting(seen: list[str], text: str) -> Hook:
    async def hook() -> None:
        seen.append(text)

    return hook


async def call(bus: Bus, server: str) -> bytes:
    return await bus.call(
        subjects.call("t", server, "x"), b"{}", envelope=RequestEnvelope(), timeout_s=5, tenant="t"
    )


async def test_service_runs_its_hooks_in_order_and_is_ready_in_between(service: Service) -> None:
    seen: list[str] = []
    service.on_stop(noting(seen, "stop a"))
    service.on_stop(noting(seen, "stop b"))
    service.on_drain(noting(seen, "drain"))
    service.on_ready(noting(seen, "ready"))
    service.on_start(noting(seen, "start"))
    assert service.health.reasons() == ("starting",)
    await service.start()
    assert service.health.ready
    assert await service.drain(accept_s=0)
    assert service.health.reasons() == ("draining",)
    assert service.draining
    await service.stop()
    assert seen == ["start", "ready", "drain", "stop b", "stop a"]
    assert isinstance(service.presence, Told)
    assert service.presence.said == ["slots 0", "start", "draining", "stop"]


async def test_service_fails_its_start_when_a_part_fails(service: Service) -> None:
    async def fail() -> None:
        raise MeshError(ErrorKind.BUS, "no bucket")

    service.on_start(fail)
    with pytest.raises(MeshError, match="no bucket"):
        await service.start()
    assert not service.health.ready


async def test_service_stops_everything_even_if_a_hook_fails_or_hangs(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service_module, "HOOKS_S", 0.1)
    seen: list[str] = []

    async def fail() -> None:
        raise ValueError("broken")

    async def hang() -> None:
        await asyncio.Event().wait()

    service.on_stop(noting(seen, "first"))
    service.on_stop(hang)
    service.on_stop(fail)
    await service.start()
    service.tasks.spawn(hang(), name="loop")
    await service.stop()
    assert seen == ["first"]
    assert "a stop hook failed" in caplog.text
    assert "a stop hook did not end in time" in caplog.text
    assert len(service.tasks) == 0
    assert not service.bus.connected


async def test_service_serves_and_retires_endpoints_while_it_runs(
    service: Service, connect_bus
) -> None:
    caller = await connect_bus("gateway", "gateway-2")
    service.add_endpoint(endpoint(service.bus, "svc-fixed"))
    await service.start()
    with pytest.raises(RuntimeError, match="serve"):
        service.add_endpoint(endpoint(service.bus, "svc-late"))
    late = endpoint(service.bus, "svc-late")
    await service.serve(late)
    assert await call(caller, "svc-late") == b'"done"'
    assert (service.slots, service.inflight) == (6, 0)
    await service.retire(late)
    with pytest.raises(MeshError) as caught:
        await call(caller, "svc-late")
    assert caught.value.kind is ErrorKind.NO_RUNNER
    assert await call(caller, "svc-fixed") == b'"done"'
    assert isinstance(service.presence, Told)
    assert service.presence.said == ["slots 3", "start", "slots 6", "slots 3"]


async def test_service_counts_refusals_of_an_endpoint_that_is_retired(
    service: Service, connect_bus
) -> None:
    caller = await connect_bus("gateway", "gateway-2")
    await service.start()
    late = endpoint(service.bus, "svc-late")
    late.slots = 0
    await service.serve(late)
    with pytest.raises(MeshError) as caught:
        await call(caller, "svc-late")
    assert caught.value.kind is ErrorKind.OVERLOADED
    refused = late.stats.busy
    assert service.busy == refused > 0
    await service.retire(late)
    assert service.busy == refused


async def test_service_still_serves_during_the_accept_time_and_finishes_what_runs(
    service: Service, connect_bus
) -> None:
    release = asyncio.Event()
    caller = await connect_bus("gateway", "gateway-2")
    service.add_endpoint(endpoint(service.bus, "svc-a", release))
    await service.start()
    loop = asyncio.get_running_loop()
    draining = loop.create_task(service.drain(accept_s=0.2, drain_s=5))
    running = loop.create_task(call(caller, "svc-a"))
    async with asyncio.timeout(2):
        while not service.inflight:  # noqa: ASYNC110 - nobody tells, so the test looks
            await asyncio.sleep(0.005)
    assert not service.health.ready
    release.set()
    assert await running == b'"done"'
    assert await draining


async def test_service_answers_running_calls_when_its_drain_is_cut_short(
    service: Service, connect_bus
) -> None:
    caller = await connect_bus("gateway", "gateway-2")
    service.add_endpoint(endpoint(service.bus, "svc-b", asyncio.Event()))
    await service.start()
    loop = asyncio.get_running_loop()
    running = loop.create_task(call(caller, "svc-b"))
    async with asyncio.timeout(2):
        while not service.inflight:  # noqa: ASYNC110 - nobody tells, so the test looks
            await asyncio.sleep(0.005)
    draining = loop.create_task(service.drain(accept_s=60, drain_s=60))
    await asyncio.sleep(0)
    draining.cancel()
    with pytest.raises(MeshError) as caught:
        await running
    assert caught.value.kind is ErrorKind.LOST
    await asyncio.wait([draining])
    assert draining.cancelled()


async def test_service_shows_what_it_serves_and_how_current_its_caches_are(
    service: Service, connect_bus
) -> None:
    service.set_servers({"_.time": "abc"})
    assert isinstance(service.presence, Told)
    assert service.presence.said == ["servers {'_.time': 'abc'}"]
    await written_by(connect_bus, buckets.KEYS)
    ring = await KeyRing.open(service.bus)
    assert ring.watch is not None
    service.add_watch(ring.watch, bucket="mesh_keys")
    assert service.health.report().checks == {"watch mesh_keys": Status.HEALTHY}
    await ring.close()
    assert b'mesh_watch_age_seconds{bucket="mesh_keys"}' in service.metrics.text()
    assert 0 < service.metrics.value("mesh_watch_age_seconds", "mesh_keys") < 3
