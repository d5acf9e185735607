"""Bucket names and key grammar: the stored state, and which service writes it.

A bucket has one writer (``mesh_instances`` and ``mesh_lease``: one writer per key) and many
watchers. All are made by the registry (ADR 0024). Keys are built from encoded tokens only, so no
key can leave its tenant.
"""

import msgspec

from mcp_proto.ids import is_tenant_id
from mcp_proto.subjects import PLATFORM, encode_token

__all__ = [
    "CATALOG",
    "CONFIG",
    "GRANTS",
    "IDEMPOTENCY",
    "INSTANCES",
    "KEYS",
    "LEASE",
    "LOGINS",
    "OF_PLATFORM",
    "SERVERS",
    "SESSIONS",
    "SWARMS",
    "SWARM_LOG",
    "TASKS",
    "VIRTUALS",
    "VMS",
    "VM_QUOTA",
    "Bucket",
    "key",
    "memory_key",
    "swarm_lease_key",
    "swarm_memory",
    "swarm_object",
    "swarm_objects",
    "tenant_events",
    "tenant_kv",
    "tenant_objects",
]


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one KV bucket, as the registry ensures them.

    Attributes:
        name: bucket name; the stream is ``KV_{name}`` on ``$KV.{name}.>``.
        writer: service that may write.
        history: revisions kept per key.
        memory: memory storage; on a single broker such a bucket dies with it.
        ttl_s: bucket-wide age limit in seconds; 0 = none.
        per_key_ttl: keys may carry ``Nats-TTL``; expiry leaves markers for watchers.
        value_max_bytes: largest value; -1 = broker limit.
        bytes_max: size of the bucket; -1 = none.
    """

    name: str
    writer: str
    history: int = 1
    memory: bool = False
    ttl_s: float = 0.0
    per_key_ttl: bool = False
    value_max_bytes: int = -1
    bytes_max: int = -1

    @property
    def stream(self) -> str:
        """Name of the JetStream stream behind the bucket."""
        return f"KV_{self.name}"


INSTANCES = Bucket(
    name="mesh_instances",
    writer="registry",
    memory=True,
    per_key_ttl=True,
    # 90 bytes per server: a runner of 500 servers still says which it serves.
    value_max_bytes=64 * 1024,
)
"""Heartbeats, ``{service}.{instance}``; each process writes its own key."""
CATALOG = Bucket(
    name="mesh_catalog",
    writer="registry",
    history=5,
    # No value expires; this lets deleted parts of large catalogues leave nothing behind.
    per_key_ttl=True,
    value_max_bytes=512 * 1024,
)
"""What servers offer, ``{tenant}.{server}``."""
SERVERS = Bucket(name="mesh_servers", writer="registry", history=10)
"""Servers added at run time, and restarts that were asked for."""
VIRTUALS = Bucket(name="mesh_virtuals", writer="registry", history=10, value_max_bytes=768 * 1024)
"""Virtual servers, ``{tenant}.{name}``."""
CONFIG = Bucket(name="mesh_config", writer="tenant-auth", history=10, per_key_ttl=True)
"""Tenants, principals, rules and API keys (as HMAC).

Only ``cut.*`` records expire, and those are written once (history and expiry do not mix)."""
KEYS = Bucket(name="mesh_keys", writer="tenant-auth", history=10)
"""Signing keys ``sign.{kid}``, private halves sealed, and sealing keys ``seal.{kid}``, sealed."""
LOGINS = Bucket(name="mesh_logins", writer="tenant-auth", per_key_ttl=True)
"""Login sessions."""
GRANTS = Bucket(
    name="mesh_grants", writer="tenant-auth", per_key_ttl=True, bytes_max=64 * 1024 * 1024
)
"""Delegated grants ``{id}``: which task acts for whom. Each expires with its task.

Not in ``mesh_config``: gateways watch that, and doubt what they know at each of its changes."""
SESSIONS = Bucket(name="mesh_sessions", writer="gateway", per_key_ttl=True)
"""MCP sessions of the old eras; any gateway continues them."""
LEASE = Bucket(name="mesh_lease", writer="registry", per_key_ttl=True)
"""Placement of single-instance servers; each holder writes its own key."""
TASKS = Bucket(
    name="mesh_tasks", writer="tool-runner", per_key_ttl=True, value_max_bytes=768 * 1024
)
"""Durable tasks, ``{tenant}.{principal}.{id}``, large results beside them in parts."""
IDEMPOTENCY = Bucket(
    name="mesh_idempotency", writer="tool-runner", per_key_ttl=True, value_max_bytes=768 * 1024
)
"""What became of calls with an idempotency key, under a digest of whose call it was."""
SWARMS = Bucket(
    name="mesh_swarms",
    writer="swarm-coordinator",
    per_key_ttl=True,
    value_max_bytes=64 * 1024,
)
"""What each swarm is, ``{tenant}.{swarm}``; its log is the truth."""

VMS = Bucket(
    name="mesh_vms",
    writer="vm-spawner",
    per_key_ttl=True,
    # 16 KiB of console, each byte of which can take six as JSON, and as much configuration.
    value_max_bytes=192 * 1024,
)
"""Machines, ``{tenant}.{vmId}``: what shall be and what is; ended ones stay for a day."""
VM_QUOTA = Bucket(name="mesh_vm_quota", writer="vm-spawner", value_max_bytes=512 * 1024)
"""Which machines take of a tenant's quota, ``{tenant}``."""

SWARM_LOG = "MESH_SWARM_LOG"
"""Stream of the swarms' logs, subject ``subjects.task(tenant, "log", swarm)``; not a bucket.

Each message is a batch of events, written by whoever owns the swarm, with the expected sequence of
the subject's last message."""


OF_PLATFORM = (
    # Instances first: every other process waits for it to say that it lives.
    INSTANCES,
    CONFIG,
    KEYS,
    LOGINS,
    GRANTS,
    CATALOG,
    SERVERS,
    VIRTUALS,
    SESSIONS,
    LEASE,
    TASKS,
    IDEMPOTENCY,
    SWARMS,
    VMS,
    VM_QUOTA,
)
"""Every bucket that is there from the first start on, in the order of their making."""


def tenant_kv(tenant: str, bytes_max: int = -1) -> Bucket:
    """The bucket behind the ``kv_*`` tools of one tenant.

    Raises:
        ValueError: not a tenant id (its characters must be legal in a bucket name).
    """
    if not is_tenant_id(tenant):
        raise ValueError(f"not a tenant id: {tenant!r}")
    return Bucket(
        name=f"mesh_t_{tenant}", writer="tool-runner", per_key_ttl=True, bytes_max=bytes_max
    )


def tenant_objects(tenant: str) -> str:
    """Name of the object bucket of one tenant: stream ``OBJ_{name}`` on ``$O.{name}.>``.

    Written by tool-runner.

    Raises:
        ValueError: not a tenant id.
    """
    return tenant_kv(tenant).name


def tenant_events(tenant: str) -> str:
    """Name of the stream of one tenant's events (``subjects.topic``).

    Raises:
        ValueError: not a tenant id.
    """
    return f"EVT_{tenant_kv(tenant).name}"


def swarm_memory(tenant: str, bytes_max: int = -1) -> Bucket:
    """The bucket of the memory of one tenant's swarms, keys by ``memory_key``.

    Raises:
        ValueError: not a tenant id.
    """
    if not is_tenant_id(tenant):
        raise ValueError(f"not a tenant id: {tenant!r}")
    return Bucket(
        name=f"mesh_memory_{tenant}",
        writer="swarm-coordinator",
        per_key_ttl=True,
        value_max_bytes=512 * 1024,
        bytes_max=bytes_max,
    )


def swarm_objects(tenant: str) -> str:
    """Name of the object bucket of one tenant's swarms: stream ``OBJ_{name}`` on ``$O.{name}.>``.

    Raises:
        ValueError: not a tenant id.
    """
    if not is_tenant_id(tenant):
        raise ValueError(f"not a tenant id: {tenant!r}")
    return f"mesh_swarm_{tenant}"


def memory_key(swarm: str, namespace: str, name: str) -> str:
    """Key in ``swarm_memory``: always three tokens.

    By the number of tokens the broker keeps the coordinator out of tenants' own values, which have
    one (``broker_rights``): a wildcard inside a bucket's name does not exist.

    Raises:
        ValueError: a name is empty.
    """
    return ".".join(encode_token(one) for one in (swarm, namespace, name))


def swarm_object(tenant: str, swarm: str, name: str) -> str:
    """Subject of one message of a large value of a swarm, in ``swarm_objects``.

    Two tokens behind ``C``, where objects of tenants have one: see ``memory_key``. Written with
    ``Nats-TTL``, read by direct get of this subject.

    Raises:
        ValueError: not a tenant id, or a name is empty.
    """
    return f"$O.{swarm_objects(tenant)}.C.{encode_token(swarm)}.{encode_token(name)}"


def swarm_lease_key(tenant: str, swarm: str) -> str:
    """Key in ``mesh_lease`` of the owner of a swarm: three tokens, those of servers have two."""
    return key("swarm", tenant, swarm)


def key(*names: str) -> str:
    """A KV key from decoded names; every name is one encoded token.

    Raises:
        ValueError: a name is empty.
    """
    return ".".join(PLATFORM if name == PLATFORM else encode_token(name) for name in names)
