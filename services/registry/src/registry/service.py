"""The registry's table of contents: what it keeps, what it serves, what it looks after."""

from functools import partial

from mcp_proto.contracts import provision as provision_contract
from mcp_proto.contracts import registry as contract
from mcp_proto.contracts import virtuals as virtual_contract
from mesh_chassis.bus.endpoint import serve_operation
from mesh_chassis.service import Service
from registry.agents import serve_of_tenants
from registry.config import RegistryConfig, check_config
from registry.discovery import DiscoveryRoom, sources_of
from registry.handlers import Handlers
from registry.provision import Provision
from registry.reconciler import Reconciler
from registry.store.catalog import CatalogStore
from registry.store.definitions import DefinitionStore
from registry.store.instances import InstanceStore
from registry.store.virtuals import VirtualStore
from registry.virtuals import VirtualHandlers

__all__ = ["NAME", "build"]

NAME = "registry"

Store = CatalogStore | DefinitionStore | VirtualStore | InstanceStore

PUT_SLOTS = 8
"""Registrations at once: each may carry 8 MiB."""
ENSURE_SLOTS = 16
"""Stores of tenants made at once: each costs the broker files."""


async def build(service: Service, config: RegistryConfig) -> None:
    """Load the state and add every part to ``service``.

    Raises:
        ConfigError: a virtual server of the file cannot be shown.
        MeshError: buckets or streams cannot be ensured or read.
    """
    check_config(config)
    bus = service.bus
    streams = Provision(bus, config)
    bus.on_reconnect(streams.look_again)
    await streams.ensure_platform()
    instances = await InstanceStore.open(bus, ttl_s=config.liveness.ttl_s)
    catalog = await CatalogStore.open(bus)
    definitions = await DefinitionStore.open(bus)
    virtuals = await VirtualStore.open(bus)
    handlers = Handlers(bus, catalog, definitions, instances)
    curated = VirtualHandlers(virtuals, catalog)
    await curated.declare(config.virtual_servers)
    reconciler = Reconciler(handlers, catalog, definitions, instances, config.liveness)

    service.add_endpoint(
        serve_of_tenants(bus, contract.put, handlers.put, pair_of=_pair, slots=PUT_SLOTS)
    )
    service.add_endpoint(serve_of_tenants(bus, contract.remove, handlers.remove, pair_of=_pair))
    service.add_endpoint(serve_operation(bus, contract.list_servers, handlers.list_servers))
    service.add_endpoint(serve_operation(bus, contract.server_put, handlers.server_put))
    service.add_endpoint(serve_operation(bus, contract.server_remove, handlers.server_remove))
    service.add_endpoint(serve_operation(bus, contract.server_restart, handlers.server_restart))
    service.add_endpoint(
        serve_operation(bus, provision_contract.ensure, streams.ensure, slots=ENSURE_SLOTS)
    )

    _serve_virtuals(service, curated)
    service.add_health_check("streams", lambda: streams.complete)

    async def begin() -> None:
        service.tasks.spawn(reconciler.run(), name="reconciler", fatal=True)
        service.tasks.spawn(streams.run(), name="streams", fatal=True)

    _reload(service, curated)
    service.on_ready(begin)
    _look_after(
        service, catalog=catalog, definitions=definitions, virtuals=virtuals, instances=instances
    )
    sources = sources_of(config.discovery, config.agents)
    stores = (definitions, catalog, instances)
    _discover(service, DiscoveryRoom(bus, handlers, *stores, config.discovery, sources))


def _reload(service: Service, curated: VirtualHandlers) -> None:
    """Virtual servers of the file come and go while the registry runs."""

    async def declare(new: RegistryConfig) -> None:
        await curated.declare(new.virtual_servers)

    service.on_reload(RegistryConfig, ("virtual_servers",), declare, check=check_config)


def _look_after(service: Service, **stores: Store) -> None:
    for name, store in stores.items():
        service.add_health_check(name, partial(_fresh, store))
        service.on_stop(store.close)


def _pair(params: contract.Put | contract.Remove) -> tuple[str, str]:
    return params.tenant, params.server


def _fresh(store: Store) -> bool:
    return store.fresh


def _serve_virtuals(service: Service, curated: VirtualHandlers) -> None:
    bus = service.bus
    service.add_endpoint(serve_operation(bus, virtual_contract.virtual_put, curated.put))
    service.add_endpoint(serve_operation(bus, virtual_contract.virtual_remove, curated.remove))
    service.add_endpoint(serve_operation(bus, virtual_contract.virtual_list, curated.list))


def _discover(service: Service, room: DiscoveryRoom) -> None:
    """Have agents outside the mesh found, where there is anything to find or to take away."""
    if not room.needed:
        return
    service.add_health_check("discovery", lambda: room.status, required=False)

    async def begin() -> None:
        room.start(service.tasks)

    service.on_ready(begin)
    service.on_stop(room.close)
