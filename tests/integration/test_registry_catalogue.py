"""The registry on a real broker, under its own rights: registration, events, definitions."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import buckets, catalogs, subjects
from mcp_proto.contracts import registry as contract
from mcp_proto.contracts.registry import (
    Catalog,
    CatalogTool,
    ListChanged,
    Put,
    PutAnswer,
    Remove,
    RestartRecord,
    RestartServer,
    ServerDefinition,
    ServerPut,
    ServerRemove,
    ServerStatus,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry.config import RegistryConfig
from registry.service import build


def catalog(
    server: str = "notes", *, tenant: str = "acme", tools: int = 1, pad: int = 0, **fields: object
) -> Catalog:
    made = Catalog(
        tenant=tenant,
        server=server,
        tools=tuple(
            CatalogTool(
                name=f"t{n}",
                definition=msgspec.Raw(b'{"name":"t%d","x":"%s"}' % (n, b"x" * pad)),
            )
            for n in range(tools)
        ),
        **fields,
    )
    return msgspec.structs.replace(made, hash=catalogs.catalog_hash(made))


class Mesh:
    """Registries, a runner and an operator, each under its own rights."""

    def __init__(self, runner: Bus, operator: Bus) -> None:
        self.runner = runner
        self.operator = operator

    async def put(self, one: Catalog, *, body: bool = True, bus: Bus | None = None) -> PutAnswer:
        params = Put(
            tenant=one.tenant,
            server=one.server,
            instance="runner-1",
            hash=one.hash,
            catalog=one if body else None,
        )
        return await (bus or self.runner).operation(contract.put.on(params.server), params)

    async def row(self, server: str, tenant: str = "acme") -> ServerStatus | None:
        answer = await self.runner.operation(contract.list_servers, contract.ListServers())
        rows = [one for one in answer.servers if (one.tenant, one.server) == (tenant, server)]
        return rows[0] if rows else None

    async def when(
        self, server: str, holds: Callable[[ServerStatus | None], bool]
    ) -> ServerStatus | None:
        """The row of a server, once it is as asked at whichever registry answers."""
        found: list[ServerStatus | None] = []

        async def ask() -> bool:
            found.append(await self.row(server))
            return holds(found[-1])

        await eventually(ask, what=f"row of {server}")
        return found[-1]

    async def known_everywhere(self, server: str) -> None:
        """Wait until every registry lists a server; a queue group answers at random."""

        async def ask() -> bool:
            return None not in await asyncio.gather(*(self.row(server) for _ in range(16)))

        await eventually(ask)


@pytest_asyncio.fixture(params=[1, 2], ids=["one-registry", "two-registries"])
async def mesh(broker, connect_bus, request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        for n in range(1, request.param + 1):
            name = f"registry-{n}"
            config = RegistryConfig(service=ServiceSection(instance=name))
            bus = await connect_bus("registry", name)
            await stack.enter_async_context(in_process(build, config, bus))
        yield Mesh(
            await connect_bus("tool-runner", "runner-1"),
            await connect_bus("operator", "operator"),
        )


async def watched(bus: Bus, seen: dict[str, Catalog]):
    """What a gateway does: assemble catalogues from the watched bucket."""
    view = catalogs.Assembler()

    def on_entry(key: str, value: bytes | None, _revision: int) -> None:
        change = view.feed(key, value)
        if change is None:
            return
        if change.catalog is None:
            seen.pop(change.server, None)
        else:
            seen[change.server] = change.catalog

    watch = await (await KV.open(bus, buckets.CATALOG)).watch(on_entry=on_entry)
    await watch.ready
    return watch


async def test_registry_asks_for_the_body_once_and_knows_the_hash_afterwards(mesh: Mesh) -> None:
    one = catalog()
    assert await mesh.put(one, body=False) == PutAnswer(known=False)
    first = await mesh.put(one)
    assert first.known
    assert first.revision > 0

    # The other replica may be asked next; it knows as soon as its watch has seen the write.
    async def known() -> bool:
        return (await mesh.put(one, body=False)) == first

    await eventually(known)
    assert (await mesh.put(one)).revision == first.revision


async def test_catalogue_of_two_megabytes_reaches_a_gateway_whole_and_is_replaced_whole(
    mesh: Mesh, connect_bus
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    seen: dict[str, Catalog] = {}
    watch = await watched(gateway, seen)
    large = catalog(tools=5, pad=400_000)
    await mesh.put(large)
    await eventually(lambda: seen.get("notes") == large, what="the large catalogue at the gateway")
    larger = catalog(tools=6, pad=400_000)
    await mesh.put(larger)
    await eventually(lambda: seen.get("notes") == larger, what="its successor")
    small = catalog()
    await mesh.put(small)
    await eventually(lambda: seen.get("notes") == small, what="a small successor")
    kv = await KV.open(mesh.operator, buckets.CATALOG)

    async def only_the_head_is_left() -> bool:
        return await kv.keys() == ["acme.notes"]

    await eventually(only_the_head_is_left)
    await watch.stop()


async def test_list_changed_names_what_changed_and_nothing_is_sent_when_nothing_did(
    mesh: Mesh, connect_bus
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    heard: list[ListChanged] = []

    async def on_event(msg) -> None:
        heard.append(msgspec.json.decode(msg.data, type=ListChanged))

    subscription = await gateway.subscribe(
        subjects.event(subjects.ANY, "list_changed", subjects.ANY), on_event
    )
    one = catalog()
    two = catalog(prompts=(msgspec.Raw(b'{"name":"p"}'),))
    await mesh.put(one)
    await mesh.put(one)
    await mesh.put(two)
    await mesh.runner.operation(
        contract.remove.on("notes"), Remove(tenant="acme", server="notes", instance="runner-1")
    )
    await eventually(lambda: len(heard) >= 3, what="three events")
    assert heard == [
        ListChanged(tenant="acme", server="notes", hash=one.hash, changed=("tools",)),
        ListChanged(tenant="acme", server="notes", hash=two.hash, changed=("prompts",)),
        ListChanged(tenant="acme", server="notes", hash="", changed=("tools", "prompts")),
    ]
    await subscription.unsubscribe()


async def test_tenant_may_not_take_the_name_of_a_shared_server_nor_the_reverse(
    mesh: Mesh,
) -> None:
    await mesh.put(catalog("shared", tenant="_"))
    with pytest.raises(MeshError, match="taken by a shared server") as caught:
        await mesh.put(catalog("shared", tenant="acme"))
    assert caught.value.kind is ErrorKind.PARAMS
    await mesh.put(catalog("own", tenant="acme"))
    await mesh.put(catalog("own", tenant="other"))
    with pytest.raises(MeshError, match="taken by a server of a tenant"):
        await mesh.put(catalog("own", tenant="_"))
    definition = ServerDefinition(name="shared", tenant="acme", command="x")
    with pytest.raises(MeshError, match="taken"):
        await mesh.operator.operation(contract.server_put, ServerPut(definition=definition))


async def test_of_rivals_registered_at_the_same_moment_at_most_one_stays(
    mesh: Mesh, connect_bus
) -> None:
    other = await connect_bus("tool-runner", "runner-2")
    for n in range(10):
        name = f"rival{n}"
        await asyncio.gather(
            mesh.put(catalog(name, tenant="_")),
            mesh.put(catalog(name, tenant="acme"), bus=other),
            return_exceptions=True,
        )

        async def at_most_one(name: str = name) -> bool:
            return None in (await mesh.row(name, "_"), await mesh.row(name, "acme"))

        # The registry that answers may hear a moment later what the other took back.
        await eventually(at_most_one)


async def test_bad_catalogue_is_refused_and_leaves_nothing(mesh: Mesh) -> None:
    good = catalog()
    twice = msgspec.structs.replace(good, tools=good.tools * 2)
    twice = msgspec.structs.replace(twice, hash=catalogs.catalog_hash(twice))
    for bad in (twice, msgspec.structs.replace(good, hash="0" * 64)):
        with pytest.raises(MeshError) as caught:
            await mesh.put(bad)
        assert caught.value.kind is ErrorKind.PARAMS
    assert await mesh.row("notes") is None


async def test_definition_added_at_run_time_is_listed_without_its_secrets(mesh: Mesh) -> None:
    definition = ServerDefinition(
        name="time", tenant="acme", command="mcp-server-time", env={"TOKEN": "secret"}
    )
    add = ServerPut(definition=definition)
    await mesh.operator.operation(contract.server_put, add)
    with pytest.raises(MeshError, match="defined already"):
        await mesh.operator.operation(contract.server_put, add)
    stored = await (await KV.open(mesh.runner, buckets.SERVERS)).get("acme.time")
    assert stored is not None
    assert msgspec.json.decode(stored.value, type=ServerDefinition) == definition
    row = await mesh.when("time", lambda row: row is not None)
    assert row is not None
    assert (row.state, row.defined, row.tools) == ("down", "runtime", 0)
    assert row.definition is not None
    assert row.definition.env == {"TOKEN": "***"}
    disabled = msgspec.structs.replace(definition, enabled=False)
    await mesh.operator.operation(contract.server_put, ServerPut(definition=disabled, replace=True))
    row = await mesh.when("time", lambda row: row is not None and row.state == "disabled")
    assert row is not None
    assert row.definition is not None
    assert row.definition.generation == 1


async def test_restart_raises_a_generation_that_runners_see(mesh: Mesh) -> None:
    kv = await KV.open(mesh.runner, buckets.SERVERS)
    definition = ServerDefinition(name="time", tenant="acme", command="x")
    await mesh.operator.operation(contract.server_put, ServerPut(definition=definition))
    await mesh.operator.operation(
        contract.server_restart, RestartServer(name="time", tenant="acme")
    )
    stored = await kv.get("acme.time")
    assert stored is not None
    assert msgspec.json.decode(stored.value, type=ServerDefinition).generation == 1
    await mesh.put(catalog("configured"))
    await mesh.known_everywhere("configured")
    restart = RestartServer(name="configured", tenant="acme")
    for generation in (1, 2):
        await mesh.operator.operation(contract.server_restart, restart)
        record = await kv.get(contract.restart_key("acme", "configured"))
        assert record is not None
        assert msgspec.json.decode(record.value, type=RestartRecord) == RestartRecord(
            name="configured", tenant="acme", generation=generation
        )
    with pytest.raises(MeshError) as caught:
        await mesh.operator.operation(contract.server_restart, RestartServer(name="nobody"))
    assert caught.value.kind is ErrorKind.NOT_FOUND


async def test_removed_definition_takes_its_catalogue_along(mesh: Mesh) -> None:
    definition = ServerDefinition(name="time", tenant="acme", command="x")
    await mesh.operator.operation(contract.server_put, ServerPut(definition=definition))
    await mesh.put(catalog("time"))
    # The last instance leaves, but the definition will bring the server back.
    leave = Remove(tenant="acme", server="time", instance="runner-1")
    await mesh.runner.operation(contract.remove.on(leave.server), leave)
    assert await mesh.row("time") is not None
    remove = ServerRemove(name="time", tenant="acme")
    await mesh.operator.operation(contract.server_remove, remove)
    await mesh.when("time", lambda row: row is None)
    with pytest.raises(MeshError) as caught:
        await mesh.operator.operation(contract.server_remove, remove)
    assert caught.value.kind is ErrorKind.NOT_FOUND


async def test_only_operators_may_administer(mesh: Mesh, connect_bus) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    definition = ServerDefinition(name="time", command="x")
    for bus in (gateway, mesh.runner):
        with pytest.raises(MeshError):
            await bus.operation(
                contract.server_put, ServerPut(definition=definition), timeout_s=0.3
            )
    assert await mesh.row("time", "_") is None
    with pytest.raises(MeshError):
        await gateway.operation(
            contract.put.on("x"),
            Put(tenant="_", server="x", instance="gateway-1", hash="0" * 64),
            timeout_s=0.3,
        )


async def test_everything_comes_back_when_the_broker_lost_its_disk(
    mesh: Mesh, broker, connect_bus, tmp_path: Path
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    seen: dict[str, Catalog] = {}
    watch = await watched(gateway, seen)
    one = catalog()
    await mesh.put(one)
    await broker.kill()
    shutil.rmtree(broker.store)
    await broker.start()

    async def known_again() -> bool:
        # What a runner does after a reconnect: the hash first, the body when asked for.
        try:
            if not (await mesh.put(one, body=False)).known:
                await mesh.put(one)
        except MeshError:
            return False
        return seen.get("notes") == one and await stored()

    async def stored() -> bool:
        return await (await KV.open(mesh.operator, buckets.CATALOG)).get("acme.notes") is not None

    await eventually(known_again, timeout_s=15)

    async def streams() -> bool:
        try:
            reply = await mesh.operator.request("$JS.API.STREAM.INFO.MESH_AUDIT", timeout_s=2)
        except MeshError:
            return False
        return b"error" not in reply.payload

    await eventually(streams, timeout_s=10)
    await watch.stop()


async def test_shared_streams_exist_with_their_settings_and_a_second_start_changes_nothing(
    mesh: Mesh, connect_bus
) -> None:
    operator = mesh.operator
    info = {}
    for name in ("TASKS", "EVENTS", "AUDIT", "LOGS", "DLQ", "ADV"):
        reply = await operator.request(f"$JS.API.STREAM.INFO.MESH_{name}", timeout_s=2)
        info[name] = msgspec.json.decode(reply.payload)["config"]
    assert info["TASKS"]["retention"] == "workqueue"
    assert info["TASKS"]["discard_new_per_subject"] is True
    assert info["EVENTS"]["no_ack"] is True
    assert "mesh.v1.*.evt.audit.>" not in info["EVENTS"]["subjects"]
    assert info["AUDIT"]["deny_purge"] is True
    assert all(one["num_replicas"] == 1 for one in info.values())
    for subject in (one for stream in info.values() for one in stream["subjects"]):
        assert ".call." not in subject
        assert ".rpc." not in subject
