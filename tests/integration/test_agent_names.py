"""Two agents of one name: copies share it, another agent waits for it or takes it over."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import buckets, subjects
from mcp_proto.catalogs import catalog_hash
from mcp_proto.codec import encode_request
from mcp_proto.contracts import registry as contract
from mcp_proto.contracts.registry import InstanceRecord, ListServers, Put, ServerStatus
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis import registration
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from mesh_sdk.agent import Agent
from mesh_sdk.agent.config import AgentConfig, AgentSection
from mesh_sdk.agent.process import Live, attach
from registry.config import RegistryConfig
from registry.service import build as build_registry

ACME, NAME = "acme", "twin"


def twin(tool: str) -> Agent:
    """An agent of the name with one tool, which says its own name."""
    agent = Agent(NAME)
    agent.tool(name=tool)(lambda: tool)
    return agent


class Rig:
    """A registry, agents that come and go, and somebody who calls them."""

    def __init__(self, broker: Broker, operator: Bus) -> None:
        self._broker = broker
        self.operator = operator

    async def bus(self, instance: str) -> Bus:
        """Connected as an agent of the tenant."""
        seed = self._broker.seed_for(f"agent@{ACME}", instance)
        config = BusConfig(urls=(self._broker.url,), nkey_seed_file=seed)
        return await Bus.connect(config, service="agent", instance=instance)

    @asynccontextmanager
    async def agent(
        self, instance: str, tool: str, *, replace: bool = False
    ) -> AsyncGenerator[tuple[Live, Bus]]:
        """A running agent; what the registry says of it is for the caller to look at."""
        made: list[Live] = []

        async def serve(service: Any, config: AgentConfig) -> None:
            made.append(await attach(service, config, twin(tool).described()))

        bus = await self.bus(instance)
        config = AgentConfig(
            service=ServiceSection(instance=instance),
            agent=AgentSection(tenant=ACME, allow_unsigned=True, replace=replace),
        )
        async with in_process(serve, config, bus):
            await eventually(lambda: (ACME, NAME) in made[0].registration.registered)
            yield made[0], bus

    async def ask(self, tool: str) -> object:
        """Call a tool of whoever has the name."""
        bus = self.operator
        request_id = bus.new_request_id()
        body = await bus.call(
            subjects.call(ACME, NAME, tool),
            encode_request("tools/call", request_id, msgspec.json.encode({"name": tool})),
            envelope=RequestEnvelope(method="tools/call", request_id=request_id),
            timeout_s=2.0,
            tenant=ACME,
        )
        return msgspec.json.decode(body)["result"]["content"][0]["text"]

    async def listed(self) -> ServerStatus | None:
        """The row of the name in the list of servers."""
        answer = await self.operator.operation(contract.list_servers, ListServers(tenant=ACME))
        return next(iter(answer.servers), None)


@pytest_asyncio.fixture
async def rig(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(registration, "HELD_RETRY_S", 0.1)
    async with AsyncExitStack() as stack:

        async def bus(service: str, instance: str) -> Bus:
            config = BusConfig(
                urls=(broker.url,), nkey_seed_file=broker.seed_for(service, instance)
            )
            return await Bus.connect(config, service=service, instance=instance)

        config = RegistryConfig(service=ServiceSection(instance="registry-1"))
        await stack.enter_async_context(
            in_process(build_registry, config, await bus("registry", "registry-1"))
        )
        operator = await bus("operator", "operator")
        stack.push_async_callback(operator.close)
        yield Rig(broker, operator)


def refusal(live: Live) -> Callable[[], str]:
    """Why the registry refuses an agent; "" = it does not."""
    return lambda: live.registration.refused.get((ACME, NAME), "")


async def test_newer_agent_with_other_tools_is_refused_and_told_who_has_the_name(rig: Rig) -> None:
    async with rig.agent("twin-1", "one") as (first, _), rig.agent("twin-2", "two") as (second, _):
        assert not refusal(first)()
        assert "held by twin-1 with another catalogue" in refusal(second)()
        with pytest.raises(MeshError) as caught:
            await second.registered()
        assert caught.value.kind is ErrorKind.PARAMS
        for _ in range(20):
            assert await rig.ask("one") == "one"
        with pytest.raises(MeshError) as caught:
            await rig.ask("two")
        assert "unknown tool" in caught.value.message
        row = await rig.listed()
        assert row is not None
        assert (row.instances, row.hash) == (("twin-1",), first.registration.registered[ACME, NAME])


async def test_waiting_agent_takes_the_name_over_once_the_others_are_gone(rig: Rig) -> None:
    async with AsyncExitStack() as second:
        async with AsyncExitStack() as first:
            await first.enter_async_context(rig.agent("twin-1", "one"))
            await first.enter_async_context(rig.agent("twin-3", "one"))
            live, _ = await second.enter_async_context(rig.agent("twin-2", "two"))
            assert "held by twin-1, twin-3" in refusal(live)()
        await eventually(lambda: not refusal(live)())
        await eventually(lambda: live.doors.known)
        assert await rig.ask("two") == "two"
        row = await rig.listed()
        assert row is not None
        assert row.instances == ("twin-2",)


async def test_copies_with_the_same_catalogue_share_a_name(rig: Rig) -> None:
    async with rig.agent("twin-1", "one") as (first, _), rig.agent("twin-2", "one") as (second, _):
        assert not refusal(first)()
        assert not refusal(second)()
        row = await rig.listed()
        assert row is not None
        assert row.instances == ("twin-1", "twin-2")


async def test_killed_agent_holds_its_name_no_longer_although_its_record_stands(rig: Rig) -> None:
    made = twin("one").described().catalog(ACME)
    catalog = msgspec.structs.replace(made, hash=catalog_hash(made))
    bus = await rig.bus("twin-1")
    put = Put(tenant=ACME, server=NAME, instance="twin-1", hash=catalog.hash, catalog=catalog)
    await bus.operation(contract.put.of_tenant(ACME).on(NAME), put)
    record = InstanceRecord(
        service="agent", instance="twin-1", version="1", servers={f"{ACME}.{NAME}": catalog.hash}
    )
    key = buckets.key("agent", "twin-1")
    await KV.bind(bus, buckets.INSTANCES).put(key, msgspec.json.encode(record), ttl_s=20)
    await bus.close()
    async with rig.agent("twin-2", "two") as (second, _):
        assert not refusal(second)()
        assert await rig.ask("two") == "two"


async def test_agent_told_to_replace_takes_the_name_at_once_and_the_other_stops(rig: Rig) -> None:
    async with rig.agent("twin-1", "one") as (first, _):
        async with rig.agent("twin-2", "two", replace=True) as (second, _):
            assert not refusal(second)()
            await second.seen()
            first.registration.repeat()  # as it does by itself within a minute
            await eventually(lambda: "held by twin-2" in refusal(first)())
            await eventually(lambda: not first.service.health.ready)
            for _ in range(20):
                assert await rig.ask("two") == "two"
        # The way back: whoever waits has it again.
        await eventually(lambda: not refusal(first)())
        assert await rig.ask("one") == "one"
