"""What each service may publish and subscribe at the broker: least privilege, from the grammar.

Used by ``mesh up``, the container configuration and the test broker, so that development runs
under the same rights as production. A right here is a wire subject, not a prefix guess.
"""

from collections.abc import Callable, Mapping

from mcp_proto import agent_protocol, buckets, swarm_rights, vm_rights
from mcp_proto.contracts import provision, registry, swarm, tasks, tenant_auth
from mcp_proto.names import SWARM_COORDINATOR, VM_SPAWNER
from mcp_proto.rights_parts import (
    Rights,
    discovered,
    every,
    inbox_prefix,
    own,
    read,
    read_stream,
)
from mcp_proto.subjects import ANY, QUEUE, ROOT, encode_token

__all__ = [
    "AGENT",
    "SERVICES",
    "Rights",
    "agent_rights",
    "client_rights",
    "inbox_prefix",
    "leaf_rights",
    "operator_rights",
    "rights_of",
]

SERVICES = (
    "gateway",
    "registry",
    "tenant-auth",
    "tool-runner",
    SWARM_COORDINATOR,
    swarm.HOST,
    VM_SPAWNER,
)

AGENT = "agent"
"""Service name of every program that serves with the SDK."""


_MAKE_STREAMS = (
    "$JS.API.STREAM.CREATE.*",
    "$JS.API.STREAM.UPDATE.*",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.NAMES",
)
"""Create, compare and update any stream, never delete: the registry's alone.

The broker does not look into the body of such a request. A stream with ``republish`` writes any
subject, one with ``sources`` or ``mirror`` reads any other: this right is all rights."""


def _gateway(instance: str) -> Rights:
    publish, subscribe = every("gateway", instance)
    return Rights(
        publish=(
            *publish,
            f"{ROOT}.*.call.>",
            f"{ROOT}.*.rpc.>",
            # Not inst.>: what hosts of agents and owners of swarms tell each other is theirs.
            f"{ROOT}.*.inst.*.cancel",
            f"{ROOT}.*.inst.*.answer",
            # Not svc.>: administration is for operators; a gateway that is taken over must not
            # be able to make keys or servers.
            *(
                operation.subject
                for operation in (
                    tenant_auth.authenticate,
                    tenant_auth.login,
                    tenant_auth.logout,
                    registry.list_servers,
                    tasks.create,
                    tasks.update,
                    tasks.cancel,
                    *(
                        operation.at(SWARM_COORDINATOR)
                        for operation in (tasks.create, tasks.update, tasks.cancel)
                    ),
                )
            ),
            "$SRV.>",
            *own(buckets.SESSIONS),
            *read(buckets.CATALOG),
            *read(buckets.CONFIG),
            *read(buckets.KEYS),
            *read(buckets.TASKS),
            *read(buckets.VIRTUALS),
            # Exposed tools live, as agents of the Synadia Agent Protocol.
            "agents.hb.*.*.*",
        ),
        subscribe=(
            *subscribe,
            f"{ROOT}.*.evt.>",
            f"{ROOT}.*.gw.> {QUEUE}",
            f"agents.prompt.*.*.* {agent_protocol.QUEUE}",
            f"agents.status.*.*.* {agent_protocol.QUEUE}",
            *discovered(agent_protocol.SERVICE, ANY),
        ),
    )


def _registry(instance: str) -> Rights:
    publish, subscribe = every("registry", instance)
    return Rights(
        publish=(
            *publish,
            *own(buckets.CATALOG),
            *own(buckets.SERVERS),
            *own(buckets.VIRTUALS),
            *own(buckets.INSTANCES),
            *own(buckets.LEASE),
            *read(buckets.KEYS),
            f"{ROOT}.*.evt.list_changed.*",
            *_MAKE_STREAMS,
        ),
        subscribe=(
            *subscribe,
            f"{ROOT}._.svc.registry.* registry",
            # Agents of any tenant register under their own tenant's token.
            *(
                f"{operation.of_tenant(ANY).on(ANY).subject} registry"
                for operation in (registry.put, registry.remove)
            ),
        ),
        replies=1,
    )


def _tenant_auth(instance: str) -> Rights:
    publish, subscribe = every("tenant-auth", instance)
    return Rights(
        publish=(
            *publish,
            *own(buckets.CONFIG),
            *own(buckets.KEYS),
            *own(buckets.LOGINS),
            *own(buckets.GRANTS),
        ),
        subscribe=(
            *subscribe,
            f"{ROOT}._.svc.tenant-auth.* tenant-auth",
            # The broker asks who a machine is (auth callout).
            "$SYS.REQ.USER.AUTH tenant-auth",
        ),
        replies=1,
    )


_STORED_RESULTS = ("$O.*.C.*", "$O.*.M.*", "$JS.API.DIRECT.GET.*")
"""Object buckets, one per tenant: chunks and descriptions; chunks are read by sequence."""


_NOT_OF_RUNNERS = (
    buckets.CATALOG,
    buckets.CONFIG,
    buckets.KEYS,
    buckets.LOGINS,
    buckets.GRANTS,
    buckets.SESSIONS,
    buckets.SERVERS,
    buckets.VIRTUALS,
    buckets.SWARMS,
    buckets.VMS,
    buckets.VM_QUOTA,
)
"""Buckets that others write; a runner, which writes the buckets of tenants, keeps off these."""
_SECRETS = (buckets.CONFIG, buckets.LOGINS, buckets.GRANTS, buckets.SESSIONS)
"""Of these, what a runner does not read either."""


def _tool_runner(instance: str) -> Rights:
    publish, subscribe = every("tool-runner", instance)
    return Rights(
        publish=(
            *publish,
            registry.put.on(ANY).subject,
            registry.remove.on(ANY).subject,
            registry.list_servers.subject,
            provision.ensure.subject,
            # The source of this event is the server, not the runner that happens to hold it.
            f"{ROOT}.*.evt.updated.*",
            f"{ROOT}.*.evt.task.*",
            # The runner that made a durable task calls the server as a gateway does, with the
            # submitter's signed context.
            f"{ROOT}.*.call.>",
            f"{ROOT}.*.rpc.>",
            f"{ROOT}.*.inst.*.cancel",
            f"{ROOT}.*.inst.*.answer",
            # A bucket per tenant, and the broker knows no wildcard inside a token: so the
            # bucket token is open here and every bucket of another writer is denied below. A
            # tenant's key is one token, so other instances' heartbeats (two) stay out of reach.
            "$KV.*.*",
            f"$KV.{buckets.LEASE.name}.>",
            f"$KV.{buckets.TASKS.name}.>",
            f"$KV.{buckets.IDEMPOTENCY.name}.>",
            "$JS.API.STREAM.INFO.*",
            *_STORED_RESULTS,
            # Tenants' events, sent and heard for their tools.
            f"{ROOT}.*.topic.*",
            "$JS.API.DIRECT.GET.*.>",
            "$JS.API.STREAM.MSG.GET.*",
            "$JS.API.CONSUMER.CREATE.*.>",
            "$JS.API.CONSUMER.DELETE.*.>",
            "$JS.FC.>",
            # Servers of type synadia find and prompt agents of the Synadia Agent Protocol.
            f"$SRV.INFO.{agent_protocol.SERVICE}",
            "agents.prompt.*.*.*",
        ),
        publish_deny=(
            *(f"$KV.{bucket.name}.>" for bucket in _NOT_OF_RUNNERS),
            *(
                f"$KV.{buckets.INSTANCES.name}.{service}.>"
                for service in SERVICES
                if service != "tool-runner"
            ),
            *(right for bucket in _SECRETS for right in read(bucket)),
            swarm_rights.lease_of_swarms,
            *read_stream(buckets.SWARM_LOG),
        ),
        subscribe=(
            *subscribe,
            f"{ROOT}.*.call.> {QUEUE}",
            f"{ROOT}.*.rpc.> {QUEUE}",
            f"{ROOT}.*.topic.*",
            f"{ROOT}._.svc.tool-runner.* tool-runner",
        ),
    )


def _stdio(instance: str) -> Rights:
    """The stdio edge: it asks a gateway for everything, so it hears nobody's events."""
    return Rights(
        publish=(
            "$SYS.REQ.USER.INFO",
            f"{ROOT}.*.gw.>",
            f"{ROOT}.*.inst.*.cancel",
            f"{ROOT}.*.inst.*.ping",
            f"{ROOT}.*.blob.>",
        ),
        subscribe=(
            f"{inbox_prefix('stdio', instance)}.>",
            f"{ROOT}.*.blob.{instance}.>",
        ),
    )


def client_rights(tenant: str) -> Rights:
    """A plain NATS client of one tenant: call its tools, see service discovery."""
    return Rights(
        publish=(
            f"{ROOT}.{tenant}.call.>",
            f"{ROOT}.{tenant}.rpc.>",
            f"{ROOT}.{tenant}.gw.>",
            f"{ROOT}.{tenant}.inst.*.cancel",
            f"{ROOT}.{tenant}.inst.*.ping",
            f"{ROOT}.{tenant}.blob.>",
            "$SRV.>",
            "$SYS.REQ.USER.INFO",
            # Agents of this tenant, in the Synadia Agent Protocol: the owner token is the tenant.
            f"agents.prompt.*.{tenant}.*",
            f"agents.status.*.{tenant}.*",
        ),
        # Every heartbeat, because the protocol's SDK subscribes to nothing less; it tells what
        # the records of ``$SRV.INFO`` tell anyway.
        subscribe=("_INBOX.>", f"{ROOT}.{tenant}.evt.>", "agents.hb.*.*.*"),
        replies=0,
    )


def agent_rights(tenant: str, instance: str, names: tuple[str, ...] = ()) -> Rights:
    """A program of one tenant that serves tools with the SDK.

    Whoever may take a tenant's calls can answer them with anything: give an agent the names it
    serves, unless it is development.

    Args:
        tenant: whose agent.
        instance: unique among all processes of the mesh.
        names: servers it may be; () = any of the tenant's.
    """
    publish, subscribe = every(AGENT, instance)
    home = f"{ROOT}.{encode_token(tenant)}"
    servers = [f"{encode_token(name)}." for name in names] or [""]
    return Rights(
        publish=(
            *(right.replace(f"{ROOT}.*.", f"{home}.") for right in publish),
            *(
                operation.of_tenant(tenant).on(name).subject
                for operation in (registry.put, registry.remove)
                for name in names or (ANY,)
            ),
            f"{home}.gw.>",
            f"{home}.inst.*.cancel",
            # It may take the place of an agent of a swarm, and then speaks as that agent's host.
            *swarm_rights.from_host(encode_token(tenant), instance),
            f"{home}.topic.>",
            *(f"{home}.evt.updated.{server.rstrip('.') or '*'}" for server in servers),
            *read(buckets.KEYS),
        ),
        subscribe=(
            *subscribe,
            *(f"{home}.call.{server}> {QUEUE}" for server in servers),
            *(f"{home}.rpc.{server}> {QUEUE}" for server in servers),
            f"{home}.topic.>",
        ),
    )


def leaf_rights(tenant: str, agents: Mapping[str, tuple[str, ...]]) -> Rights:
    """A broker elsewhere that dials in (a leaf node) with agents of one tenant behind it.

    The broker asks a leaf's right without its queue group, and grants a leaf no replies of the
    moment: so subscriptions stand without queue, and the inboxes of those who call agents are
    open. Reply subjects cannot be guessed (``ReplyMux``); no inbox but the agents' own is heard.

    Args:
        tenant: whose agents.
        agents: instance id -> servers that it may be.
    """
    each = [agent_rights(tenant, instance, names) for instance, names in agents.items()]
    own = {"$SYS.REQ.USER.INFO"}  # the leaf's broker answers it
    return Rights(
        publish=(
            *dict.fromkeys(right for one in each for right in one.publish if right not in own),
            f"{inbox_prefix('gateway', '*')}.>",
            f"{inbox_prefix('tool-runner', '*')}.>",
            f"{inbox_prefix(SWARM_COORDINATOR, '*')}.>",
        ),
        subscribe=tuple(
            dict.fromkeys(
                right.partition(" ")[0]
                for one in each
                for right in one.subscribe
                if not right.startswith("$SRV.")
            )
        ),
        replies=0,
    )


def operator_rights() -> Rights:
    """The person at the keyboard (``mesh`` command): everything in the account."""
    return Rights(publish=(">",), subscribe=(">",))


_TABLE: dict[str, Callable[[str], Rights]] = {
    "gateway": _gateway,
    "registry": _registry,
    "tenant-auth": _tenant_auth,
    "tool-runner": _tool_runner,
    SWARM_COORDINATOR: swarm_rights.coordinator,
    swarm.HOST: swarm_rights.agent_host,
    VM_SPAWNER: vm_rights.spawner,
    "stdio": _stdio,
}


def rights_of(service: str, instance: str) -> Rights:
    """Rights of one instance of a service (``SERVICES`` or ``stdio``).

    Raises:
        KeyError: no such service.
    """
    return _TABLE[service](instance)
