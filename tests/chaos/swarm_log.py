"""Reads the log of a swarm while its owners write and die, and keeps what each step came to.

Snapshots shorten the log and free its large values. Both streams are read as they grow, and what
was freed before it was read comes from mirrors, which keep everything but may be late. What was
folded here must be what the owner stored: every snapshot is compared byte by byte, also those that
are kept as objects.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import msgspec
import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from tests.chaos.swarm_fence import life_of

from mcp_proto.buckets import swarm_object, swarm_objects
from swarm_coordinator.core.events import (
    Event,
    OwnerChanged,
    ResultIgnored,
    Snapshot,
    StepAssigned,
    StepDone,
    StepDuplicated,
    StepFailed,
    StepReturned,
    StepsCancelled,
    TaskEnded,
    decode_batch,
)
from swarm_coordinator.core.evolve import evolve, restore, snapshot
from swarm_coordinator.core.state import SwarmState

__all__ = ["LogReader", "mirror_logs", "mirror_values", "operator"]

STREAM = "MESH_SWARM_LOG"
LOGS = "CHAOS_COPY_OF_LOGS"
VALUES = "CHAOS_COPY_OF_VALUES"
KIND, VALUE, ID = "Mesh-Log", "Mesh-Log-Value", "Nats-Msg-Id"
PAGE = 256
PAGE_S = 1.0
POLL_S = 0.05
LOOKS = 5
ALL_S = 30.0
OBJECT_S = 30.0
"""The copy of a large value follows the copy of the log, after a restart of the broker as well."""


class _Reference(msgspec.Struct, frozen=True, array_like=True):
    name: str
    parts: int
    size: int
    sha256: str


_Message: TypeAlias = tuple[int, bytes, dict[str, str]]


class LogReader:
    """Follows one log.

    Args:
        client: connected, may read the mirrors.
        tenant: whose swarm.
        swarm: its id.
    """

    def __init__(self, client: Client, tenant: str, swarm: str) -> None:
        self._client, self._tenant, self._swarm = client, tenant, swarm
        self.subject = f"mesh.v1.{tenant}.task.log.{swarm}"
        self._sequence = 0
        self.lives: list[str] = []
        """Of owners, in the order of their first messages."""
        self.ids: set[str] = set()
        """Of all messages."""
        self.state: SwarmState | None = None
        self.ends: Counter[tuple[str, str]] = Counter()
        """Terminal events of each step, by task and step."""
        self.outputs: dict[tuple[str, str], object] = {}
        self.failed: dict[tuple[str, str], str] = {}
        self.tasks: Counter[str] = Counter()
        """Terminal events of each task."""
        self.ignored: Counter[str] = Counter()
        self.repeats: Counter[str] = Counter()
        """Attempts beside the first, by task."""
        self.owners: list[str] = []
        self.lost: Counter[str] = Counter()
        """Attempts that went back, by why."""
        self.snapshots = self.large = 0
        """Of ``snapshots``, ``large`` are objects."""
        self.unequal: list[int] = []
        """Sequences of snapshots that are not what their log says."""
        self.unseen: list[int] = []
        """Sequences of snapshots before which something was purged unread."""
        self.strays: list[str] = []
        """Messages of an owner behind which another one had written."""

    async def follow(self, stop: asyncio.Event) -> None:
        """Read on until ``stop`` is set; a cancel could come between reading and folding."""
        while not stop.is_set():
            if not await self.read_on():
                await asyncio.sleep(POLL_S)

    async def read_all(self) -> None:
        """Read until the end that the log has now; its copies may be a moment behind."""
        body = msgspec.json.encode({"last_by_subj": self.subject})
        found = await self._client.request(f"$JS.API.STREAM.MSG.GET.{STREAM}", body, timeout=5)
        last = msgspec.json.decode(found.data)["message"]["seq"]
        async with asyncio.timeout(ALL_S):
            while self._sequence < last:
                if not await self.read_on():
                    await asyncio.sleep(POLL_S)

    async def read_on(self) -> int:
        """Read what is stored now; how many messages came (0 also without a broker)."""
        asked = {"seq": self._sequence + 1, "next_by_subj": self.subject, "batch": PAGE}
        found = await self._get(STREAM, asked)
        for sequence, data, headers in found:
            if self._sequence and sequence > self._sequence + 1:
                await self._catch_up(sequence)
            await self._take(sequence, data, headers)
        return len(found)

    async def _catch_up(self, until: int) -> None:
        """Read what is in the copy only."""
        for _ in range(LOOKS):
            asked = {"seq": self._sequence + 1, "next_by_subj": self.subject, "batch": PAGE}
            for sequence, data, headers in await self._get(LOGS, asked):
                if sequence == self._sequence + 1 and sequence < until:
                    await self._take(sequence, data, headers)
            if self._sequence + 1 >= until:
                return

    async def _get(self, stream: str, asked: Mapping[str, object]) -> list[_Message]:
        """Messages, as far as they came."""
        found: list[_Message] = []
        inbox = self._client.new_inbox()
        try:
            answers = await self._client.subscribe(inbox)
            try:
                body = msgspec.json.encode(asked)
                await self._client.publish(f"$JS.API.DIRECT.GET.{stream}", body, reply=inbox)
                while True:
                    message = await answers.next_msg(PAGE_S)
                    headers = message.headers or {}
                    if "Nats-Sequence" not in headers:
                        return found
                    found.append((int(headers["Nats-Sequence"]), message.data, headers))
                    if "batch" not in asked:
                        return found
            finally:
                await answers.unsubscribe()
        except (NatsError, OSError, TimeoutError):
            return found

    async def _take(self, sequence: int, data: bytes, headers: dict[str, str]) -> None:
        gap = bool(self._sequence) and sequence > self._sequence + 1
        self._sequence = sequence
        reference = None
        if VALUE in headers:
            reference = msgspec.json.decode(headers[VALUE], type=_Reference)
            data = await self._object(reference)
        found = decode_batch(data)
        if isinstance(found, Snapshot):
            self._compare(sequence, bytes(found.snapshot), gap=gap, large=reference is not None)
            self._note_writer(sequence, headers[ID], [])
            return
        if gap:
            raise AssertionError(f"the log has a hole before {sequence}")
        self._note_writer(sequence, headers[ID], found)
        for event in found:
            self.state = evolve(self.state, event)
            self._count(event)

    def _compare(self, sequence: int, stored: bytes, *, gap: bool, large: bool) -> None:
        self.snapshots += 1
        self.large += large
        if gap:
            self.unseen.append(sequence)
            self.state = restore(stored)
        elif self.state is None or snapshot(self.state) != stored:
            self.unequal.append(sequence)

    def _note_writer(self, sequence: int, message_id: str, events: list[Event]) -> None:
        """An owner begins by saying so, and says nothing more once another one has begun."""
        self.ids.add(message_id)
        life = life_of(message_id)
        if self.lives and life == self.lives[-1]:
            return
        began = any(isinstance(one, OwnerChanged) for one in events)
        if life in self.lives or not began:
            self.strays.append(f"{sequence} of {life}")
        else:
            self.lives.append(life)

    async def _object(self, reference: _Reference) -> bytes:
        """A large value, whole, from its copy."""
        body = b"".join(
            [await self._part(f"{reference.name}-{index}") for index in range(reference.parts)]
        )
        if len(body) != reference.size or hashlib.sha256(body).hexdigest() != reference.sha256:
            raise AssertionError(f"{reference} has other bytes")
        return body

    async def _part(self, name: str) -> bytes:
        subject = swarm_object(self._tenant, self._swarm, name)
        async with asyncio.timeout(OBJECT_S):
            while True:
                for stream in (f"OBJ_{swarm_objects(self._tenant)}", VALUES):
                    # The first of the subject: what frees it later is a second message.
                    found = await self._get(stream, {"seq": 1, "next_by_subj": subject})
                    if found and "Nats-Rollup" not in found[0][2]:
                        return found[0][1]
                await asyncio.sleep(POLL_S)

    def _count(self, event: Event) -> None:
        match event:
            case StepDone():
                self.ends[event.task, event.step] += 1
                self.outputs[event.task, event.step] = msgspec.json.decode(event.output)
            case StepFailed():
                self.ends[event.task, event.step] += 1
                self.failed[event.task, event.step] = f"{event.error.type} {event.error.outcome}"
            case StepsCancelled():
                self.ends.update((event.task, step) for step in event.steps)
                self.failed.update({(event.task, step): "cancelled" for step in event.steps})
            case StepAssigned() | StepDuplicated():
                self.repeats[event.task] += event.attempt > 1
            case TaskEnded():
                self.tasks[event.task] += 1
            case ResultIgnored():
                self.ignored[event.reason] += 1
            case OwnerChanged():
                self.owners.append(event.owner)
            case StepReturned():
                self.lost[event.error.type] += 1
            case _:
                pass


async def operator(url: str, seed: str) -> Client:
    """A connection that comes back after every restart of the broker."""
    return await nats.connect(
        url,
        nkeys_seed=seed,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        error_cb=_silent,
    )


async def mirror_logs(client: Client) -> None:
    """Make the copy of all logs from which nothing is ever purged."""
    await _mirror(client, LOGS, STREAM)


async def mirror_values(client: Client, tenant: str) -> None:
    """Make the copy of the large values of a tenant's swarms; there must be one already."""
    await _mirror(client, VALUES, f"OBJ_{swarm_objects(tenant)}")


async def _mirror(client: Client, name: str, of: str) -> None:
    asked = {"name": name, "storage": "file", "allow_direct": True, "mirror": {"name": of}}
    body = msgspec.json.encode(asked)
    found = await client.request(f"$JS.API.STREAM.CREATE.{name}", body, timeout=5)
    answer = msgspec.json.decode(found.data)
    assert "error" not in answer, answer


async def _silent(error: Exception) -> None:
    """Connections that break are what this run is about."""
    del error
