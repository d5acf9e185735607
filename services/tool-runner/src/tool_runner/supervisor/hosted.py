"""One upstream server while this runner holds it: its child's lives, and the calls to it.

Between two lives calls are answered at once with the reason and a hint when to come back; during
a start they wait for it a little. The breaker keeps calls away from a server that lives but fails.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

import msgspec

from mcp_proto.contracts.registry import Catalog, ServerDefinition
from mcp_proto.contracts.tasks import policies_of
from mcp_proto.contracts.watching import Asked, Updated, Verdict
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.limits import INLINE_MAX_BYTES
from mcp_proto.server_types import CUSTOM
from mcp_proto.versions import Revision
from mesh_chassis.breaker import Breaker
from mesh_chassis.children import Children
from mesh_chassis.tasks import Tasks
from tool_runner.core.askers import Askers
from tool_runner.core.restarts import DELAY_FIRST_S, REMOTE_QUARANTINE_S, Restarts, Wait
from tool_runner.server_types.factory import make
from tool_runner.supervisor.settings import HostSettings
from tool_runner.upstreams.core_tasks import CoreTaskTools
from tool_runner.upstreams.factory import Life
from tool_runner.upstreams.oauth.access import Kept
from tool_runner.upstreams.secrets import prepare_secrets
from tool_runner.upstreams.upstream import Offer, Request
from tool_runner.watching import Tell, Watching

__all__ = ["HostSettings", "HostedServer", "ServerState"]

START_WAIT_S = 5.0
"""Longest wait of a call for a server that is starting."""
RELIST_PAUSE_S = 0.1
"""After a notice of changed lists; servers send several in a row."""
FINISH_S = 5.0
"""On a wanted restart, how long running calls may go on."""
ERA_TTL_S = 600.0
"""How long a server counts as legacy without asking: a stale verdict is wrong without a sign."""
LAST_WORDS_LINES = 100
"""Of a life that is over: kept of its stderr."""
DEADLINE_COUNTS_S = 5.0
"""A call that ran out after less says more about its caller's patience than about the server."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class ServerState(StrEnum):
    """What an upstream server is doing."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


def _unheard(_server: str) -> None:
    """Nobody counts restarts."""


async def _untold(_event: Updated) -> None:
    """Nobody listens."""


class HostedServer:
    """A server on this runner. ``start`` once, ``close`` once.

    Args:
        definition: what to run.
        children: child processes of this runner.
        settings: bounds.
        on_catalog: called with the catalogue whenever the server has listed what it offers.
        on_restart: called with the server's name whenever a life follows an unwanted end.
        tell: tells the gateways of updated resources.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        children: Children,
        settings: HostSettings,
        on_catalog: Callable[[Catalog], None],
        on_restart: Callable[[str], None] = _unheard,
        tell: Tell = _untold,
    ) -> None:
        self.definition = definition
        self.state = ServerState.STOPPED
        self.reason = ""
        self.restarts = 0
        self._last_words: list[str] = []
        self._children = children
        self.settings = settings
        self._on_catalog = on_catalog
        self._on_restart = on_restart
        self._upstream: Life | None = None
        self._candidate: Life | None = None
        self._up = asyncio.Event()
        self._settled = asyncio.Event()
        self._again = asyncio.Event()
        self._lists = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._inflight = 0
        self._began = 0.0
        self._next_start = 0.0
        self._breaker = Breaker()
        self._legacy_until = 0.0
        self._askers = Askers()
        self.kept = Kept()
        self._tasks = Tasks(f"server {definition.name}", tasks_max=4)
        self._loop = asyncio.get_running_loop()
        self._moved: asyncio.Future[None] = self._loop.create_future()
        self._watching = Watching(definition.name, tell)
        self._core_tasks: CoreTaskTools | None = None

    @property
    def name(self) -> str:
        """Server name."""
        return self.definition.name

    @property
    def tenant(self) -> str:
        """Owner; ``_`` = shared."""
        return self.definition.tenant

    @property
    def pid(self) -> int:
        """Process id of the child; 0 when there is none."""
        upstream = self._upstream or self._candidate
        return upstream.pid if upstream is not None else 0

    @property
    def inflight(self) -> int:
        """Calls running now."""
        return self._inflight

    @property
    def asks_back(self) -> bool:
        """Whether the server may send requests of its own in mid-call: a modern one does not."""
        upstream = self._upstream
        handshake = upstream.handshake if upstream is not None else None
        return handshake is None or not handshake.modern

    @property
    def call_timeout_s(self) -> float:
        """Longest time of one call, people's time apart."""
        return self.definition.timeout_s

    @property
    def breaker_state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        return str(self._breaker.state.value)

    def log_tail(self, lines: int = 20) -> list[str]:
        """Newest lines of the child's stderr; those of its last life while it has said nothing."""
        upstream = self._upstream or self._candidate
        said = upstream.log_tail(lines) if upstream is not None else []
        return said or self._last_words[-lines:]

    def start(self) -> None:
        """Begin the first life."""
        self._enter(ServerState.STARTING)
        self._tasks.spawn(self._live(), name="live")

    async def settled(self, timeout_s: float) -> bool:
        """Wait for the first start to end, well or not; True when the server runs."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            return False
        return self.state is ServerState.RUNNING

    def restart(self, definition: ServerDefinition | None = None) -> None:
        """Begin a new life, also out of quarantine; with this definition nothing is kept."""
        if definition is not None:
            self.definition, self.kept = definition, Kept()
        self._again.set()

    async def close(self, *, drain_s: float = 0.0, at_once: bool = False) -> None:
        """End the child; running calls may go on for ``drain_s``.

        Args:
            drain_s: seconds.
            at_once: kill it; the server is no longer ours.
        """
        if drain_s:
            await self._finish(drain_s)
        self._up.clear()
        upstream = self._upstream
        for one in (self._candidate, upstream):
            if one is not None and at_once:
                one.kill()
        await self._tasks.close(_CLOSE_S)
        for one in (self._candidate, upstream):
            if one is not None:
                await one.close()
        self._upstream = self._candidate = None
        self._enter(ServerState.STOPPED)

    async def call(self, request: Request) -> bytes | ErrorObject:
        """See ``Upstream.call``; the definition's ``timeout_s`` bounds it too.

        Raises:
            MeshError: ``upstream`` (not executed) while the server cannot be called, and what
                ``Upstream.call`` raises.
        """
        began = self._loop.time()
        upstream = self._upstream
        if upstream is None or not self._up.is_set():
            upstream = await self._wait_for_start(request.timeout_s)
        wait_s = self._breaker.admit(self._loop.time())
        if wait_s:
            raise self._down("fails and is left alone for a while", wait_s)
        left_s = request.timeout_s - (self._loop.time() - began)
        if not request.task:
            left_s = min(left_s, self.definition.timeout_s)
        timeout_s = max(0.001, left_s)
        self._inflight += 1
        self._idle.clear()
        try:
            bounded = msgspec.structs.replace(request, timeout_s=timeout_s)
            if self._core_tasks is None:
                answer = await upstream.call(bounded)
            else:
                answer = await self._core_tasks.call(upstream.call, bounded)
        except MeshError as error:
            self._count_failure(error, timeout_s)
            raise
        except asyncio.CancelledError:
            self._breaker.busy(self._loop.time())
            raise
        finally:
            self._inflight -= 1
            if not self._inflight:
                self._idle.set()
        self._breaker.succeeded(self._loop.time())
        fit = self.settings.fit
        if fit is None or isinstance(answer, ErrorObject) or len(answer) <= INLINE_MAX_BYTES:
            return answer
        return await fit(self.definition, request, answer)

    # What happens to a listener of the upstream

    def lists_changed(self) -> None:
        """See ``Listener``."""
        self._lists.set()

    def resource_updated(self, params: msgspec.Raw) -> None:
        """See ``Listener``."""
        self._watching.updated(params)

    # Watched resources

    async def subscribe(self, asked: Asked, timeout_s: float) -> Verdict:
        """Watch resources for a gateway.

        Raises:
            MeshError: ``upstream`` (not executed) while the server cannot be asked, ``overloaded``,
                ``deadline``.
        """
        if self._upstream is None or not self._up.is_set():
            await self._wait_for_start(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._watching.subscribe(asked)
        except TimeoutError:
            raise MeshError(
                ErrorKind.DEADLINE,
                f"server {self.name} did not take the subscription within {timeout_s:.3g} s",
                data={"upstream": self.name},
            ) from None

    def unsubscribe(self, asked: Asked) -> None:
        """A gateway no longer listens to resources."""
        self._watching.unsubscribe(asked)

    # The lives

    async def _live(self) -> None:
        restarts = self._fresh_restarts()
        while True:
            wait = await self._one_life(restarts)
            self._settled.set()
            if wait is not None:
                await self._pause(wait)
                self.restarts += 1
                self._on_restart(self.name)
            if self._again.is_set():
                restarts = self._fresh_restarts()
                self._again.clear()
            self._enter(ServerState.STARTING)

    def _fresh_restarts(self) -> Restarts:
        child = self.definition.transport == "stdio" and self.definition.type == CUSTOM
        return Restarts() if child else Restarts(quarantine_s=REMOTE_QUARANTINE_S)

    async def _one_life(self, restarts: Restarts) -> Wait | None:
        """Start, serve, end. Returns how long to wait; None after a wanted end."""
        self._began = self._loop.time()
        upstream = self._candidate = make(
            self.definition,
            self._children,
            self,
            stdio=self.settings.stdio,
            network=self.settings.network,
            trusted=self.settings.trusted(self.definition),
            legacy=self.definition.era == "legacy" or self._loop.time() < self._legacy_until,
            askers=self._askers,
            kept=self.kept,
        )
        ran_since = 0.0
        reason: str | None = "was stopped"
        try:
            offer = await self._or_again(self._begin(upstream))
            if offer is None:
                return None
            ran_since = self._loop.time()
            self._serve(upstream, offer)
            reason = await self._or_again(self._watch(upstream))
            if reason is None:
                # New calls wait for the next life from here on.
                self._began = self._loop.time()
                self._up.clear()
                self._enter(ServerState.STARTING)
                await self._finish(FINISH_S)
                return None
        except MeshError as error:
            reason = error.message
        except Exception:  # noqa: BLE001 - whatever fails in a life, the next one must come
            _log.exception("a server's life failed", extra={"server": self.name})
            reason = "failed inside the runner"
        finally:
            self._up.clear()
            self._upstream = None
            if reason is not None:
                self.reason = reason
                self._next_start = self._loop.time() + DELAY_FIRST_S
                self._enter(ServerState.WAITING)
            self._learn(upstream)
            await upstream.close()
            self._last_words = upstream.log_tail(LAST_WORDS_LINES)
            self._candidate = None
        now = self._loop.time()
        _log.warning("the server ended: %s", reason, extra={"server": self.name})
        ran_s = now - ran_since if ran_since else 0.0
        return restarts.ended(now, ran_s=ran_s, jitter=random.random())  # noqa: S311

    def _serve(self, upstream: Life, offer: Offer) -> None:
        self._upstream = upstream
        self._breaker.reset()
        self._lists.clear()
        self.reason = ""
        self._publish(offer)
        self._up.set()
        self._enter(ServerState.RUNNING)
        self._settled.set()
        _log.info(
            "the server runs", extra={"server": self.name, "child": upstream.pid,
            "tools": len(offer.tools), "start_ms": round((self._loop.time() - self._began) * 1e3)},
        )  # fmt: skip

    async def _begin(self, upstream: Life) -> Offer:
        await prepare_secrets(self.definition)
        return await upstream.start()

    async def _watch(self, upstream: Life) -> str:
        """Follow changed lists until the connection ends; why it did."""
        async with asyncio.TaskGroup() as group:
            relisting = group.create_task(self._relist(upstream))
            watching = group.create_task(self._watching.run(upstream.watch))
            reason = await upstream.wait_ended()
            relisting.cancel()
            watching.cancel()
        return reason

    async def _relist(self, upstream: Life) -> None:
        while True:
            await self._lists.wait()
            await asyncio.sleep(RELIST_PAUSE_S)
            self._lists.clear()
            try:
                self._publish(await upstream.read_offer())
            except MeshError as error:
                _log.warning("lists: %s", error.message, extra={"server": self.name})

    def _publish(self, offer: Offer) -> None:
        self._core_tasks = CoreTaskTools.of(offer)
        self._on_catalog(
            Catalog(
                tenant=self.definition.tenant,
                server=self.definition.name,
                prefixed=self.definition.prefix is None,
                mounted=self.definition.prefix is not None,
                tools=offer.tools,
                resources=offer.resources,
                resource_templates=offer.resource_templates,
                prompts=offer.prompts,
                capabilities=offer.capabilities,
                server_info=offer.server_info,
                instructions=offer.instructions,
                ttls_ms=offer.ttls_ms,
                single_instance=True,
                timeout_s=self.definition.timeout_s,
                tasks=policies_of(self.definition.task, self.definition.task_tools),
            )
        )

    async def _or_again(self, work: Awaitable[_T]) -> _T | None:
        """Result of ``work``; None when a new life was asked for meanwhile."""
        task = asyncio.ensure_future(work)
        again = asyncio.ensure_future(self._again.wait())
        try:
            await asyncio.wait((task, again), return_when=asyncio.FIRST_COMPLETED)
            return None if self._again.is_set() else task.result()
        finally:
            for one in (task, again):
                one.cancel()
            await asyncio.gather(task, again, return_exceptions=True)

    async def _pause(self, wait: Wait) -> None:
        self._enter(ServerState.QUARANTINED if wait.quarantined else ServerState.WAITING)
        self._next_start = self._loop.time() + wait.delay_s
        try:
            async with asyncio.timeout(wait.delay_s):
                await self._again.wait()
        except TimeoutError:
            pass

    async def _finish(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("calls outlast the server", extra={"server": self.name})

    def _learn(self, upstream: Life) -> None:
        """Remember the era; a server that died of the first question is not asked it again."""
        handshake = upstream.handshake
        if handshake is None:
            legacy = not upstream.spoke
        else:
            legacy = handshake.revision is not Revision.R2026_07_28
        self._legacy_until = self._loop.time() + ERA_TTL_S if legacy else 0.0

    def _enter(self, state: ServerState) -> None:
        self.state = state
        moved, self._moved = self._moved, self._loop.create_future()
        moved.set_result(None)

    # Calls

    async def _wait_for_start(self, timeout_s: float) -> Life:
        if self.state in {ServerState.WAITING, ServerState.QUARANTINED}:
            word = "is quarantined" if self.state is ServerState.QUARANTINED else "is down"
            left_s = max(0.0, self._next_start - self._loop.time())
            raise self._down(f"{word} ({self.reason})", left_s)
        until = self._loop.time() + min(
            timeout_s,
            START_WAIT_S,
            self.settings.answer_s - (self._loop.time() - self._began),
        )
        while self.state is ServerState.STARTING and (left_s := until - self._loop.time()) > 0:
            await asyncio.wait((self._moved,), timeout=left_s)
        upstream = self._upstream
        if upstream is None or not self._up.is_set():
            down = self.state in {ServerState.WAITING, ServerState.QUARANTINED}
            raise self._down(f"is down ({self.reason})" if down else "has not started yet", 1.0)
        return upstream

    def _down(self, what: str, retry_s: float) -> MeshError:
        return MeshError(
            ErrorKind.UPSTREAM,
            f"server {self.name} {what}",
            data={"upstream": self.name, "state": self.state.value},
            retry_after_s=retry_s,
            outcome=Outcome.NOT_EXECUTED,
        )

    def _count_failure(self, error: MeshError, timeout_s: float) -> None:
        now = self._loop.time()
        patient = timeout_s >= min(DEADLINE_COUNTS_S, self.definition.timeout_s)
        if error.kind is ErrorKind.UPSTREAM or (error.kind is ErrorKind.DEADLINE and patient):
            if self._breaker.failed(now, random.random()):  # noqa: S311
                _log.warning("breaker opened: %s", error.message, extra={"server": self.name})
        else:
            self._breaker.busy(now)


_CLOSE_S = 15.0
