"""Who drives which swarm: one at a time, seen by all, taken early from whoever is gone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest_asyncio

from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.conditions import eventually
from swarm_coordinator.store.leases import Leases

ConnectBus = Callable[..., Awaitable[Bus]]
Two = tuple[Leases, Leases]


@pytest_asyncio.fixture
async def two(connect_bus: ConnectBus, provision: None) -> AsyncIterator[Two]:
    one = await Leases.open(await connect_bus("swarm-coordinator", "swarm-1"), ttl_s=5.0)
    other = await Leases.open(await connect_bus("swarm-coordinator", "swarm-2"), ttl_s=5.0)
    yield one, other
    await one.close()
    await other.close()


async def test_one_of_two_replicas_gets_the_lease_and_both_know_who(two: Two) -> None:
    one, other = two
    swarm = f"swarm_{uuid4().hex}"
    assert await one.contender("acme", swarm).acquire()
    assert not await other.contender("acme", swarm).acquire()
    for leases in two:
        await eventually(lambda leases=leases: leases.holder("acme", swarm) == "swarm-1")
    assert f"swarm.acme.{swarm}" in other.held_by("swarm-1")


async def test_a_lease_given_back_is_heard_of_at_once(two: Two) -> None:
    one, other = two
    swarm = f"swarm_{uuid4().hex}"
    freed: list[str] = []
    other.on_free = freed.append
    lease = one.contender("acme", swarm)
    assert await lease.acquire()
    await eventually(lambda: other.holder("acme", swarm) == "swarm-1")
    await lease.release()
    await eventually(lambda: freed == [f"swarm.acme.{swarm}"])
    assert await other.contender("acme", swarm).acquire()


async def test_a_claim_takes_a_lease_from_a_holder_who_then_cannot_renew(two: Two) -> None:
    one, other = two
    swarm = f"swarm_{uuid4().hex}"
    old = one.contender("acme", swarm)
    assert await old.acquire()
    new = other.contender("acme", swarm)
    assert not await other.claim(new, "acme", swarm, "swarm-2")
    assert not await other.claim(new, "acme", swarm, "")
    assert await other.claim(new, "acme", swarm, "swarm-1")
    assert new.held
    assert not await old.renew()
    assert not await old.acquire()


async def test_a_claim_of_a_free_lease_is_an_acquisition(two: Two) -> None:
    _, other = two
    swarm = f"swarm_{uuid4().hex}"
    assert await other.claim(other.contender("acme", swarm), "acme", swarm, "")
