"""Reads the log of a swarm while its owners write and die, and keeps what each step came to.

Snapshots shorten the log, so a mirror of its stream is read, which keeps everything. What was
folded here must be what the owner stored: every snapshot is compared byte by byte.
"""

import asyncio
from collections import Counter
from pathlib import Path

import msgspec
import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError

from swarm_coordinator.core.events import (
    Event,
    OwnerChanged,
    ResultIgnored,
    Snapshot,
    StepDone,
    StepFailed,
    StepReturned,
    StepsCancelled,
    TaskEnded,
    decode_batch,
)
from swarm_coordinator.core.evolve import evolve, restore, snapshot
from swarm_coordinator.core.state import SwarmState

__all__ = ["LogReader", "mirrored", "operator"]

MIRROR = "CHAOS_COPY_OF_LOGS"
KIND = "Mesh-Log"
PAGE = 256
PAGE_S = 1.0
POLL_S = 0.05


class LogReader:
    """Follows one log.

    Args:
        client: connected, may read the mirror of all logs.
        subject: of the log.
    """

    def __init__(self, client: Client, subject: str) -> None:
        self._client, self._subject = client, subject
        self._sequence = 0
        self.state: SwarmState | None = None
        self.ends: Counter[tuple[str, str]] = Counter()
        """Terminal events of each step, by task and step."""
        self.outputs: dict[tuple[str, str], object] = {}
        self.failed: dict[tuple[str, str], str] = {}
        self.tasks: Counter[str] = Counter()
        """Terminal events of each task."""
        self.ignored: Counter[str] = Counter()
        self.owners: list[str] = []
        self.lost: Counter[str] = Counter()
        """Attempts that went back, by why."""
        self.snapshots = 0
        self.large = 0
        """Snapshots that are objects, and are not compared."""
        self.unequal: list[int] = []
        """Sequences of snapshots that are not what their log says."""
        self.unseen: list[int] = []
        """Sequences of snapshots before which something was purged unread."""

    async def follow(self) -> None:
        """Read on, for ever."""
        while True:
            if not await self.read_on():
                await asyncio.sleep(POLL_S)

    async def read_on(self) -> int:
        """Read what is stored now; how many messages came (0 also without a broker)."""
        inbox = self._client.new_inbox()
        body = {"seq": self._sequence + 1, "next_by_subj": self._subject, "batch": PAGE}
        count = 0
        try:
            answers = await self._client.subscribe(inbox)
            try:
                asked = msgspec.json.encode(body)
                await self._client.publish(f"$JS.API.DIRECT.GET.{MIRROR}", asked, reply=inbox)
                while True:
                    message = await answers.next_msg(PAGE_S)
                    headers = message.headers or {}
                    if "Nats-Sequence" not in headers:
                        return count
                    self._take(int(headers["Nats-Sequence"]), message.data, headers)
                    count += 1
            finally:
                await answers.unsubscribe()
        except (NatsError, OSError, TimeoutError):
            return count

    def _take(self, sequence: int, data: bytes, headers: dict[str, str]) -> None:
        gap = bool(self._sequence) and sequence > self._sequence + 1
        self._sequence = sequence
        if not data and headers.get(KIND) == "snapshot":
            self.large += 1
            return
        if not data:
            raise AssertionError(f"a batch of events is an object: {headers}")
        found = decode_batch(data)
        if not isinstance(found, Snapshot):
            if gap:
                raise AssertionError(f"the log has a hole before {sequence}")
            for event in found:
                self.state = evolve(self.state, event)
                self._count(event)
            return
        self.snapshots += 1
        stored = bytes(found.snapshot)
        if gap:
            self.unseen.append(sequence)
            self.state = restore(stored)
        elif self.state is None or snapshot(self.state) != stored:
            self.unequal.append(sequence)

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


async def operator(url: str, seed: Path) -> Client:
    """A connection that comes back after every restart of the broker."""
    return await nats.connect(
        url,
        nkeys_seed=str(seed),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        error_cb=_silent,
    )


async def mirrored(client: Client) -> None:
    """Make the copy of all logs from which nothing is ever purged."""
    asked = {
        "name": MIRROR,
        "storage": "file",
        "allow_direct": True,
        "mirror": {"name": "MESH_SWARM_LOG"},
    }
    body = msgspec.json.encode(asked)
    found = await client.request(f"$JS.API.STREAM.CREATE.{MIRROR}", body, timeout=5)
    answer = msgspec.json.decode(found.data)
    assert "error" not in answer, answer


async def _silent(error: Exception) -> None:
    """Connections that break are what this run is about."""
    del error
