"""Sessions of legacy HTTP clients, shared by all gateways through ``mesh_sessions``.

A session is written when it opens, when its log level changes, and once a minute while it is
used, in the background; a request only looks at the copy held here. The watch keeps copies true:
what another gateway ends or changes is ended or changed here. A gateway that does not hold a
session reads it once, so any gateway continues what another began.
"""

import asyncio
import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec

from mcp_proto.errors import MeshError
from mcp_proto.session import IDLE_MS, SessionOwner, SessionRecord, expiry, lifetime_ms, touch
from mesh_chassis.bucket import Conflict, Entry
from mesh_chassis.clock import SYSTEM, Clock
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["HELD_MAX", "SessionBucket", "Sessions"]

ID_RANDOM_BYTES = 32
ID_CHARS = 43
"""A session id is 256 random bits in URL-safe base 64: visible ASCII, not to be guessed. Only its
SHA-256 is stored, so a read of the bucket opens no session."""

HELD_MAX = 20_000
"""Copies held here; the least recently used one is read again when it is needed."""

NEWS_S = 0.25
"""Longest wait of a change or an ending for its own news."""

_ATTEMPTS = 3
_TTL_SPARE_S = 60
"""Kept longer than it lives: clocks differ."""

_log = logging.getLogger(__name__)


Changed = Callable[[SessionRecord], None]


class SessionBucket(Protocol):
    """What of ``bucket.KV`` is needed here."""

    async def get(self, key: str) -> Entry | None:
        """The record, or None."""
        ...

    async def put(self, key: str, value: bytes, *, ttl_s: float = 0) -> int:
        """Write it."""
        ...

    async def update(self, key: str, value: bytes, revision: int, *, ttl_s: float = 0) -> int:
        """Write it unless it changed meanwhile."""
        ...

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Remove it."""
        ...


class Sessions:
    """Open sessions, by the SHA-256 of their id."""

    def __init__(
        self,
        bucket: SessionBucket,
        tasks: Tasks,
        *,
        instance: str = "",
        idle_s: float = IDLE_MS / 1000,
        clock: Clock = SYSTEM,
    ) -> None:
        self.instance = instance
        """This gateway, as records name it."""
        self._idle_ms = int(idle_s * 1000)
        self._bucket = bucket
        self._tasks = tasks
        self._clock = clock
        self._held: OrderedDict[str, SessionRecord] = OrderedDict()
        self._revisions: dict[str, int] = {}
        self._touching: set[str] = set()
        self._ending: dict[str, asyncio.Future[None]] = {}
        self._changing: dict[str, dict[asyncio.Future[None], int]] = {}
        self._on_end: dict[str, dict[Callable[[], None], None]] = {}
        self._on_change: dict[str, dict[Changed, None]] = {}

    def __len__(self) -> int:
        """Copies held here."""
        return len(self._held)

    async def open(self, record: SessionRecord) -> str:
        """Open a session and store it.

        Returns:
            Its id, known to the client alone.

        Raises:
            MeshError: the bucket cannot be written.
        """
        identifier = secrets.token_urlsafe(ID_RANDOM_BYTES)
        key = digest(identifier)
        revision = await self._bucket.put(
            key, msgspec.json.encode(record), ttl_s=self._ttl_s(record)
        )
        self._hold(key, record, revision)
        return identifier

    def held(self, identifier: str, owner: SessionOwner) -> SessionRecord | None:
        """The session if a copy is here and it is this owner's; renews it when due."""
        key = digest(identifier)
        record = self._held.get(key)
        if record is None or not record.belongs_to(owner):
            return None
        now = self._clock.now_ms()
        if expiry(record, now, self._idle_ms) is not None:
            return None
        self._held.move_to_end(key)
        renewed = touch(record, now, self._idle_ms)
        if renewed is not None:
            self._touch(key, renewed)
        return record

    async def find(self, identifier: str, owner: SessionOwner) -> SessionRecord | None:
        """The session with this id, if it is open and this owner's; else None.

        Raises:
            MeshError: it is not held here and the bucket cannot be read.
        """
        if not well_formed(identifier):
            return None
        record = self.held(identifier, owner)
        if record is not None:
            return record
        key = digest(identifier)
        if key not in self._held and not await self._read(key):
            return None
        return self.held(identifier, owner)

    async def _read(self, key: str) -> bool:
        entry = await self._bucket.get(key)
        if entry is None:
            self._drop(key)
            return False
        try:
            stored = msgspec.json.decode(entry.value, type=SessionRecord)
        except msgspec.DecodeError:
            _log.error("a session record is unreadable", extra={"key": key})
            return False
        self._hold(key, stored, entry.revision)
        return True

    async def change(
        self, identifier: str, change: Callable[[SessionRecord], SessionRecord]
    ) -> None:
        """Change a record (log level, subscriptions); returns once the watches tell of it.

        Raises:
            MeshError: the bucket cannot be written, or what ``change`` raises.
        """
        key = digest(identifier)
        for _ in range(_ATTEMPTS):
            record = self._held.get(key)
            if record is None:
                return
            changed = change(record)
            if changed == record:
                return
            try:
                await self._told(key, await self._write(key, changed))
            except Conflict:
                if not await self._read(key):
                    return
            else:
                return

    async def _told(self, key: str, revision: int) -> None:
        """Wait for our own watch: the client's next request may go to another gateway.

        The broker tells all watches at once, so what has come here has come there.
        """
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._changing.setdefault(key, {})
        waiting[told] = revision
        try:
            await asyncio.wait((told,), timeout=NEWS_S)
        finally:
            del waiting[told]
            if not waiting:
                self._changing.pop(key, None)

    async def end(self, identifier: str) -> None:
        """End a session everywhere; returns once the watches tell of it.

        Raises:
            MeshError: the bucket cannot be written.
        """
        key = digest(identifier)
        self._drop(key)
        told = self._ending.setdefault(key, asyncio.get_running_loop().create_future())
        try:
            await self._bucket.delete(key)
            # As ``_told``: another gateway would still find it there.
            await asyncio.wait((told,), timeout=NEWS_S)
        finally:
            self._ending.pop(key, None)

    def on_end(self, identifier: str, call: Callable[[], None]) -> Callable[[], None]:
        """Call ``call`` when the session ends anywhere; the answer takes the wish back."""
        key = digest(identifier)
        calls = self._on_end.setdefault(key, {})
        calls[call] = None

        def forget() -> None:
            calls.pop(call, None)
            if not calls and self._on_end.get(key) is calls:
                del self._on_end[key]

        return forget

    def on_change(self, identifier: str, call: Changed) -> Callable[[], None]:
        """Call ``call`` with the record when it changes anywhere; as ``on_end``."""
        key = digest(identifier)
        calls = self._on_change.setdefault(key, {})
        calls[call] = None

        def forget() -> None:
            calls.pop(call, None)
            if not calls and self._on_change.get(key) is calls:
                del self._on_change[key]

        return forget

    def take_stream(self, identifier: str, record: SessionRecord) -> None:
        """The newest stream of the session is here now; other gateways hear of it by watch."""
        if record.stream != self.instance:
            self._hand_stream(identifier, self.instance)

    def leave_stream(self, identifier: str, record: SessionRecord) -> None:
        """No stream of the session is here any more."""
        if record.stream == self.instance:
            self._hand_stream(identifier, "")

    def _hand_stream(self, identifier: str, instance: str) -> None:
        def handed(record: SessionRecord) -> SessionRecord:
            if not instance and record.stream != self.instance:
                return record  # another gateway has taken it meanwhile
            return msgspec.structs.replace(record, stream=instance)

        async def write() -> None:
            try:
                await self.change(identifier, handed)
            except MeshError as error:
                _log.warning("a session's stream was not noted: %s", error.message)

        try:
            self._tasks.spawn(write(), name="hand-stream")
        except TasksFullError:
            _log.warning("a session's stream was not noted: too many tasks")

    def feed(self, key: str, value: bytes | None, revision: int) -> None:
        """Take one entry of the watch; only copies held here matter."""
        told = self._ending.get(key) if value is None else None
        if told is not None and not told.done():
            told.set_result(None)
        for change, awaited in self._changing.get(key, {}).items():
            if revision >= awaited and not change.done():
                change.set_result(None)
        if key not in self._held and key not in self._on_end:
            return
        if value is None:
            self._drop(key)
            return
        if revision <= self._revisions.get(key, 0):
            return
        try:
            record = self._held[key] = msgspec.json.decode(value, type=SessionRecord)
            self._revisions[key] = revision
        except msgspec.DecodeError:
            self._drop(key)
            return
        self._tell_change(key, record)

    def reset(self) -> None:
        """The watch starts over: forget copies, they are read again when needed."""
        self._held.clear()
        self._revisions.clear()

    def _hold(self, key: str, session: SessionRecord, revision: int) -> None:
        self._held[key] = session
        self._revisions[key] = revision
        self._held.move_to_end(key)
        if len(self._held) > HELD_MAX:
            oldest, _ = self._held.popitem(last=False)
            self._revisions.pop(oldest, None)

    def _tell_change(self, key: str, record: SessionRecord) -> None:
        for call in tuple(self._on_change.get(key, ())):
            call(record)

    def _drop(self, key: str) -> None:
        self._held.pop(key, None)
        self._revisions.pop(key, None)
        for call in tuple(self._on_end.get(key, ())):
            call()

    async def _write(self, key: str, session: SessionRecord) -> int:
        # Compare-and-set: a plain write could bring a session back that was just ended elsewhere.
        revision = await self._bucket.update(
            key,
            msgspec.json.encode(session),
            self._revisions.get(key, 0),
            ttl_s=self._ttl_s(session),
        )
        if key in self._held:
            if revision > self._revisions.get(key, 0):
                self._held[key] = session
                self._revisions[key] = revision
            self._tell_change(key, self._held[key])
        return revision

    def _ttl_s(self, record: SessionRecord) -> float:
        """Time to live of the key: it only cleans up, the record itself says when it ends."""
        left_ms = lifetime_ms(record, self._clock.now_ms(), self._idle_ms)
        return left_ms // 1000 + max(1, min(_TTL_SPARE_S, self._idle_ms // 1000))

    def _touch(self, key: str, renewed: SessionRecord) -> None:
        if key in self._touching:
            return
        self._touching.add(key)
        try:
            self._tasks.spawn(self._write_seen(key, renewed), name="touch-session")
        except TasksFullError:
            self._touching.discard(key)

    async def _write_seen(self, key: str, renewed: SessionRecord) -> None:
        try:
            await self._write(key, renewed)
        except Conflict:
            _log.debug("a session was renewed elsewhere at the same time")
        except MeshError as error:
            _log.warning("a session could not be renewed: %s", error.message)
        finally:
            self._touching.discard(key)


def digest(identifier: str) -> str:
    """Key of a session in the bucket."""
    return hashlib.sha256(identifier.encode("utf-8", "replace")).hexdigest()


def well_formed(text: str) -> bool:
    """Whether this could be one of our ids; a cheap refusal of everything else."""
    bare = text.replace("-", "").replace("_", "")
    return len(text) == ID_CHARS and text.isascii() and (bare.isalnum() or not bare)
