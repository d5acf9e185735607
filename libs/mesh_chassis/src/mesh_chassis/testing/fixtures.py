"""pytest plugin: ``broker``, ``shared_broker``, ``connect_bus`` and the leak check.

Registered once in the ``conftest.py`` at the root of the repository.

- ``broker``: a broker of its own for one test, which may stop, kill or freeze it.
- ``shared_broker``: one broker for the whole run; tests use names of their own on it.
- ``connect_bus(service, instance)``: a connected ``Bus`` on ``broker`` (when the test also asks
  for ``broker``) or on ``shared_broker``; closed at the end of the test.
- ``provision``: the platform's buckets exist, and storage of tenants is made on request, without
  a registry.
- ``leak_check`` (always on): a test must not leave tasks or child processes.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from mesh_chassis.testing import leaks
from mesh_chassis.testing.broker import Broker

if TYPE_CHECKING:
    from mesh_chassis.bus.connection import Bus, BusConfig

__all__ = ["broker", "bus_config", "connect_bus", "leak_check", "provision", "shared_broker"]

_CLOSE_MAX_S = 5.0

ConnectBus = Callable[..., Awaitable["Bus"]]


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> None:
    """Fail a coroutine test that leaves tasks or children behind."""
    function = getattr(request.node, "function", None)
    if function is not None and inspect.iscoroutinefunction(function):
        request.getfixturevalue("_async_leak_check")


@pytest_asyncio.fixture
async def _async_leak_check() -> AsyncIterator[None]:
    tasks = frozenset(asyncio.all_tasks())
    pids = leaks.children()
    yield
    left = await leaks.leaked_tasks(tasks)
    processes = await leaks.leaked_children(pids)
    if left:
        pytest.fail(f"the test left asyncio tasks: {left}")
    if processes:
        pytest.fail(f"the test left child processes: {processes}")


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker for this test alone."""
    made = Broker(tmp_path / "broker", in_memory=True)
    async with made as running:
        yield running
    made.remove_store()


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for the whole run; do not stop it."""
    shared = Broker(tmp_path_factory.mktemp("shared-broker"), in_memory=True)
    shared.start_blocking()
    yield shared
    shared.stop_blocking()
    shared.remove_store()


def bus_config(broker: Broker, service: str, instance: str) -> "BusConfig":
    """The ``[bus]`` section of one service instance on that broker."""
    from mesh_chassis.bus.connection import BusConfig  # noqa: PLC0415 - the plugin loads early

    return BusConfig(urls=(broker.url,), nkey_seed_file=broker.seed_for(service, instance))


@pytest.fixture
def _chosen_broker(request: pytest.FixtureRequest) -> Broker:
    # Not asked for by an async fixture: a loop that runs cannot set up another one.
    name = "broker" if "broker" in request.fixturenames else "shared_broker"
    chosen: Broker = request.getfixturevalue(name)
    return chosen


@pytest_asyncio.fixture
async def connect_bus(_chosen_broker: Broker) -> AsyncIterator[ConnectBus]:
    """Factory of connected buses; closes them in reverse order."""
    from mesh_chassis.bus.connection import Bus  # noqa: PLC0415 - the plugin loads early

    opened: list[Bus] = []

    async def connect(
        service: str, instance: str, *, on_closed: Callable[[], None] | None = None
    ) -> Bus:
        config = bus_config(_chosen_broker, service, instance)
        bus = await Bus.connect(config, service=service, instance=instance, on_closed=on_closed)
        opened.append(bus)
        return bus

    yield connect
    for bus in reversed(opened):
        async with asyncio.timeout(_CLOSE_MAX_S):
            await bus.close()


@pytest_asyncio.fixture
async def provision(connect_bus: ConnectBus) -> AsyncIterator[None]:
    """What the registry makes, for tests without one."""
    from mesh_chassis.testing.provision import provisioned  # noqa: PLC0415 - the plugin loads early

    async with provisioned(await connect_bus("registry", "registry-1")):
        yield
