"""Settings of the streams of tenants, computed from a request that names none; of swarms' logs.

For the registry, which alone makes streams, and for test brokers without one.
"""

from typing import Final

import msgspec

from mcp_proto.buckets import (
    SWARM_LOG,
    swarm_memory,
    swarm_objects,
    tenant_events,
    tenant_kv,
    tenant_objects,
)
from mcp_proto.contracts.provision import Ensure
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import ANY, task, topic
from mesh_chassis.bucket import stream_of
from mesh_chassis.stream import DEDUP_NS, NS, StreamConfig

__all__ = ["TenantBounds", "stream_for", "swarm_log"]

GIB: Final = 1024 * 1024 * 1024


class TenantBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What tenants' storage may be at most.

    Attributes:
        bytes_max: of one stream with a size.
        unsized: whether one may have no size; else it gets ``bytes_max``.
        replicas_max: copies of one.
    """

    bytes_max: int = GIB
    unsized: bool = True
    replicas_max: int = 5


def stream_for(wanted: Ensure, bounds: TenantBounds) -> StreamConfig:
    """The stream behind a request, within the bounds.

    Raises:
        MeshError: ``params``: not a tenant, or ``age_s`` where nothing ages.
    """
    tenant = wanted.tenant
    size, replicas = _size(wanted.bytes_max, bounds), min(wanted.replicas, bounds.replicas_max)
    if wanted.age_s and wanted.kind != "events":
        raise MeshError(ErrorKind.PARAMS, "only events have an age")
    try:
        if wanted.kind == "kv":
            return stream_of(tenant_kv(tenant, size), replicas=replicas)
        if wanted.kind == "objects":
            return _objects(tenant_objects(tenant), size, replicas)
        if wanted.kind == "memory":
            return stream_of(swarm_memory(tenant, size), replicas=replicas)
        if wanted.kind == "swarm":
            return _objects(swarm_objects(tenant), size, replicas)
        age = round(wanted.age_s * NS)
        return StreamConfig(
            name=tenant_events(tenant),
            subjects=(topic(tenant, ANY),),
            discard="old",
            num_replicas=replicas,
            max_bytes=size,
            max_age=age,
            duplicate_window=min(DEDUP_NS, age) if age else DEDUP_NS,
            allow_direct=True,
            deny_delete=True,
        )
    except ValueError:
        raise MeshError(ErrorKind.PARAMS, "this tenant has no storage") from None


def swarm_log(bytes_max: int, *, replicas: int = 1) -> StreamConfig:
    """The stream of the logs of all swarms."""
    return StreamConfig(
        name=SWARM_LOG,
        subjects=(task(ANY, "log", ANY),),
        # A swarm whose beginning was dropped could not be read any more: a full log refuses.
        discard="new",
        max_bytes=bytes_max,
        allow_direct=True,
        deny_delete=True,
        num_replicas=replicas,
    )


def _objects(bucket: str, size: int, replicas: int) -> StreamConfig:
    return StreamConfig(
        name=f"OBJ_{bucket}",
        subjects=(f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"),
        discard="new",
        max_bytes=size,
        num_replicas=replicas,
        allow_direct=True,
        allow_rollup_hdrs=True,
        allow_msg_ttl=True,
    )


def _size(asked: int, bounds: TenantBounds) -> int:
    # The broker takes 0 for "no size": nothing may ask for that by asking for nothing.
    if asked < 0:
        return -1 if bounds.unsized else bounds.bytes_max
    return max(1, min(asked, bounds.bytes_max))
