"""What each service may publish and subscribe at the broker: least privilege, from the grammar.

Used by ``mesh up``, the container configuration and the test broker, so that development runs
under the same rights as production. A right here is a wire subject, not a prefix guess.
"""

from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.buckets import Bucket
from mcp_proto.contracts import registry, tasks, tenant_auth
from mcp_proto.subjects import QUEUE, ROOT

__all__ = ["SERVICES", "Rights", "client_rights", "inbox_prefix", "operator_rights", "rights_of"]

SERVICES = ("gateway", "registry", "tenant-auth", "tool-runner")


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """Lists of one NATS user.

    Attributes:
        publish: subjects it may publish to.
        subscribe: subjects it may subscribe to; "subject queue" = only in that queue group.
        publish_deny: exceptions from ``publish``; deny wins.
        replies: cap of ``allow_responses`` (messages per request, for an hour); 0 = off.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    publish_deny: tuple[str, ...] = ()
    replies: int = 100_000


def inbox_prefix(service: str, instance: str) -> str:
    """Own inbox space of one instance, so that nobody hears another's replies.

    Outside ``_INBOX``, which tenants' plain NATS clients use.
    """
    return f"_MESH.{service}.{instance}"


def _read(bucket: Bucket) -> tuple[str, ...]:
    """Read and watch a whole bucket: info, direct get, named filtered consumer, flow control."""
    stream = bucket.stream
    return (
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
        f"$JS.FC.{stream}.>",
        # The second format of flow control, which newer brokers default to.
        f"$JS.FC.*.*.{stream}.>",
    )


def _ensure(stream: str) -> tuple[str, ...]:
    """Create, compare and update one's own stream; never delete."""
    return (
        f"$JS.API.STREAM.CREATE.{stream}",
        f"$JS.API.STREAM.UPDATE.{stream}",
        f"$JS.API.STREAM.INFO.{stream}",
    )


def _own(bucket: Bucket) -> tuple[str, ...]:
    """Ensure, read and write a bucket."""
    return (*_ensure(bucket.stream), *_read(bucket), f"$KV.{bucket.name}.>")


def _every(service: str, instance: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    publish = (
        "$SYS.REQ.USER.INFO",  # the broker's clock, by which start-by times are judged
        "$JS.API.INFO",
        f"$KV.{buckets.INSTANCES.name}.{service}.{instance}",
        f"{ROOT}.*.evt.*.{instance}",
        f"{ROOT}.*.inst.*.ping",
        f"{ROOT}.*.blob.>",
    )
    subscribe = (
        f"{inbox_prefix(service, instance)}.>",
        f"{ROOT}.*.inst.{instance}.>",
        f"{ROOT}.*.blob.{instance}.>",
        "$SRV.>",
    )
    return publish, subscribe


def _gateway(instance: str) -> Rights:
    publish, subscribe = _every("gateway", instance)
    return Rights(
        publish=(
            *publish,
            f"{ROOT}.*.call.>",
            f"{ROOT}.*.rpc.>",
            f"{ROOT}.*.inst.>",
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
                )
            ),
            "$SRV.>",
            *_own(buckets.SESSIONS),
            *_read(buckets.CATALOG),
            *_read(buckets.CONFIG),
            *_read(buckets.KEYS),
            *_read(buckets.TASKS),
            *_read(buckets.VIRTUALS),
        ),
        subscribe=(*subscribe, f"{ROOT}.*.evt.>", f"{ROOT}.*.gw.> {QUEUE}"),
    )


def _registry(instance: str) -> Rights:
    publish, subscribe = _every("registry", instance)
    return Rights(
        publish=(
            *publish,
            *_own(buckets.CATALOG),
            *_own(buckets.SERVERS),
            *_own(buckets.VIRTUALS),
            *_own(buckets.INSTANCES),
            *_own(buckets.LEASE),
            *_read(buckets.KEYS),
            f"{ROOT}.*.evt.list_changed.*",
            *(right for name in _SHARED_STREAMS for right in _ensure(name)),
        ),
        subscribe=(*subscribe, f"{ROOT}._.svc.registry.* registry"),
        replies=1,
    )


_SHARED_STREAMS = ("MESH_TASKS", "MESH_EVENTS", "MESH_AUDIT", "MESH_LOGS", "MESH_DLQ", "MESH_ADV")


def _tenant_auth(instance: str) -> Rights:
    publish, subscribe = _every("tenant-auth", instance)
    return Rights(
        publish=(
            *publish,
            *_own(buckets.CONFIG),
            *_own(buckets.KEYS),
            *_own(buckets.LOGINS),
        ),
        subscribe=(*subscribe, f"{ROOT}._.svc.tenant-auth.* tenant-auth"),
        replies=1,
    )


_STORED_RESULTS = ("$O.*.C.*", "$O.*.M.*", "$JS.API.DIRECT.GET.*")
"""Object buckets, one per tenant: chunks and descriptions; chunks are read by sequence."""


_NOT_OF_RUNNERS = (
    buckets.CATALOG,
    buckets.CONFIG,
    buckets.KEYS,
    buckets.LOGINS,
    buckets.SESSIONS,
    buckets.SERVERS,
    buckets.VIRTUALS,
)
"""Buckets that others write; a runner, which makes buckets for tenants, keeps off these."""


def _tool_runner(instance: str) -> Rights:
    publish, subscribe = _every("tool-runner", instance)
    return Rights(
        publish=(
            *publish,
            registry.put.subject,
            registry.remove.subject,
            registry.list_servers.subject,
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
            "$JS.API.STREAM.CREATE.*",
            "$JS.API.STREAM.UPDATE.*",
            "$JS.API.STREAM.INFO.*",
            *_STORED_RESULTS,
            "$JS.API.DIRECT.GET.*.>",
            "$JS.API.STREAM.MSG.GET.*",
            "$JS.API.CONSUMER.CREATE.*.>",
            "$JS.API.CONSUMER.DELETE.*.>",
            "$JS.FC.>",
        ),
        publish_deny=(
            *(f"$KV.{bucket.name}.>" for bucket in _NOT_OF_RUNNERS),
            *(
                f"$KV.{buckets.INSTANCES.name}.{service}.>"
                for service in SERVICES
                if service != "tool-runner"
            ),
            *(
                f"$JS.API.STREAM.{verb}.{bucket.stream}"
                for verb in ("CREATE", "UPDATE")
                for bucket in (*_NOT_OF_RUNNERS, buckets.INSTANCES, buckets.LEASE)
            ),
            *(
                right
                for bucket in (buckets.CONFIG, buckets.LOGINS, buckets.SESSIONS)
                for right in _read(bucket)
            ),
        ),
        subscribe=(
            *subscribe,
            f"{ROOT}.*.call.> {QUEUE}",
            f"{ROOT}.*.rpc.> {QUEUE}",
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
            f"{ROOT}.{tenant}.blob.>",
            "$SRV.>",
        ),
        subscribe=("_INBOX.>", f"{ROOT}.{tenant}.evt.>"),
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
    "stdio": _stdio,
}


def rights_of(service: str, instance: str) -> Rights:
    """Rights of one instance of a service (``SERVICES`` or ``stdio``).

    Raises:
        KeyError: no such service.
    """
    return _TABLE[service](instance)
