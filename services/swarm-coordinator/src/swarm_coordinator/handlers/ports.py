"""What the handlers of tools need from the orchestrator, and nothing more."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from mcp_proto.contracts.swarm import (
    AgentCommand,
    Bid,
    Commanded,
    Mail,
    Spawned,
    WorkProgress,
)
from mcp_proto.contracts.swarm_replicas import TaskReached
from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.records import Remembered, SwarmRecord
from swarm_coordinator.core.state import SwarmState, TaskState
from swarm_coordinator.handlers.task_log import History

__all__ = ["Caller", "Held", "Memory", "Owner", "Remembered", "Reported", "SwarmLimits", "Swarms"]


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls a tool, already verified.

    Attributes:
        tenant: whose tenant.
        principal: who.
        context: the signed ``Mesh-Ctx``; "" only in development.
        request: ``Mesh-Req`` of the call.
        deadline_s: monotonic time (``Owner.monotonic``) when nobody waits any more.
        tell: takes how far a task is that the call waits for, and never blocks; None = the
            caller did not ask for progress.
        client: ``ClientCapabilities`` of who waits: what it may be asked meanwhile; ``ABSENT`` =
            nothing.
    """

    tenant: str
    principal: str
    context: str = ""
    request: str = ""
    deadline_s: float = 0.0
    tell: Callable[[TaskReached], None] | None = None
    client: msgspec.Raw = ABSENT


class Reported(msgspec.Struct, frozen=True):
    """What an agent last told of an attempt, and when (Unix ms)."""

    at_ms: int
    said: WorkProgress


class Memory(Protocol):
    """Memory of swarms: JSON values by namespace and key, with expiry and compare-and-set."""

    async def store(
        self,
        swarm: str,
        namespace: str,
        key: str,
        value: bytes,
        *,
        ttl_s: int | None,
        expected_revision: int | None,
    ) -> Remembered:
        """Write; ``expected_revision`` 0 = must not exist.

        Raises:
            MeshError: ``params`` with ``data.reason == "conflict"`` and ``data.revision``.
        """
        ...  # fmt: skip

    async def retrieve(self, swarm: str, namespace: str, key: str) -> Remembered | None:
        """Read."""
        ...

    async def delete(self, swarm: str, namespace: str, key: str) -> bool:
        """Remove; whether it was there."""
        ...

    async def list(
        self, swarm: str, namespace: str, prefix: str, cursor: str, limit: int
    ) -> tuple[list[str], str]:
        """Keys in order, and the cursor of the next page ("" = none)."""
        ...

    async def bank(self, swarm: str, limit: int) -> Sequence[tuple[str, str]]:
        """(namespace, key) of what a swarm remembers, in order, at most ``limit``."""
        ...

    async def forget(self, swarm: str) -> int:
        """Remove everything of a swarm; how many keys."""
        ...


class Owner(Protocol):
    """The owner of one swarm, as tools see it. All methods run on its event loop."""

    @property
    def state(self) -> SwarmState:
        """The folded state; read only. It changes across every ``await``."""
        ...

    @property
    def memory(self) -> Memory:
        """Memory of the swarm's tenant."""
        ...

    def now_ms(self) -> int:
        """Unix time."""
        ...

    def monotonic(self) -> float:
        """Seconds, for deadlines."""
        ...

    def new_id(self, prefix: str) -> str:
        """A handle ``{prefix}_{ms}_{25 random base-36 characters}``."""
        ...

    async def commit(self, events: Sequence[Event]) -> None:
        """Apply, append to the log, and return once they are stored; effects follow by themselves.

        The decision and this call must not have an ``await`` between them.

        Raises:
            MeshError: ``lost`` when another replica owns the swarm now (nothing was stored),
                ``bus`` or ``deadline`` when it is not known.
        """
        ...

    async def spawn(self, agent: str) -> Spawned:
        """Place and start an agent that the log has as ``spawning``; commits what came of it."""
        ...

    def begin_spawn(self, agent: str) -> "asyncio.Future[Spawned]":
        """``spawn`` in a task of the owner's, which outlives the call that waits for it.

        Resources that were wished are in ``AgentState.config``, member ``resources``:
        ``{"cpu": cores, "memoryBytes": n, "gpu": bool}``; a member left out = no wish. A runtime
        is in ``runtime`` of the same object.
        """
        ...

    async def offers(self, *, local: bool) -> dict[str, tuple[str, ...]]:
        """Types that live hosts run, with their capabilities; ``local`` = on the owner's node.

        Raises:
            MeshError: ``bus``.
        """
        ...

    def last_beat_ms(self, agent: str) -> int | None:
        """When the newest beat of an agent came, Unix ms; None = not since this owner."""
        ...

    def reported(self, item: str) -> Reported | None:
        """How far an attempt is, as its agent last told this owner; None = it told nothing."""
        ...

    async def history(self, task: str) -> History:
        """What the log still says of a task, up to now.

        Raises:
            MeshError: the log cannot be read.
        """
        ...

    async def recorded(self, task: str) -> None:
        """Wait until the record of a task in ``mesh_tasks`` is as new as the state.

        A client may ask the gateway for the task as soon as it knows its id. "" = the record of
        the swarm, in ``mesh_swarms``.
        """
        ...

    async def known(self, task: str) -> None:
        """Wait until there is a record of a task at all: whoever learns its id may ask for it.

        Raises:
            MeshError: it cannot be written.
        """
        ...

    async def task_record(self, principal: str, task: str) -> TaskRecord | None:
        """The record of a task that the state has forgotten, with its result."""
        ...

    async def command(self, agent: str, command: AgentCommand, timeout_s: float) -> Commanded:
        """Send a command to the host of an agent.

        Raises:
            MeshError: ``no_runner`` when the host is gone, ``deadline``.
        """
        ...

    async def deliver(self, agent: str, mail: Mail, timeout_s: float) -> Commanded:
        """Deliver a message now."""
        ...

    async def delegate(self, caller: Caller, task: str, deadline_ms: int) -> str:
        """Make a delegated grant for a task, its id; "" where no context exists (development)."""
        ...

    async def ended(self, task: str, timeout_s: float) -> TaskState:
        """Wait until a task is terminal or the time is over; its state then."""
        ...

    async def save(self, value: bytes) -> str:
        """Keep a large value of the swarm; its reference."""
        ...

    async def load(self, reference: str) -> bytes:
        """Read it back."""
        ...


class SwarmLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever runs the mesh allows a swarm (``MAX_AGENTS``, ``AGENT_TIMEOUT``)."""

    max_agents: int = 20
    agent_timeout_s: int = 300


class Held(Protocol):
    """Whether ``Swarms.alone`` holds still; a process that was frozen may have lost it."""

    @property
    def held(self) -> bool:
        """Nobody else can be let in now."""
        ...


class Swarms(Protocol):
    """All swarms, as any replica sees them."""

    @property
    def instance(self) -> str:
        """Id of this replica, the owner of what it creates."""
        ...

    @property
    def node(self) -> str:
        """Machine of this replica."""
        ...

    @property
    def limits(self) -> SwarmLimits:
        """Of swarms that are made from now on."""
        ...

    def alone(self, caller: Caller, key: str) -> AbstractAsyncContextManager[Held]:
        """Keep out every other call of this principal with this idempotency key.

        Raises:
            MeshError: ``overloaded``, not executed: the others take too long.
        """
        ...

    async def create(self, caller: Caller, events: Sequence[Event]) -> Owner:
        """Begin a swarm: the first events of its log, with this replica as its owner."""
        ...

    async def of(self, caller: Caller, swarm: str) -> Owner | None:
        """The owner if it is this replica (taking the swarm over where nobody has it)."""
        ...

    async def default(self, caller: Caller) -> str:
        """Id of the caller's newest swarm that lives; "" = none."""
        ...

    async def records(self, caller: Caller) -> list[SwarmRecord]:
        """The caller's swarms, newest first."""
        ...

    async def offers(self, caller: Caller) -> list[Bid]:
        """What every live host says of itself: its ``types``; nothing is placed."""
        ...

    def now_ms(self) -> int:
        """Unix time."""
        ...

    def monotonic(self) -> float:
        """Seconds, for deadlines."""
        ...

    def new_id(self, prefix: str) -> str:
        """As ``Owner.new_id``."""
        ...
