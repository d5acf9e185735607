"""What the coordinator of swarms and the hosts of their agents may do at the broker.

What a host says has the host's own token at the end of its subject, so a result, a ballot or a
beat in another's name is refused here. What the coordinator keeps for tenants is told apart from
what tenants keep themselves by the number of tokens (``buckets.memory_key``, ``swarm_object``):
a bucket per tenant would need a wildcard inside a token, which no broker has.
"""

from mcp_proto import agent_protocol, buckets, subjects
from mcp_proto.contracts import provision, registry, swarm, tenant_auth
from mcp_proto.names import SWARM_COORDINATOR, SWARM_SERVER
from mcp_proto.rights_parts import Rights, every, read, read_stream
from mcp_proto.subjects import ANY, QUEUE, ROOT

__all__ = [
    "agent_host",
    "coordinator",
    "from_host",
    "lease_of_swarms",
]

_VERBS = ("attach", "beat", "result", "progress")
"""What hosts say to owners: ``contracts.swarm``."""
_ANY_SWARM = f"{ROOT}.*.inst.*"
_OF_OTHERS = (
    buckets.CATALOG,
    buckets.CONFIG,
    buckets.GRANTS,
    buckets.IDEMPOTENCY,
    buckets.KEYS,
    buckets.LOGINS,
    buckets.SERVERS,
    buckets.SESSIONS,
    buckets.VIRTUALS,
    buckets.VMS,
    buckets.VM_QUOTA,
)
"""Buckets that others write, whose keys can have three tokens or more."""
_SECRETS = (
    buckets.CONFIG,
    buckets.GRANTS,
    buckets.IDEMPOTENCY,
    buckets.LOGINS,
    buckets.SESSIONS,
)
"""Buckets that the coordinator does not read either."""

_lease = f"$KV.{buckets.LEASE.name}.swarm"

lease_of_swarms = f"{_lease}.>"
"""Leases of swarms: the coordinator's, and nobody else's."""


def from_host(tenant: str, host: str) -> tuple[str, ...]:
    """What a host may say to the owners of swarms, as itself.

    Args:
        tenant: token of the tenant; ``*`` = of any.
        host: instance id.
    """
    head = f"{ROOT}.{tenant}.inst.*"
    sender = subjects.encode_token(host)
    return tuple(f"{head}.{verb}.{sender}" for verb in _VERBS)


def coordinator(instance: str) -> Rights:
    """One replica of the swarm-coordinator."""
    publish, subscribe = every(SWARM_COORDINATOR, instance)
    return Rights(
        publish=(
            *publish,
            *_asked_of_others(),
            *_told(),
            *_stored(),
        ),
        publish_deny=(
            *(f"$KV.{bucket.name}.>" for bucket in _OF_OTHERS),
            *(right for bucket in _SECRETS for right in read(bucket)),
        ),
        subscribe=(
            *subscribe,
            f"{ROOT}.*.call.{SWARM_SERVER}.> {QUEUE}",
            f"{ROOT}.*.rpc.{SWARM_SERVER}.> {QUEUE}",
            f"{subjects.service(SWARM_COORDINATOR, ANY)} {SWARM_COORDINATOR}",
            f"{_ANY_SWARM}.swarm",
            *(f"{_ANY_SWARM}.{verb}.*" for verb in _VERBS),
        ),
    )


def _asked_of_others() -> tuple[str, ...]:
    return (
        tenant_auth.delegate.subject,
        tenant_auth.exchange.subject,
        tenant_auth.revoke_grant.subject,
        registry.put.on(SWARM_SERVER).subject,
        registry.remove.on(SWARM_SERVER).subject,
        provision.ensure.subject,
        swarm.bid_subject(),
        # To owners (swarm), hosts (spawn, work, agent) and whoever is pinged or cancelled.
        *(f"{_ANY_SWARM}.{verb}" for verb in ("swarm", "spawn", "work", "agent", "cancel")),
    )


def _told() -> tuple[str, ...]:
    return (
        f"{ROOT}.*.evt.swarm.*",
        f"{ROOT}.*.evt.task.*",
        f"{ROOT}.*.evt.updated.{SWARM_SERVER}",
    )


def _stored() -> tuple[str, ...]:
    return (
        f"{ROOT}.*.task.log.*",
        *read_stream(buckets.SWARM_LOG),
        f"$JS.API.STREAM.PURGE.{buckets.SWARM_LOG}",
        f"$KV.{buckets.SWARMS.name}.>",
        *read(buckets.SWARMS),
        f"$KV.{buckets.TASKS.name}.>",
        *read(buckets.TASKS),
        f"{_lease}.*.*",
        *read(buckets.LEASE),
        *read(buckets.INSTANCES),
        *read(buckets.KEYS),
        # Memory of swarms, a bucket per tenant: keys of exactly three tokens.
        "$KV.*.*.*.*",
        "$JS.API.DIRECT.GET.*.$KV.*.*.*.*",
        "$JS.API.CONSUMER.CREATE.*.*.$KV.*.*.>",
        "$JS.API.CONSUMER.DELETE.*.*",
        "$JS.API.STREAM.MSG.GET.*",
        "$JS.FC.>",
        # Large values of swarms, an object bucket per tenant: names of exactly two tokens.
        "$O.*.C.*.*",
        "$JS.API.DIRECT.GET.*.$O.*.C.*.*",
        "$JS.API.STREAM.INFO.*",
    )


def agent_host(instance: str) -> Rights:
    """A host of agents that belongs to the platform and runs those of any tenant.

    What its agents do they ask of a gateway, with the submitter's signed context.
    """
    publish, subscribe = every(swarm.HOST, instance)
    return Rights(
        publish=(
            *publish,
            *from_host("*", instance),
            f"{ROOT}.*.gw.>",
            f"{ROOT}.*.inst.*.cancel",
            f"$SRV.INFO.{agent_protocol.SERVICE}",
            "agents.prompt.*.*.*",
        ),
        subscribe=(
            *subscribe,
            # No queue group: every host makes its own offer.
            swarm.bid_subject(),
        ),
    )
