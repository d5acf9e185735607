"""Streams: ensured by the registry from an explicit configuration, written with a receipt.

Ensure is create, compare, update, never delete: what is stored outlives every deployment. A
setting an operator added (placement, metadata) and a raised replica count survive an update.
"""

import logging
from collections.abc import Mapping
from typing import Literal

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import (
    STREAM_NOT_FOUND,
    ApiError,
    Conflict,
    PubAck,
    api,
    stored_write,
)

__all__ = ["Conflict", "Made", "PubAck", "StreamConfig", "ensure_stream", "make_stream", "publish"]

NS = 1_000_000_000
"""Nanoseconds per second: the API counts time in nanoseconds."""
DEDUP_NS = 120 * NS
"""For so long an equal ``Nats-Msg-Id`` is dropped; the broker wants it no longer than the age."""
_NAME_IN_USE = 10058
_COPIES = frozenset({"mirror", "republish", "sources", "subject_transform"})

_log = logging.getLogger(__name__)


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry fixes about a stream; field names are those of the broker's API.

    Attributes:
        name: stream name, ``[A-Za-z0-9_-]+``: a dot makes it unreachable.
        subjects: what it captures; never ``call``, ``rpc``, ``inst``, ``blob``, ``gw``, ``svc``.
        max_age: nanoseconds; 0 = no limit.
        duplicate_window: nanoseconds in which an equal ``Nats-Msg-Id`` is dropped.
        subject_delete_marker_ttl: nanoseconds a marker of an expired message stays; 0 = none.
    """

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "workqueue", "interest"] = "limits"
    storage: Literal["file", "memory"] = "file"
    discard: Literal["old", "new"] = "old"
    compression: Literal["none", "s2"] = "none"
    num_replicas: int = 1
    max_consumers: int = -1
    max_msgs: int = -1
    max_bytes: int = -1
    max_age: int = 0
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    duplicate_window: int = DEDUP_NS
    discard_new_per_subject: bool = False
    allow_direct: bool = False
    allow_rollup_hdrs: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    no_ack: bool = False
    allow_msg_ttl: bool = False
    subject_delete_marker_ttl: int = 0
    allow_atomic: bool = False
    allow_msg_counter: bool = False
    allow_msg_schedules: bool = False


class Made(msgspec.Struct, frozen=True):
    """A stream as it is now; ``changed`` when something was created or changed for that."""

    config: StreamConfig
    changed: bool


class _State(msgspec.Struct, frozen=True):
    bytes: int = 0


class _Info(msgspec.Struct, frozen=True):
    config: msgspec.Raw
    state: _State = _State()


async def ensure_stream(bus: Bus, config: StreamConfig) -> bool:
    """As ``make_stream``; True when something was created or changed."""
    return (await make_stream(bus, config)).changed


async def make_stream(bus: Bus, config: StreamConfig) -> Made:
    """Create the stream, or bring it to ``config``; only the registry has the right to.

    A size below what is stored is not set: the broker would drop the oldest, or refuse writes.

    Raises:
        MeshError: ``overloaded`` when the broker has no room for it, ``internal`` when it refuses
            (a change of storage, overlapping subjects), ``deadline`` or ``bus`` when it does not
            answer.
    """
    try:
        return await _made(bus, config)
    except ApiError as error:
        if error.full:
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"the broker has no room for stream {config.name}",
                internal=str(error),
            ) from error
        raise MeshError(
            ErrorKind.INTERNAL, f"stream {config.name} cannot be ensured", internal=str(error)
        ) from error


async def _made(bus: Bus, config: StreamConfig) -> Made:
    existing = await _info_of(bus, config.name)
    if existing is None:
        try:
            body = msgspec.json.encode(config)
            await api(bus, f"STREAM.CREATE.{config.name}", body, _Info)
        except ApiError as error:
            if error.failure.err_code != _NAME_IN_USE:
                raise
            existing = await _info_of(bus, config.name)  # another replica was faster
        else:
            return Made(config, True)
    if existing is None:
        return Made(config, False)
    target = _target(existing, config)
    if target == msgspec.json.decode(existing.config, type=StreamConfig):
        return Made(target, False)
    await api(bus, f"STREAM.UPDATE.{config.name}", _merged(existing, target), _Info)
    return Made(target, True)


async def stream_exists(bus: Bus, name: str, *, timeout_s: float) -> bool:
    """Whether the stream is there now."""
    return await _info_of(bus, name, timeout_s=timeout_s) is not None


async def publish(
    bus: Bus,
    subject: str,
    payload: bytes,
    *,
    msg_id: str = "",
    expected_last: int | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> PubAck:
    """Publish into a stream and wait for the receipt.

    Args:
        bus: the connection.
        subject: subject of the message.
        payload: the message.
        msg_id: globally unique id; makes repeats harmless inside the dedup window.
        expected_last: sequence the last message on this subject must have (0 = there is none).
        headers: further headers.
        timeout_s: budget in seconds; only a message with ``msg_id`` or ``expected_last`` is
            sent more than once.

    Returns:
        The receipt.

    Raises:
        Conflict: ``expected_last`` was wrong.
        MeshError: as ``stored_write``.
    """
    block = dict(headers or {})
    if msg_id:
        block["Nats-Msg-Id"] = msg_id
    if expected_last is not None:
        block["Nats-Expected-Last-Subject-Sequence"] = str(expected_last)
    repeat = bool(msg_id) or expected_last is not None
    return await stored_write(bus, subject, payload, block, repeat=repeat, timeout_s=timeout_s)


async def _info_of(bus: Bus, name: str, *, timeout_s: float = 10.0) -> _Info | None:
    try:
        return await api(bus, f"STREAM.INFO.{name}", b"", _Info, timeout_s=timeout_s)
    except ApiError as error:
        if error.failure.err_code == STREAM_NOT_FOUND:
            return None
        raise


def _target(existing: _Info, wanted: StreamConfig) -> StreamConfig:
    """What we want, where the stream as it is lets us."""
    now = msgspec.json.decode(existing.config, type=StreamConfig)
    size = wanted.max_bytes
    if 0 <= size < existing.state.bytes and size != now.max_bytes:
        told = {"stored": existing.state.bytes, "wanted": size}
        _log.warning("stream %s holds more than its new size", wanted.name, extra=told)
        size = now.max_bytes
    return msgspec.structs.replace(
        wanted,
        # Replicas are raised by an operator, never lowered by a restart of the registry.
        num_replicas=max(now.num_replicas, wanted.num_replicas),
        max_bytes=size,
    )


def _merged(existing: _Info, target: StreamConfig) -> bytes:
    """The existing configuration with ours laid over it."""
    members = msgspec.json.decode(existing.config, type=dict[str, msgspec.Raw])
    copies = sorted(_COPIES & members.keys())
    if copies:
        # Only the registry and the operator could have set them, since ADR 0024.
        _log.warning("stream %s has %s that the mesh did not set", target.name, copies)
    ours = msgspec.json.decode(msgspec.json.encode(target), type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**members, **ours})
