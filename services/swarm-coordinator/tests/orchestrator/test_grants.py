"""Grants of tasks: exchanged once for many items, renewed at half of their life, and ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from mcp_proto.contracts import tenant_auth
from mcp_proto.contracts.tenant_auth import (
    Delegate,
    Delegated,
    Empty,
    Exchange,
    Exchanged,
    RevokeGrant,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import serve_operation
from mesh_chassis.tasks import Tasks
from swarm_coordinator.orchestrator.grants import Grants

ConnectBus = Callable[..., Awaitable[Bus]]


class TenantAuth:
    """The three operations, as far as the coordinator sees them."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.life_ms = 300_000
        self.first = ""
        self.exchanged = 0
        self.revoked: list[str] = []
        self.requests = 0
        self.heard = asyncio.Event()
        self.endpoints = [
            serve_operation(bus, tenant_auth.delegate, self.delegate),
            serve_operation(bus, tenant_auth.exchange, self.exchange),
            serve_operation(bus, tenant_auth.revoke_grant, self.revoke),
        ]

    async def delegate(self, ask: Delegate) -> Delegated:
        return Delegated(
            grant=f"grant of {ask.task}",
            expires_ms=ask.deadline_ms,
            context=self.first,
            context_expires_ms=self.bus.server_now_ms() + self.life_ms,
        )

    async def exchange(self, ask: Exchange) -> Exchanged:
        if ask.grant in self.revoked:
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the grant has ended")
        self.exchanged += 1
        await asyncio.sleep(0.02)
        expires = self.bus.server_now_ms() + self.life_ms
        return Exchanged(context=f"{ask.grant} {self.exchanged}", expires_ms=expires)

    async def revoke(self, ask: RevokeGrant) -> Empty:
        self.revoked += (ask.grant, *ask.others)
        self.requests += 1
        self.heard.set()
        return Empty()


@pytest_asyncio.fixture
async def auth(broker, connect_bus: ConnectBus) -> AsyncIterator[TenantAuth]:
    made = TenantAuth(await connect_bus("tenant-auth", "tenant-auth-1"))
    for endpoint in made.endpoints:
        await endpoint.start()
    yield made
    for endpoint in made.endpoints:
        await endpoint.drain(0.0)


@pytest_asyncio.fixture
async def grants(auth: TenantAuth, connect_bus: ConnectBus) -> AsyncIterator[Grants]:
    tasks = Tasks("test")
    yield Grants(await connect_bus("swarm-coordinator", "swarm-1"), tasks)
    await tasks.close()


async def test_a_task_that_begins_has_its_first_context_from_the_delegation(
    auth: TenantAuth, grants: Grants
) -> None:
    auth.first = "the first"
    grant = await grants.delegate("context", "task_1", auth.bus.server_now_ms() + 60_000)
    assert await grants.context_of(grant) == "the first"
    assert auth.exchanged == 0
    auth.life_ms = 0
    late = await grants.delegate("context", "task_2", auth.bus.server_now_ms() + 60_000)
    assert await grants.context_of(late) == f"{late} 1"


async def test_many_items_of_a_task_share_one_exchange(auth: TenantAuth, grants: Grants) -> None:
    grant = await grants.delegate("context", "task_1", auth.bus.server_now_ms() + 60_000)
    found = await asyncio.gather(*(grants.context_of(grant) for _ in range(50)))
    assert set(found) == {"grant of task_1 1"}
    assert await grants.context_of(grant) == found[0]
    assert auth.exchanged == 1
    assert await grants.context_of("") == ""


async def test_a_context_is_renewed_at_half_of_its_life(auth: TenantAuth, grants: Grants) -> None:
    auth.life_ms = 0
    assert await grants.context_of("g") == "g 1"
    assert await grants.context_of("g") == "g 2"


async def test_a_grant_that_has_ended_says_so_to_everybody_who_asks(
    auth: TenantAuth, grants: Grants
) -> None:
    await grants.context_of("g")
    grants.revoke("g")
    await grants.flush()
    for error in await asyncio.gather(
        *(grants.context_of("g") for _ in range(3)), return_exceptions=True
    ):
        assert isinstance(error, MeshError)
        assert error.kind is ErrorKind.UNAUTHENTICATED
    with pytest.raises(MeshError):
        await grants.context_of("g")


async def test_grants_that_end_together_are_ended_in_few_requests(
    auth: TenantAuth, grants: Grants
) -> None:
    names = [f"g{n}" for n in range(20)]
    for name in names:
        grants.revoke(name)
    async with asyncio.timeout(5.0):
        while len(auth.revoked) < len(names):
            await auth.heard.wait()
            auth.heard.clear()
    assert auth.revoked == names
    assert auth.requests == 3
