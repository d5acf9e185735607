"""Key-value buckets: small records with revisions, per-key expiry and watchers.

A bucket is the stream ``KV_{name}`` on ``$KV.{name}.>`` with the layout every NATS client knows,
but read and written through plain requests: the stock client drops the expiry of a key on every
write, takes the marker of an expired key for a value, and cannot create over such a marker.

Reads are direct gets, which on a cluster may be a moment behind: they feed caches and displays.
Decisions are made by compare-and-set writes (``create``, ``update``), never by a read.
"""

import asyncio
import base64
import logging
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Self

import msgspec

from mcp_proto.buckets import Bucket
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import SUBJECT_BYTES_MAX
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import API_TIMEOUT_S, ApiError, Conflict, api, stored_write
from mesh_chassis.ordered_consumer import is_marker
from mesh_chassis.stream import NS, StreamConfig, ensure_stream, stream_exists
from mesh_chassis.watch import Watch

__all__ = ["KV", "START_S", "Conflict", "Entry", "check_key", "stream_of"]

START_S = 30.0
"""How long a start waits for the registry to make a bucket; then the process is started again."""
MARKER_S = 60
"""How long the marker of an expired or deleted key stays, for watchers that were away."""
_READ_S = 2.0
_OPEN_POLL_S = 0.1
_OPEN_TELL_S = 1.0
_HEADER_ROOM_BYTES = 1024
_DEDUP_S = 120
_NOT_FOUND = 10037
_log = logging.getLogger(__name__)
_KEY = re.compile(r"[-/_=.A-Za-z0-9]+")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One value as stored.

    Attributes:
        key: the key, encoded tokens.
        value: the bytes.
        revision: sequence of the write, for ``update``.
        created_ms: when it was written, Unix ms on the broker's clock.
    """

    key: str
    value: bytes
    revision: int
    created_ms: int


class _Stored(msgspec.Struct, frozen=True):
    seq: int
    time: str
    hdrs: str = ""
    data: str = ""


class _StoredAnswer(msgspec.Struct, frozen=True):
    message: _Stored


def check_key(key: str) -> str:
    """The key itself, if it is one.

    Raises:
        MeshError: ``params``: a character outside ``[-/_=.A-Za-z0-9]``, an empty token, or ending
            in a dot. The broker would store some of these and never find them again.
    """
    if not _KEY.fullmatch(key) or key.startswith(".") or key.endswith(".") or ".." in key:
        raise MeshError(ErrorKind.PARAMS, "not a legal key")
    return key


def stream_of(bucket: Bucket, *, replicas: int = 1) -> StreamConfig:
    """The stream behind a bucket, as the registry ensures it."""
    age = round(bucket.ttl_s * NS)
    value_max = bucket.value_max_bytes
    return StreamConfig(
        name=bucket.stream,
        subjects=(f"$KV.{bucket.name}.>",),
        storage="memory" if bucket.memory else "file",
        discard="new",
        num_replicas=replicas,
        max_msgs_per_subject=bucket.history,
        max_bytes=bucket.bytes_max,
        max_msg_size=value_max + _HEADER_ROOM_BYTES if value_max >= 0 else -1,
        max_age=age,
        duplicate_window=min(_DEDUP_S * NS, age) if age else _DEDUP_S * NS,
        allow_direct=True,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_msg_ttl=bucket.per_key_ttl,
        subject_delete_marker_ttl=MARKER_S * NS if bucket.per_key_ttl else 0,
    )


class KV:
    """One bucket on one connection.

    Make it with ``ensure`` (the registry), ``open`` (everybody else) or ``bind`` (one's own keys
    only, where the rights allow no look at the bucket).
    """

    def __init__(self, bus: Bus, bucket: Bucket) -> None:
        self.bucket = bucket
        self._bus = bus
        self._prefix = f"$KV.{bucket.name}."

    @classmethod
    def bind(cls, bus: Bus, bucket: Bucket) -> Self:
        """Use a bucket without asking whether it exists; writes wait for it up to 10 s."""
        return cls(bus, bucket)

    @classmethod
    async def ensure(cls, bus: Bus, bucket: Bucket, *, replicas: int = 1) -> Self:
        """Make the bucket or bring it up to date, now and after each reconnect.

        After a restart of the only broker a memory bucket is gone with its configuration, hence
        the second half.

        Raises:
            MeshError: as ``ensure_stream``.
        """
        config = stream_of(bucket, replicas=replicas)
        await ensure_stream(bus, config)

        async def again() -> None:
            await ensure_stream(bus, config)

        bus.on_reconnect(again)
        return cls(bus, bucket)

    @classmethod
    async def open(cls, bus: Bus, bucket: Bucket, *, timeout_s: float = 10.0) -> Self:
        """Wait until the registry has made the bucket; from 1 s on the log says so.

        Raises:
            MeshError: ``bus``: it is not there after ``timeout_s``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        tell_at = loop.time() + _OPEN_TELL_S
        while True:
            left = until - loop.time()
            if await stream_exists(bus, bucket.stream, timeout_s=max(0.1, left)):
                return cls(bus, bucket)
            if loop.time() + _OPEN_POLL_S >= until:
                raise MeshError(
                    ErrorKind.BUS,
                    f"bucket {bucket.name} does not exist; the registry makes it: is it running?",
                )
            if loop.time() >= tell_at:
                tell_at = until
                _log.warning("waiting for the registry to make bucket %s", bucket.name)
            await asyncio.sleep(_OPEN_POLL_S)

    async def get(self, key: str) -> Entry | None:
        """The newest value of a key; None when it never was, is deleted or expired.

        Raises:
            MeshError: ``params`` (key), ``bus``, ``deadline``, ``no_runner`` (no bucket).
        """
        stream = self.bucket.stream
        subject = f"$JS.API.DIRECT.GET.{stream}.{self._subject(key)}"
        reply = await self._bus.request(subject, timeout_s=_READ_S)
        status = reply.headers.get("Status", "")
        if status == "404" or (not status and is_marker(reply.headers)):
            return None
        if status:
            raise MeshError(ErrorKind.INTERNAL, "the broker refused a read", internal=status)
        return Entry(
            key=key,
            value=reply.payload,
            revision=int(reply.headers["Nats-Sequence"]),
            created_ms=_unix_ms(reply.headers["Nats-Time-Stamp"]),
        )

    async def latest(self, key: str) -> Entry | None:
        """As ``get``, from the leader: for a key that was just written and is not found.

        Raises:
            MeshError: as ``get``.
        """
        stored = await self._stored(key)
        if stored is None or is_marker(_header_block(stored.hdrs)):
            return None
        return Entry(
            key=key,
            value=base64.b64decode(stored.data),
            revision=stored.seq,
            created_ms=_unix_ms(stored.time),
        )

    async def put(self, key: str, value: bytes, *, ttl_s: float = 0) -> int:
        """Write whatever is there now.

        Args:
            key: encoded tokens.
            value: the bytes.
            ttl_s: expiry in seconds, at least 1; 0 = none, also when the key had one.

        Returns:
            The new revision.

        Raises:
            MeshError: ``params``, ``too_large``, ``overloaded`` (store full, not executed), or
                no receipt within 10 s.
        """
        return await self._write(key, value, self._headers(ttl_s))

    async def create(self, key: str, value: bytes, *, ttl_s: float = 0) -> int:
        """Write if the key has no value: absent, deleted or expired.

        Raises:
            Conflict: it has one.
            MeshError: as ``put``.
        """
        try:
            return await self._compare_and_set(key, value, 0, ttl_s)
        except Conflict as conflict:
            stored = await self._newest(key)
            if stored is None:
                expected = 0  # the marker went between the two requests
            elif is_marker(stored[1]):
                expected = stored[0]
            else:
                raise Conflict(stored[0]) from conflict
        return await self._compare_and_set(key, value, expected, ttl_s)

    async def update(self, key: str, value: bytes, revision: int, *, ttl_s: float = 0) -> int:
        """Write if the newest revision is still ``revision``.

        Raises:
            Conflict: it is another.
            MeshError: as ``put``.
        """
        return await self._compare_and_set(key, value, revision, ttl_s)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key; watchers hear it.

        In a bucket with per-key expiry nothing of it stays after a minute; elsewhere its history
        stays.

        Raises:
            Conflict: ``revision`` is given and is not the newest.
            MeshError: as ``put``.
        """
        if self.bucket.per_key_ttl:
            await self._remove(key, self._purge_headers(), revision)
        else:
            await self._remove(key, {"KV-Operation": "DEL"}, revision)

    async def purge(self, key: str) -> None:
        """Delete a key with its history.

        Raises:
            MeshError: as ``put``.
        """
        await self._remove(key, self._purge_headers(), None)

    async def keys(self, prefix: str = "") -> list[str]:
        """Keys that have a value, sorted, whose text begins with ``prefix``.

        Raises:
            MeshError: the snapshot did not arrive in time.
        """
        found: set[str] = set()

        def on_entry(key: str, value: bytes | None, _revision: int) -> None:
            if value is None:
                found.discard(key)
            elif key.startswith(prefix):
                found.add(key)

        parent = prefix.rpartition(".")[0]
        watch = Watch(
            self._bus,
            self.bucket,
            f"{check_key(parent)}.>" if parent else ">",
            on_entry=on_entry,
            headers_only=True,
        )
        try:
            await watch.start()
            async with asyncio.timeout(API_TIMEOUT_S):
                await watch.ready
        except TimeoutError:
            raise MeshError(ErrorKind.DEADLINE, "the keys did not arrive in time") from None
        finally:
            await watch.stop()
        return sorted(found)

    async def watch(
        self,
        key_filter: str = ">",
        *,
        on_entry: Callable[[str, bytes | None, int], None],
        on_reset: Callable[[], None] | None = None,
    ) -> Watch:
        """Follow all keys that match; see ``Watch``. The caller stops it.

        Args:
            key_filter: a key, or tokens with ``*`` and a last ``>``.
            on_entry: called with key, value (None = gone) and revision.
            on_reset: called before the bucket is read again after a gap.
        """
        watch = Watch(self._bus, self.bucket, key_filter, on_entry=on_entry, on_reset=on_reset)
        await watch.start()
        return watch

    def _subject(self, key: str) -> str:
        subject = self._prefix + check_key(key)
        if len(subject) > SUBJECT_BYTES_MAX:
            raise MeshError(ErrorKind.TOO_LARGE, "the key is too long")
        return subject

    def _headers(self, ttl_s: float) -> dict[str, str]:
        headers = {"Nats-Msg-Id": secrets.token_hex(12)}
        if ttl_s:
            if not self.bucket.per_key_ttl or ttl_s < 1:
                raise MeshError(ErrorKind.PARAMS, "expiry needs a bucket made for it, and 1 s")
            whole = ttl_s == int(ttl_s)
            headers["Nats-TTL"] = f"{int(ttl_s)}s" if whole else f"{ttl_s * 1000:.0f}ms"
        return headers

    def _purge_headers(self) -> dict[str, str]:
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
        if self.bucket.per_key_ttl:
            headers["Nats-TTL"] = f"{MARKER_S}s"
        return headers

    async def _remove(self, key: str, headers: dict[str, str], revision: int | None) -> None:
        headers = {**self._headers(0), **headers}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        await self._write(key, b"", headers)

    async def _compare_and_set(self, key: str, value: bytes, revision: int, ttl_s: float) -> int:
        headers = self._headers(ttl_s)
        headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        return await self._write(key, value, headers)

    async def _write(self, key: str, value: bytes, headers: dict[str, str]) -> int:
        ceiling = self._bus.max_payload
        if 0 <= self.bucket.value_max_bytes < ceiling:
            ceiling = self.bucket.value_max_bytes
        if len(value) > ceiling:
            raise MeshError(ErrorKind.TOO_LARGE, f"a value may have {ceiling} bytes")
        subject = self._subject(key)
        try:
            ack = await stored_write(self._bus, subject, value, headers, repeat=True)
        except Conflict as conflict:
            # The comparison comes before the duplicate check, so a repeat meets its first copy.
            if conflict.attempts > 1:
                stored = await self._newest(key)
                if stored and stored[1].get("Nats-Msg-Id") == headers["Nats-Msg-Id"]:
                    return stored[0]
            raise
        return ack.seq

    async def _newest(self, key: str) -> tuple[int, dict[str, str]] | None:
        """Sequence and headers of the newest message of a key, marker or not, from the leader."""
        stored = await self._stored(key)
        return None if stored is None else (stored.seq, _header_block(stored.hdrs))

    async def _stored(self, key: str) -> "_Stored | None":
        body = msgspec.json.encode({"last_by_subj": self._subject(key)})
        operation = f"STREAM.MSG.GET.{self.bucket.stream}"
        try:
            answer = await api(self._bus, operation, body, _StoredAnswer)
        except ApiError as error:
            if error.failure.err_code == _NOT_FOUND:
                return None
            raise MeshError(
                ErrorKind.INTERNAL, "the broker refused a read", internal=str(error)
            ) from error
        return answer.message


def _header_block(encoded: str) -> dict[str, str]:
    """Headers of a stored message, which the broker gives as base64 of the header block."""
    lines = base64.b64decode(encoded).decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


def _unix_ms(stamp: str) -> int:
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)
