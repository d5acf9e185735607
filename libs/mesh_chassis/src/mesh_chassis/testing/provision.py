"""Streams for tests that run no registry: the platform's buckets, and storage of tenants.

The same settings as the registry's, made under its rights; without its bounds and repetitions.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from mcp_proto import buckets
from mcp_proto.buckets import Bucket
from mcp_proto.contracts import provision
from mcp_proto.contracts.provision import Ensure, Ensured
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import serve_operation
from mesh_chassis.stream import make_stream
from mesh_chassis.tenant_streams import TenantBounds, stream_for, swarm_log

__all__ = ["provisioned", "written_by"]

Connect = Callable[..., Awaitable[Bus]]

_SWARM_LOG_BYTES = 64 * 1024 * 1024


async def written_by(connect: Connect, bucket: Bucket, writer: Bus | None = None) -> KV:
    """A bucket, made as the registry would, in the hands of its writer.

    Args:
        connect: as the fixture ``connect_bus``.
        bucket: which.
        writer: who writes; None = ``{writer}-1``.
    """
    await KV.ensure(await connect("registry", "registry-1"), bucket)
    names = {"tool-runner": "runner-1", "swarm-coordinator": "swarm-1", "vm-spawner": "vm-1"}
    name = names.get(bucket.writer, f"{bucket.writer}-1")
    return KV.bind(writer or await connect(bucket.writer, name), bucket)


@asynccontextmanager
async def provisioned(bus: Bus) -> AsyncGenerator[None]:
    """Make every bucket of the platform, and answer ``registry.ensure`` meanwhile.

    Args:
        bus: connected as a registry.
    """
    for bucket in buckets.OF_PLATFORM:
        await KV.ensure(bus, bucket)
    await make_stream(bus, swarm_log(_SWARM_LOG_BYTES))

    async def ensure(wanted: Ensure) -> Ensured:
        made = await make_stream(bus, stream_for(wanted, TenantBounds()))
        return Ensured(
            stream=made.config.name, bytes_max=made.config.max_bytes, changed=made.changed
        )

    endpoint = serve_operation(bus, provision.ensure, ensure)
    await endpoint.start()
    try:
        yield
    finally:
        await endpoint.drain(1.0)
