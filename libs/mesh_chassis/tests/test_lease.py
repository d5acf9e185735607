import asyncio
import secrets
import time

import pytest

from mcp_proto import buckets
from mesh_chassis.bucket import KV
from mesh_chassis.lease import Lease
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.clock import FakeClock
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.fixtures import ConnectBus


@pytest.fixture
async def one(connect_bus: ConnectBus) -> KV:
    return await KV.ensure(await connect_bus("registry", "registry-1"), buckets.LEASE)


@pytest.fixture
async def two(one: KV, connect_bus: ConnectBus) -> KV:
    return await KV.ensure(await connect_bus("registry", "registry-2"), buckets.LEASE)


def key() -> str:
    return f"leader.{secrets.token_hex(6)}"


async def until(event: asyncio.Event, timeout_s: float = 8) -> None:
    async with asyncio.timeout(timeout_s):
        await event.wait()


async def test_second_contender_is_refused_while_the_first_holds(
    shared_broker: Broker, one: KV, two: KV
) -> None:
    name = key()
    first, second = Lease(one, name, "r1", 5), Lease(two, name, "r2", 5)
    assert await first.acquire()
    assert not await second.acquire()
    assert first.held
    assert not second.held
    assert await second.holder() == "r1"
    await first.release()
    assert not first.held
    assert await second.acquire()
    assert second.fence > first.fence
    await second.release()
    assert await first.holder() == ""


async def test_one_of_many_contenders_wins(shared_broker: Broker, one: KV, two: KV) -> None:
    name = key()
    leases = [Lease((one, two)[n % 2], name, f"r{n}", 5) for n in range(12)]
    won = await asyncio.gather(*(lease.acquire() for lease in leases))
    assert sum(won) == 1


async def test_contender_takes_over_when_the_holder_stopped_renewing(
    shared_broker: Broker, one: KV, two: KV
) -> None:
    name = key()
    dead, heir = Lease(one, name, "dead", 1), Lease(two, name, "heir", 1)
    assert await dead.acquire()
    began = time.monotonic()
    await eventually(heir.acquire)
    assert not dead.held  # never two holders: the dead one knows before the heir can have it
    assert 0.9 < time.monotonic() - began < 3
    assert heir.fence > dead.fence
    assert not await dead.renew()


async def test_holder_keeps_the_lease_beyond_its_term_when_it_renews(
    shared_broker: Broker, one: KV, two: KV
) -> None:
    name = key()
    holder, other = Lease(one, name, "r1", 1), Lease(two, name, "r2", 1)
    assert await holder.acquire()
    fence = holder.fence
    until_s = time.monotonic() + 2.2
    while time.monotonic() < until_s:
        await asyncio.sleep(0.3)
        assert await holder.renew()
        assert not await other.acquire()
    assert holder.fence == fence
    await holder.release()


async def test_holder_stops_believing_before_the_broker_frees_the_key(
    shared_broker: Broker, one: KV
) -> None:
    clock = FakeClock()
    lease = Lease(one, key(), "r1", 10, clock=clock)
    assert await lease.acquire()
    clock.advance(7.9)
    assert lease.held
    clock.advance(0.2)
    assert not lease.held
    assert not await lease.renew()


async def test_holder_takes_its_own_lease_again_when_it_lost_faith_only(
    shared_broker: Broker, one: KV
) -> None:
    clock = FakeClock()
    lease = Lease(one, key(), "r1", 10, clock=clock)
    assert await lease.acquire()
    fence = lease.fence
    clock.advance(9)
    assert not await lease.renew()
    assert await lease.acquire()
    assert lease.fence > fence
    await lease.release()


class Replica:
    """One contender that runs its loop and writes down what it believes."""

    def __init__(self, kv: KV, name: str, holder: str, history: list[str]) -> None:
        self.lease = Lease(kv, name, holder, 1)
        self.holder = holder
        self.acquired = asyncio.Event()
        self.lost = asyncio.Event()
        self._history = history

    async def run(self) -> None:
        await self.lease.run(on_acquired=self._on_acquired, on_lost=self._on_lost)

    def _on_acquired(self, fence: int) -> None:
        self._history.append(f"+{self.holder}")
        self.acquired.set()

    def _on_lost(self) -> None:
        self._history.append(f"-{self.holder}")
        self.lost.set()


async def test_loser_takes_over_when_the_holder_gives_back(
    shared_broker: Broker, one: KV, two: KV
) -> None:
    name, history = key(), list[str]()
    first, second = Replica(one, name, "r1", history), Replica(two, name, "r2", history)
    first_run = asyncio.ensure_future(first.run())
    await until(first.acquired)
    second_run = asyncio.ensure_future(second.run())
    first_run.cancel()
    await asyncio.wait([first_run])
    began = time.monotonic()
    await until(second.acquired)
    assert time.monotonic() - began < 1
    second_run.cancel()
    await asyncio.wait([second_run])
    assert history == ["+r1", "-r1", "+r2", "-r2"]


async def test_holder_is_told_before_another_takes_over_when_it_is_cut_off(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    registry_1 = await connect_bus("registry", "registry-1")
    registry_2 = await connect_bus("registry", "registry-2")
    name, history = key(), list[str]()
    cut_off = Replica(await KV.ensure(registry_1, buckets.LEASE), name, "r1", history)
    other = Replica(await KV.ensure(registry_2, buckets.LEASE), name, "r2", history)
    run_1 = asyncio.ensure_future(cut_off.run())
    await until(cut_off.acquired)
    run_2 = asyncio.ensure_future(other.run())
    await registry_1.close()
    await until(other.acquired)
    assert history == ["+r1", "-r1", "+r2"]
    for run in (run_1, run_2):
        run.cancel()
    await asyncio.wait([run_1, run_2])


async def test_lease_is_held_again_when_the_broker_was_killed_for_longer_than_its_term(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    bus = await connect_bus("registry", "registry-1")
    history = list[str]()
    replica = Replica(await KV.ensure(bus, buckets.LEASE), key(), "r1", history)
    run = asyncio.ensure_future(replica.run())
    await until(replica.acquired)
    await broker.kill()
    await until(replica.lost, timeout_s=2)
    replica.acquired.clear()
    await broker.start()
    await until(replica.acquired)
    run.cancel()
    await asyncio.wait([run])
    assert history == ["+r1", "-r1", "+r1", "-r1"]


async def test_never_two_hold_when_holders_vanish_and_the_broker_is_killed(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    name, history = key(), list[str]()
    buses = [await connect_bus("registry", f"registry-{number}") for number in (1, 2, 3)]
    replicas = [
        Replica(await KV.ensure(bus, buckets.LEASE), name, bus.instance, history) for bus in buses
    ]
    runs = {replica: asyncio.ensure_future(replica.run()) for replica in replicas}
    for round_number in range(4):
        await eventually(lambda: any(replica.lease.held for replica in replicas), timeout_s=8)
        assert sum(replica.lease.held for replica in replicas) == 1
        if round_number == 1:
            await broker.kill()
            await broker.start()
            continue
        holder = next(replica for replica in replicas if replica.lease.held)
        runs[holder].cancel()
        await asyncio.wait([runs[holder]])
        runs[holder] = asyncio.ensure_future(holder.run())
    for run in runs.values():
        run.cancel()
    await asyncio.wait(runs.values())
    for taken, given in zip(history[::2], history[1::2], strict=True):
        assert given == f"-{taken[1:]}"
    assert len(history) >= 6


def test_lease_is_refused_when_its_term_is_below_a_second(shared_broker: Broker) -> None:
    with pytest.raises(ValueError, match="at least 1 s"):
        Lease(KV.bind(None, buckets.LEASE), "a", "r1", 0.5)  # type: ignore[arg-type]
