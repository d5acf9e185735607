"""The few JetStream API calls the looking-glass commands need, typed and without side effects.

Requests go to the API subjects themselves (ADR-8, ADR-20): what the stock client offers on top
misreads expiry markers or hides fields a person debugging wants to see.
"""

import base64
from typing import Any, TypeVar

import msgspec

from mesh_cli.connection import Connection
from mesh_cli.exchange import Request, exchange
from mesh_cli.failure import Exit, Failure

__all__ = [
    "AccountInfo",
    "ConsumerInfo",
    "StoredMessage",
    "StreamInfo",
    "account_info",
    "api",
    "bucket_stream",
    "consumers",
    "is_marker",
    "last_of",
    "message_at",
    "stream_info",
    "streams",
]

T = TypeVar("T")
_PAGES_MAX = 100


class _ApiError(msgspec.Struct, frozen=True):
    code: int
    description: str = ""
    err_code: int = 0


class _Failed(msgspec.Struct, frozen=True):
    error: _ApiError | None = None


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a stream, as the broker has them."""

    name: str
    subjects: tuple[str, ...] = ()
    description: str = ""
    retention: str = ""
    storage: str = ""
    num_replicas: int = 1
    max_age: int = 0
    max_bytes: int = -1
    max_msg_size: int = -1
    max_msgs: int = -1
    max_msgs_per_subject: int = -1
    allow_direct: bool = False
    allow_msg_ttl: bool = False
    discard: str = ""


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream holds now."""

    messages: int
    bytes: int
    first_seq: int = 0
    last_seq: int = 0
    first_ts: str = ""
    last_ts: str = ""
    consumer_count: int = 0
    num_subjects: int = 0
    subjects: dict[str, int] | None = None


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``STREAM.INFO``."""

    config: StreamConfig
    state: StreamState
    created: str = ""


class ConsumerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a consumer."""

    durable_name: str = ""
    deliver_subject: str = ""
    deliver_policy: str = ""
    ack_policy: str = ""
    ack_wait: int = 0
    max_deliver: int = -1
    filter_subject: str = ""
    filter_subjects: tuple[str, ...] = ()


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``CONSUMER.INFO``."""

    stream_name: str
    name: str
    config: ConsumerConfig
    created: str = ""
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_waiting: int = 0
    num_pending: int = 0


class AccountInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``INFO``: what the account uses."""

    memory: int
    storage: int
    streams: int
    consumers: int


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message in a stream; ``headers`` are decoded, the last of repeated ones counts."""

    subject: str
    seq: int
    time: str
    data: bytes = b""
    headers: dict[str, str] = {}


class _Wire(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    seq: int
    time: str
    data: str = ""
    hdrs: str = ""


class _Message(msgspec.Struct, frozen=True):
    message: _Wire


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    total: int = 0
    offset: int = 0
    limit: int = 0


class _StreamPage(_Page, frozen=True, kw_only=True):
    streams: tuple[StreamInfo, ...] | None = None


class _ConsumerPage(_Page, frozen=True, kw_only=True):
    consumers: tuple[ConsumerInfo, ...] | None = None


async def api(
    client: Connection, operation: str, answer: type[T], params: dict[str, Any], timeout_s: float
) -> T:
    """One request of the JetStream API.

    Raises:
        Failure: JetStream is off or out of reach for this credential, or says no.
    """
    subject = f"$JS.API.{operation}"
    body = msgspec.json.encode(params) if params else b""
    got = await exchange(client, Request(subject=subject, body=body, timeout_s=timeout_s))
    if not got:
        raise Failure(f"no answer on {subject}; the stream may be down", code=Exit.REFUSED)
    data = got[0][0].data
    failed = msgspec.json.decode(data, type=_Failed).error
    if failed is not None:
        raise Failure(failed.description or f"error {failed.code}", code=Exit.REFUSED)
    return msgspec.json.decode(data, type=answer)


async def streams(client: Connection, timeout_s: float) -> list[StreamInfo]:
    """Every stream of the account, buckets included, sorted by name."""
    found: list[StreamInfo] = []
    for _ in range(_PAGES_MAX):
        page = await api(client, "STREAM.LIST", _StreamPage, {"offset": len(found)}, timeout_s)
        found.extend(page.streams or ())
        if not page.streams or len(found) >= page.total:
            break
    return sorted(found, key=lambda info: info.config.name)


async def consumers(client: Connection, stream: str, timeout_s: float) -> list[ConsumerInfo]:
    """Every consumer of a stream, sorted by name."""
    found: list[ConsumerInfo] = []
    for _ in range(_PAGES_MAX):
        page = await api(
            client, f"CONSUMER.LIST.{stream}", _ConsumerPage, {"offset": len(found)}, timeout_s
        )
        found.extend(page.consumers or ())
        if not page.consumers or len(found) >= page.total:
            break
    return sorted(found, key=lambda info: info.name)


async def stream_info(
    client: Connection, stream: str, timeout_s: float, *, subjects: str = ""
) -> StreamInfo:
    """One stream; with ``subjects`` (a filter) also the messages per subject."""
    params = {"subjects_filter": subjects} if subjects else {}
    return await api(client, f"STREAM.INFO.{stream}", StreamInfo, params, timeout_s)


async def account_info(client: Connection, timeout_s: float) -> AccountInfo:
    """What the account stores."""
    return await api(client, "INFO", AccountInfo, {}, timeout_s)


async def last_of(
    client: Connection, stream: str, subject: str, timeout_s: float
) -> StoredMessage | None:
    """The last message of a subject; None when there is none."""
    return await _get(client, stream, {"last_by_subj": subject}, timeout_s)


async def message_at(
    client: Connection, stream: str, seq: int, timeout_s: float, *, subject: str = ""
) -> StoredMessage | None:
    """The message at ``seq`` or, with ``subject``, the first one from there on."""
    params: dict[str, Any] = {"seq": seq}
    if subject:
        params["next_by_subj"] = subject
    return await _get(client, stream, params, timeout_s)


async def _get(
    client: Connection, stream: str, params: dict[str, Any], timeout_s: float
) -> StoredMessage | None:
    try:
        found = await api(client, f"STREAM.MSG.GET.{stream}", _Message, params, timeout_s)
    except Failure as failure:
        if "no message found" in failure.what:
            return None
        raise
    wire = found.message
    return StoredMessage(
        subject=wire.subject,
        seq=wire.seq,
        time=wire.time,
        data=base64.b64decode(wire.data),
        headers=_headers(base64.b64decode(wire.hdrs)) if wire.hdrs else {},
    )


def _headers(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for row in block.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = row.partition(":")
        if colon:
            headers[name] = value.strip()
    return headers


def is_marker(headers: dict[str, str] | None) -> str:
    """``DEL``, ``PURGE`` or the reason of an expiry marker; "" when the key has a value."""
    table = headers or {}
    return table.get("KV-Operation", "") or table.get("Nats-Marker-Reason", "")


def bucket_stream(bucket: str) -> str:
    """Stream behind a bucket; accepts the stream's own name too."""
    return bucket if bucket.startswith("KV_") else f"KV_{bucket}"
