"""Watched resources of one upstream server, through all its lives.

Gateways subscribe and renew; here is one subscription per URI at the upstream, made again in
every new life. Between two lives updates may be missed, so everything that was watched is told as
updated once the new life watches it. What the upstream says is coalesced and told to all
gateways; who of their clients hears it is theirs to decide.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from mcp_proto.contracts.watching import Asked, Updated, Verdict
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.core.watches import WatchTable

__all__ = ["COALESCE_S", "PENDING_MAX", "Tell", "Watching"]

COALESCE_S = 0.02
"""Updates of one URI within this time are told once."""
PENDING_MAX = 10_000
"""URIs of updates that wait to be told; further ones are dropped and logged."""
SWEEP_S = 5.0
"""How often leases are looked at."""
RETRY_S = 2.0
"""After an upstream failed to take subscriptions."""

Watch = Callable[[frozenset[str]], Awaitable[Mapping[str, str]]]
"""``Upstream.watch``."""
Tell = Callable[[Updated], Awaitable[None]]
"""Publishes an event to the gateways; raises ``MeshError``."""

_log = logging.getLogger(__name__)


class _Uri(msgspec.Struct):
    uri: str


_URI = msgspec.json.Decoder(_Uri)


class Watching:
    """What gateways watch of one server.

    Args:
        server: its name, for errors and logs.
        tell: publishes an event.
    """

    def __init__(self, server: str, tell: Tell) -> None:
        self._server = server
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._table = WatchTable()
        self._applied: frozenset[str] = frozenset()
        self._missed: set[str] = set()
        """Watched in a life that is over."""
        self._waiting: dict[str, asyncio.Future[str | None]] = {}
        self._wanted = asyncio.Event()
        self._heard = asyncio.Event()
        self._pending: dict[Updated, None] = {}

    def __len__(self) -> int:
        """Watched URIs."""
        return len(self._table)

    async def subscribe(self, asked: Asked) -> Verdict:
        """Watch for a gateway; waits for the upstream's word. Bound it with a time-out.

        Raises:
            MeshError: ``upstream`` when the server ended meanwhile, ``overloaded``.
        """
        now = self._loop.time()
        fresh = [uri for uri in asked.uris if self._table.renew(uri, asked.subscriber, now)]
        verdicts = {uri: self._verdict(uri) for uri in asked.uris if uri not in self._applied}
        if not verdicts:
            return Verdict(fresh=tuple(fresh))
        self._wanted.set()
        await asyncio.wait(verdicts.values())
        refused: dict[str, str] = {}
        for uri, verdict in verdicts.items():
            reason = verdict.result()
            if reason is not None:
                refused[uri] = reason
        return Verdict(refused=refused, fresh=tuple(uri for uri in fresh if uri not in refused))

    def unsubscribe(self, asked: Asked) -> None:
        """A gateway has no listener left."""
        for uri in asked.uris:
            self._table.end(uri, asked.subscriber)
        self._wanted.set()

    def updated(self, params: msgspec.Raw) -> None:
        """``notifications/resources/updated`` of the upstream; never blocks.

        A server may name a part of what is watched, so any URI is told on while anything is.
        """
        if not self._table:
            return
        try:
            uri = _URI.decode(params).uri
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        self._queue(Updated(uri=uri))

    async def run(self, watch: Watch) -> None:
        """Keep the upstream of this life watching what is wanted, until cancelled."""
        self._queue(Updated(anew=True))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publish())
                await self._follow(watch)
        finally:
            self._missed |= self._applied
            self._applied = frozenset()
            gone = MeshError(
                ErrorKind.UPSTREAM,
                f"server {self._server} ended",
                data={"upstream": self._server},
                outcome=Outcome.NOT_EXECUTED,
            )
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(gone)
                    waiting.exception()  # whoever waited may be gone
            self._waiting.clear()

    async def _follow(self, watch: Watch) -> None:
        while True:
            self._wanted.clear()
            pause_s = SWEEP_S
            wanted = self._table.alive(self._loop.time())
            if wanted != self._applied or self._waiting:
                try:
                    refused = await watch(wanted)
                except MeshError as error:
                    _log.warning("watch: %s", error.message, extra={"server": self._server})
                    self._settle_failed(error)
                    pause_s = RETRY_S
                else:
                    self._applied = wanted - refused.keys()
                    self._table.forget(refused)
                    self._settle(wanted, refused)
                    for uri in self._missed & self._applied:
                        self._queue(Updated(uri=uri))
                    self._missed.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _publish(self) -> None:
        while True:
            await self._heard.wait()
            await asyncio.sleep(COALESCE_S)
            self._heard.clear()
            pending, self._pending = self._pending, {}
            for event in pending:
                try:
                    await self._tell(event)
                except MeshError as error:
                    _log.info("not told: %s", error.message, extra={"server": self._server})

    def _queue(self, event: Updated) -> None:
        if len(self._pending) >= PENDING_MAX:
            _log.warning("too many updates, one is dropped", extra={"server": self._server})
            return
        self._pending[event] = None
        self._heard.set()

    def _verdict(self, uri: str) -> asyncio.Future[str | None]:
        waiting = self._waiting.get(uri)
        if waiting is None:
            waiting = self._waiting[uri] = self._loop.create_future()
        return waiting

    def _settle(self, wanted: frozenset[str], refused: Mapping[str, str]) -> None:
        for uri in [uri for uri in self._waiting if uri in wanted]:
            waiting = self._waiting.pop(uri)
            if not waiting.done():
                waiting.set_result(refused.get(uri))
        # Unsubscribed before the upstream was asked: nobody is interested in the answer.
        for uri in [uri for uri in self._waiting if uri not in self._table]:
            waiting = self._waiting.pop(uri)
            if not waiting.done():
                waiting.set_result("was unsubscribed meanwhile")

    def _settle_failed(self, error: MeshError) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()
        self._waiting.clear()
