"""Virtual servers in the registry: what is stored, refused, missing, and declared by a file."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import buckets, catalogs
from mcp_proto.contracts import registry as contract
from mcp_proto.contracts import virtuals
from mcp_proto.contracts.registry import Catalog, CatalogTool, Put
from mcp_proto.contracts.virtuals import (
    ListVirtuals,
    VirtualPut,
    VirtualRecord,
    VirtualRemove,
    VirtualResource,
    VirtualServer,
    VirtualStatus,
    VirtualTool,
)
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ConfigError, ServiceSection
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry.config import RegistryConfig, check_config
from registry.service import build


def desk(*tools: VirtualTool, **members: Any) -> VirtualServer:
    chosen = tools or (VirtualTool(server="notes", tool="read"),)
    return VirtualServer(**{"name": "desk", "tools": chosen, **members})


def config(*declared: VirtualServer) -> RegistryConfig:
    return RegistryConfig(service=ServiceSection(instance="registry-1"), virtual_servers=declared)


class Mesh:
    """A registry that may be started again with another file, and an operator."""

    def __init__(self, stack: AsyncExitStack, connect: Callable[..., Awaitable[Bus]]) -> None:
        self._stack = stack
        self._connect = connect
        self.bus: Bus

    async def start(self, *declared: VirtualServer) -> None:
        """Run a registry whose file declares these."""
        bus = await self._connect("registry", "registry-1")
        await self._stack.enter_async_context(in_process(build, config(*declared), bus))
        self.bus = await self._connect("operator", "operator")

    async def restart(self, *declared: VirtualServer) -> None:
        """Stop it and run it with another file."""
        await self._stack.aclose()
        await self.start(*declared)

    async def rows(self, tenant: str = "") -> dict[str, VirtualStatus]:
        """What is listed, by name."""
        listed = await self.bus.operation(virtuals.virtual_list, ListVirtuals(tenant=tenant))
        return {one.definition.name: one for one in listed.virtuals}

    async def when(self, holds: Callable[[dict[str, VirtualStatus]], bool]) -> None:
        """Wait for a list."""

        async def ask() -> bool:
            return holds(await self.rows())

        await eventually(ask)

    async def put(self, definition: VirtualServer, *, replace: bool = False) -> None:
        """Add or replace."""
        params = VirtualPut(definition=definition, replace=replace)
        await self.bus.operation(virtuals.virtual_put, params)

    async def remove(self, name: str) -> None:
        """Remove."""
        await self.bus.operation(virtuals.virtual_remove, VirtualRemove(name=name))


@pytest_asyncio.fixture
async def mesh(broker, connect_bus) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        yield Mesh(stack, connect_bus)


async def refusal(work: Awaitable[object]) -> str:
    with pytest.raises(MeshError) as caught:
        await work
    assert caught.value.code == -32602
    return caught.value.message


async def test_a_virtual_server_is_stored_replaced_and_removed(mesh: Mesh, connect_bus) -> None:
    await mesh.start()
    await mesh.put(desk())
    assert "defined already" in await refusal(mesh.put(desk(title="x")))
    await mesh.put(desk(title="Desk"), replace=True)
    gateway = await connect_bus("gateway", "gateway-1")
    entry = await (await KV.open(gateway, buckets.VIRTUALS)).get(buckets.key("_", "desk"))
    assert entry is not None
    assert msgspec.json.decode(entry.value, type=VirtualRecord).definition.title == "Desk"
    await mesh.remove("desk")
    assert "no virtual server desk" in await refusal(mesh.remove("desk"))
    await mesh.when(lambda rows: not rows)


async def test_a_bad_definition_is_refused_naming_the_field(mesh: Mesh) -> None:
    await mesh.start()
    bad = desk(VirtualTool(server="notes", tool="re*", name="open"))
    assert (await refusal(mesh.put(bad))).startswith("tools[0].name: ")


async def test_one_name_is_shared_or_of_a_tenant_never_both(mesh: Mesh) -> None:
    await mesh.start()
    await mesh.put(desk(tenant="acme"))
    await mesh.when(lambda rows: "desk" in rows)
    assert "taken by one of a tenant" in await refusal(mesh.put(desk()))
    await mesh.put(desk(tenant="other"))
    assert (await mesh.rows("other"))["desk"].definition.tenant == "other"


async def test_what_nobody_offers_is_said_until_somebody_does(mesh: Mesh, connect_bus) -> None:
    await mesh.start()
    named = (VirtualTool(server="notes", tool="read"), VirtualTool(server="notes", tool="w*"))
    resources = (VirtualResource(server="other", uri="*"),)
    await mesh.put(desk(*named, resources=resources))
    await mesh.when(lambda rows: "desk" in rows)
    assert (await mesh.rows())["desk"].missing == ("server notes", "server other")
    runner = await connect_bus("tool-runner", "runner-1")
    tools = (CatalogTool(name="read", definition=msgspec.Raw(b'{"name":"read"}')),)
    made = Catalog(tenant="_", server="notes", tools=tools)
    made = msgspec.structs.replace(made, hash=catalogs.catalog_hash(made))
    params = Put(tenant="_", server="notes", instance="runner-1", hash=made.hash, catalog=made)
    await runner.operation(contract.put.on(params.server), params)
    await mesh.when(lambda rows: rows["desk"].missing == ("server other", "tool notes:w*"))


async def test_the_file_of_the_registry_declares_them_and_takes_them_back(mesh: Mesh) -> None:
    await mesh.start(desk(), desk(name="second"))
    await mesh.put(desk(name="mine"))
    await mesh.when(lambda rows: rows.keys() == {"desk", "second", "mine"})
    assert (await mesh.rows())["desk"].defined == "config"
    for work in (mesh.put(desk(title="x"), replace=True), mesh.remove("desk")):
        assert "declared in a file" in await refusal(work)
    await mesh.restart(desk(title="changed"))
    await mesh.when(lambda rows: rows.keys() == {"desk", "mine"})
    assert (await mesh.rows())["desk"].definition.title == "changed"


def test_a_file_with_a_bad_definition_is_refused_naming_the_key() -> None:
    with pytest.raises(ConfigError, match=r"virtual_servers\[1\]\.name: .* used twice"):
        check_config(config(desk(), desk()), "registry.toml")
    with pytest.raises(ConfigError, match=r"virtual_servers\[0\]\.tools\[0\]\.tool: "):
        check_config(config(desk(VirtualTool(server="notes", tool=""))), "registry.toml")
