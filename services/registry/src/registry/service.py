"""The registry's table of contents: what it keeps, what it serves, what it looks after."""

from mcp_proto import buckets
from mcp_proto.contracts import registry as contract
from mcp_proto.contracts import virtuals as virtual_contract
from mesh_chassis.bucket import KV
from mesh_chassis.bus.endpoint import serve_operation
from mesh_chassis.service import Service
from mesh_chassis.stream import ensure_stream
from registry.config import RegistryConfig, check_config
from registry.handlers import Handlers
from registry.reconciler import Reconciler
from registry.store.catalog import CatalogStore
from registry.store.definitions import DefinitionStore
from registry.store.instances import InstanceStore
from registry.store.streams import shared_streams
from registry.store.virtuals import VirtualStore
from registry.virtuals import VirtualHandlers

__all__ = ["NAME", "build"]

NAME = "registry"

PUT_SLOTS = 8
"""Registrations at once: each may carry 8 MiB."""


async def build(service: Service, config: RegistryConfig) -> None:
    """Load the state and add every part to ``service``.

    Raises:
        ConfigError: a virtual server of the file cannot be shown.
        MeshError: buckets or streams cannot be ensured or read.
    """
    check_config(config)
    bus, replicas = service.bus, config.streams.replicas
    # Instances first: every other process waits for it to say that it lives.
    instances = await InstanceStore.open(bus, replicas=replicas, ttl_s=config.liveness.ttl_s)
    catalog = await CatalogStore.open(bus, replicas=replicas)
    definitions = await DefinitionStore.open(bus, replicas=replicas)
    await KV.ensure(bus, buckets.LEASE, replicas=replicas)

    async def ensure_streams() -> None:
        for stream in shared_streams(config.streams):
            await ensure_stream(bus, stream)

    await ensure_streams()
    bus.on_reconnect(ensure_streams)

    virtuals = await VirtualStore.open(bus, replicas=replicas)
    handlers = Handlers(bus, catalog, definitions, instances)
    curated = VirtualHandlers(virtuals, catalog)
    await curated.declare(config.virtual_servers)
    reconciler = Reconciler(handlers, catalog, definitions, instances, config.liveness)

    service.add_endpoint(serve_operation(bus, contract.put, handlers.put, slots=PUT_SLOTS))
    service.add_endpoint(serve_operation(bus, contract.remove, handlers.remove))
    service.add_endpoint(serve_operation(bus, contract.list_servers, handlers.list_servers))
    service.add_endpoint(serve_operation(bus, contract.server_put, handlers.server_put))
    service.add_endpoint(serve_operation(bus, contract.server_remove, handlers.server_remove))
    service.add_endpoint(serve_operation(bus, contract.server_restart, handlers.server_restart))

    service.add_endpoint(serve_operation(bus, virtual_contract.virtual_put, curated.put))
    service.add_endpoint(serve_operation(bus, virtual_contract.virtual_remove, curated.remove))
    service.add_endpoint(serve_operation(bus, virtual_contract.virtual_list, curated.list))

    service.add_health_check("catalog", lambda: catalog.fresh)
    service.add_health_check("definitions", lambda: definitions.fresh)
    service.add_health_check("virtuals", lambda: virtuals.fresh)
    service.add_health_check("instances", lambda: instances.fresh)

    async def begin() -> None:
        service.tasks.spawn(reconciler.run(), name="reconciler", fatal=True)

    service.on_ready(begin)
    for store in (catalog, definitions, virtuals, instances):
        service.on_stop(store.close)
