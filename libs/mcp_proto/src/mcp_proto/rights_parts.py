"""What the lists of rights are made of: reading a bucket, writing it, being a process."""

import msgspec

from mcp_proto import buckets
from mcp_proto.buckets import Bucket
from mcp_proto.subjects import ROOT

__all__ = ["Rights", "discovered", "every", "inbox_prefix", "own", "read", "read_stream"]


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


def read(bucket: Bucket) -> tuple[str, ...]:
    """Read and watch a whole bucket."""
    return read_stream(bucket.stream)


def read_stream(stream: str) -> tuple[str, ...]:
    """Read and watch a whole stream: info, direct get, named filtered consumer, flow control."""
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


def own(bucket: Bucket) -> tuple[str, ...]:
    """Read and write a whole bucket."""
    return (*read(bucket), f"$KV.{bucket.name}.>")


def every(service: str, instance: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What every process of the mesh may: (publish, subscribe)."""
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
        *discovered(service, instance),
    )
    return publish, subscribe


def discovered(service: str, instance: str) -> tuple[str, ...]:
    """Answer ADR-32 discovery: questions to everybody, to the service, and to this instance.

    Not ``$SRV.>``: who hears a question to others can answer it in their place. Nor ``$SRV.*``: to
    the broker a subscription to ``$SRV.>`` is covered by it, ``>`` being a token like any other.
    """
    return tuple(
        f"$SRV.{verb}{asked}"
        for verb in ("PING", "INFO", "STATS")
        for asked in ("", f".{service}", f".{service}.{instance}")
    )
