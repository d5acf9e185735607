"""Contract of ``registry.ensure``: storage of a tenant, made by the only maker of streams.

Who may write the configuration of one stream may let the broker write any subject (``republish``)
and read any stream (``sources``, ``mirror``). So nobody sends a configuration: a request names what
is wanted, and the registry knows names, subjects and settings.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mcp_proto.contracts import Operation

__all__ = ["Ensure", "Ensured", "Kind", "ensure"]

SERVICE = "registry"

Kind = Literal["kv", "objects", "events", "memory", "swarm"]
"""``kv``: bucket of the ``kv_*`` tools (``buckets.tenant_kv``). ``objects``: object bucket of
artifacts and large results (``buckets.tenant_objects``). ``events``: the tenant's topics
(``buckets.tenant_events``). ``memory``: memory of swarms (``buckets.swarm_memory``). ``swarm``:
large values of swarms (``buckets.swarm_objects``)."""


class Ensure(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Make the storage of a tenant, or bring it up to date; repeats change nothing.

    Attributes:
        kind: what it is for.
        tenant: tenant id.
        bytes_max: its size; -1 = none. The registry's own maximum bounds it.
        replicas: copies on a cluster; never lowered.
        age_s: ``events``: how long one is kept; 0 = until its room is needed. Else 0.
    """

    kind: Kind
    tenant: str
    bytes_max: Annotated[int, Meta(ge=-1)] = -1
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    age_s: Annotated[float, Meta(ge=0, le=36_500 * 86_400)] = 0.0


class Ensured(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is there now.

    Attributes:
        stream: name of the stream.
        bytes_max: its size; -1 = none. It may differ from what was asked for: bounded by the
            registry, and never below what is stored.
        changed: something was made or changed.
    """

    stream: str
    bytes_max: int
    changed: bool


ensure = Operation(SERVICE, "ensure", Ensure, Ensured)
