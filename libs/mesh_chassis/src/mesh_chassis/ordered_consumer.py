"""What an ordered push consumer says: its configuration, its numbering, its markers.

Pure: the watch feeds in what arrives and asks whether the consumer can still be trusted.
"""

import asyncio
import secrets
from collections.abc import Mapping

import msgspec

__all__ = [
    "ConsumerConfig",
    "ConsumerCreated",
    "ConsumerDeleted",
    "CreateConsumer",
    "Delivery",
    "OrderedConsumer",
    "is_marker",
    "parse_delivery",
]

_HEARTBEAT_NS = 500_000_000
_INACTIVE_NS = 10_000_000_000


class Delivery(msgspec.Struct, frozen=True):
    """What the reply subject of a delivered message says."""

    stream_seq: int
    consumer_seq: int
    pending: int


class ConsumerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Consumer configuration; field names are those of the broker's API."""

    name: str
    deliver_subject: str
    filter_subject: str
    headers_only: bool
    deliver_policy: str = "last_per_subject"
    ack_policy: str = "none"
    replay_policy: str = "instant"
    max_deliver: int = 1
    flow_control: bool = True
    idle_heartbeat: int = _HEARTBEAT_NS
    mem_storage: bool = True
    num_replicas: int = 1
    inactive_threshold: int = _INACTIVE_NS


class CreateConsumer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of the request that creates one."""

    stream_name: str
    config: ConsumerConfig
    action: str = "create"


class ConsumerCreated(msgspec.Struct, frozen=True):
    """The answer: how many messages the snapshot holds."""

    num_pending: int = 0


class ConsumerDeleted(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    success: bool = False


def parse_delivery(reply: str) -> Delivery:
    """Read ``$JS.ACK.…`` in its first format (9 tokens) or its second (11 or 12).

    Raises:
        ValueError: neither.
    """
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) not in {9, 11, 12}:
        raise ValueError(f"not an acknowledgement subject: {reply!r}")
    # Both end alike behind the consumer: delivered, stream, consumer, time, pending.
    at = 4 if len(tokens) == 9 else 6
    return Delivery(
        stream_seq=int(tokens[at + 1]),
        consumer_seq=int(tokens[at + 2]),
        pending=int(tokens[at + 4]),
    )


def is_marker(headers: Mapping[str, str] | None) -> bool:
    """Whether a stored message says that its key is gone: deleted, purged or expired."""
    if not headers:
        return False
    return "Nats-Marker-Reason" in headers or headers.get("KV-Operation") in {"DEL", "PURGE"}


class OrderedConsumer:
    """One life of the consumer: its numbering, and whether it can still be trusted."""

    def __init__(self, deliver: str) -> None:
        self.name = f"w{secrets.token_hex(8)}"
        self.deliver = f"{deliver}.{self.name}"
        self.broken = asyncio.Event()
        self.complete = False
        self.expected: int | None = None
        """Messages the snapshot holds; None until the answer to the creation is here."""
        self.seen: set[str] = set()
        self._last_seq = 0

    def accept(self, delivery: Delivery) -> bool:
        """Count a delivery; False, and broken, when one before it is missing."""
        if delivery.consumer_seq != self._last_seq + 1:
            self.broken.set()
            return False
        self._last_seq = delivery.consumer_seq
        return True

    def heartbeat(self, last: str) -> None:
        """Compare with the number of the last message the broker says it sent."""
        if last.isdigit() and int(last) != self._last_seq:
            self.broken.set()

    def drained(self, pending: int | None) -> bool:
        """Whether the snapshot is complete now."""
        return pending == 0 or (self.expected is not None and self._last_seq >= self.expected)
