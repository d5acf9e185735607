"""Who at this gateway hears of which updated resource, and the subscriptions behind it.

A ``ResourceWatch`` belongs to one stream or connection. What it aims at is resolved like a read:
the same table, the same grant, again whenever either changes. The runner of the server is asked
once per resource, again every 20 s, and at once when the server is served anew. An update reaches
every gateway as an event; here it is mapped back to the URI each client knows.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from gateway.core.answers import result_of
from gateway.core.routing import BUILT_IN
from gateway.core.subscriptions import Batch, Interest, Interests, Server
from gateway.identity import Caller
from gateway.store import Catalogs
from mcp_proto import subjects
from mcp_proto.codec import encode_request
from mcp_proto.contracts import watching
from mcp_proto.contracts.watching import Asked, Updated, Verdict
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import LIST_TIMEOUT_S
from mcp_proto.session import SUBSCRIPTIONS_MAX
from mesh_chassis.bus.connection import Bus, Msg, Subscription
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["COALESCE_S", "SETTLE_S", "ResourceWatch", "Subscriptions", "Told"]

SETTLE_S = 2.0
"""How long a listener waits for the word of the servers it wants to hear."""
COALESCE_S = 0.02
"""Updates of one resource within this time are told once to each listener."""
PENDING_MAX = 1_000
"""Updates that wait for one listener; further ones are dropped."""
ASKING_MAX = 32
"""Requests to runners in flight."""
EVENTS_PENDING = 65_536
"""Events that wait for the handler, which only fills tables."""
_TICK_MAX_S = 5.0

Told = Callable[[str], None]
"""Takes the URI of a resource that changed; must not block."""

_UPDATED = msgspec.json.Decoder(Updated)
_VERDICT = msgspec.json.Decoder(Verdict)
_log = logging.getLogger(__name__)


class ResourceWatch:
    """What one listener wants to hear of. Make it with ``Subscriptions.watch``; close it."""

    def __init__(
        self, subscriptions: "Subscriptions", caller: Caller, told: Told, endpoint: str
    ) -> None:
        self._all = subscriptions
        self._told = told
        self._endpoint = endpoint
        self._aims: dict[str, Interest[ResourceWatch] | None] = {}
        self._problems: dict[str, MeshError] = {}
        self._pending: dict[str, None] = {}
        self._lists: object = None
        self._closed = False
        self.caller = caller

    @property
    def uris(self) -> tuple[str, ...]:
        """What it aims at."""
        return tuple(self._aims)

    def problem(self, uri: str) -> MeshError | None:
        """Why the last attempt to watch ``uri`` failed."""
        return self._problems.get(uri)

    def aim(self, uris: Iterable[str]) -> None:
        """Want exactly these from now on, at most ``SUBSCRIPTIONS_MAX``; further ones are not."""
        if self._closed:
            return
        wanted = list(dict.fromkeys(uris))
        for uri in wanted[SUBSCRIPTIONS_MAX:]:
            self._problems[uri] = MeshError(
                ErrorKind.OVERLOADED, f"at most {SUBSCRIPTIONS_MAX} resources can be watched"
            )
        kept = dict.fromkeys(wanted[:SUBSCRIPTIONS_MAX])
        for uri in [one for one in self._aims if one not in kept]:
            self._leave(uri)
            del self._aims[uri]
            self._pending.pop(uri, None)
        for uri in kept:
            if uri not in self._aims:
                self._problems.pop(uri, None)
                self._aims[uri] = self._join(uri)

    async def settle(self, timeout_s: float = SETTLE_S) -> frozenset[str]:
        """Wait for the word of the servers.

        Returns:
            What is watched; of the rest ``problem`` tells why not.
        """
        verdicts = {
            self._all.verdict(one)
            for one in self._aims.values()
            if one is not None and not one.watched
        }
        if verdicts:
            await asyncio.wait(verdicts, timeout=timeout_s)
        return frozenset(uri for uri, one in self._aims.items() if one is not None and one.watched)

    def renew(self, caller: Caller) -> None:
        """The credential was checked again; what it may see may differ."""
        self.caller = caller
        self.look_again()

    def look_again(self) -> None:
        """Lists or grant changed: what was aimed at may be elsewhere, or not for us any more."""
        for uri, before in list(self._aims.items()):
            found = self._find(uri)
            if before is not None and found == (before.server, before.uri):
                continue
            self._leave(uri)
            now = self._aims[uri] = self._join(uri)
            if now is not None:
                # Another resource than before under this URI, or there again: read it again.
                self.push(uri)

    def push(self, uri: str) -> None:
        """It changed: tell soon, once."""
        if uri in self._pending or len(self._pending) >= PENDING_MAX:
            return
        self._pending[uri] = None
        self._all.soon(self)

    def flush(self) -> None:
        """Tell what changed, as far as it may be seen by now."""
        if self._closed:
            return
        if self._lists is not self._view():
            self.look_again()
        pending, self._pending = self._pending, {}
        for uri in pending:
            if self._aims.get(uri) is not None or uri not in self._aims:
                self._told(uri)

    def close(self) -> None:
        """Hear no more."""
        self.aim(())
        self._closed = True
        self._all.drop(self)

    def _view(self) -> object:
        try:
            return self._all.catalogs.lists(self.caller.viewer, self._endpoint)
        except MeshError:
            return None

    def _find(self, uri: str) -> tuple[Server, str] | None:
        lists = self._view()
        self._lists = lists
        catalogs = self._all.catalogs
        try:
            item = catalogs.lists(self.caller.viewer, self._endpoint).view.resource(uri)
            found = catalogs.offer_of(self.caller.tenant, item.server)
            if found is None or not found.abilities.subscribe:
                raise MeshError(
                    ErrorKind.METHOD, f"server {item.server} has no resource subscriptions"
                )
        except MeshError as error:
            self._problems[uri] = error
            return None
        # Resources of a native toolset differ by tenant, under one URI: theirs is another server.
        owner = self.caller.tenant if found.rank == BUILT_IN else found.tenant
        return Server(owner, item.server), item.name

    def _join(self, uri: str) -> "Interest[ResourceWatch] | None":
        found = self._find(uri)
        if found is None:
            return None
        try:
            return self._all.join(*found, self, uri)
        except MeshError as error:
            self._problems[uri] = error
            return None

    def _leave(self, uri: str) -> None:
        interest = self._aims[uri]
        if interest is not None:
            self._all.leave(interest, self, uri)

    def failed(self, interest: "Interest[ResourceWatch]", error: MeshError) -> None:
        """The server did not take it."""
        for uri in interest.listeners.get(self, ()):
            self._problems[uri] = error


class Subscriptions:
    """All watches of a gateway. ``start`` once, before the edges.

    Args:
        bus: connected.
        catalogs: where a URI belongs, and who may see it.
        tasks: parent of requests to runners.
    """

    def __init__(self, bus: Bus, catalogs: Catalogs, tasks: Tasks) -> None:
        self.catalogs = catalogs
        self._bus = bus
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._interests: Interests[ResourceWatch] = Interests()
        self._verdicts: dict[Interest[ResourceWatch], asyncio.Future[None]] = {}
        self._watches: dict[ResourceWatch, None] = {}
        self._dirty: dict[ResourceWatch, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(ASKING_MAX)
        self._events: Subscription | None = None

    def __len__(self) -> int:
        """Resources asked for."""
        return len(self._interests)

    async def start(self) -> None:
        """Hear of updates from now on.

        Raises:
            MeshError: ``denied``, ``bus``.
        """
        subject = subjects.event(subjects.ANY, "updated", subjects.ANY)
        self._events = await self._bus.subscribe(subject, self._heard, pending=EVENTS_PENDING)
        self._bus.on_reconnect(self._after_reconnect)
        self.catalogs.on_change.append(self._lists_changed)
        self._tasks.spawn(self._run(), name="subscriptions", fatal=True)

    async def stop(self) -> None:
        """Tell nobody any more. Runners forget this gateway by time."""
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        if self._events is not None:
            await self._events.unsubscribe()

    def watch(self, caller: Caller, told: Told, endpoint: str = "") -> ResourceWatch:
        """A watch that aims at nothing yet."""
        made = ResourceWatch(self, caller, told, endpoint)
        self._watches[made] = None
        return made

    # What watches use -----------------------------------------------------------------------

    def join(
        self, server: Server, uri: str, watch: ResourceWatch, listed: str
    ) -> Interest[ResourceWatch]:
        """See ``Interests.join``."""
        interest = self._interests.join(server, uri, watch, listed, self._loop.time())
        self._wake.set()
        return interest

    def leave(self, interest: Interest[ResourceWatch], watch: ResourceWatch, listed: str) -> None:
        """See ``Interests.leave``."""
        self._interests.leave(interest, watch, listed, self._loop.time())
        self._wake.set()

    def verdict(self, interest: Interest[ResourceWatch]) -> asyncio.Future[None]:
        """Done when the server was asked for it next, well or not."""
        verdict = self._verdicts.get(interest)
        if verdict is None:
            verdict = self._verdicts[interest] = self._loop.create_future()
        return verdict

    def soon(self, watch: ResourceWatch) -> None:
        """Flush it in a moment."""
        self._dirty[watch] = None
        if self._timer is None:
            self._timer = self._loop.call_later(COALESCE_S, self._flush)

    def drop(self, watch: ResourceWatch) -> None:
        """It is closed."""
        self._watches.pop(watch, None)
        self._dirty.pop(watch, None)

    def _flush(self) -> None:
        self._timer = None
        dirty, self._dirty = self._dirty, {}
        for watch in dirty:
            try:
                watch.flush()
            except Exception:  # noqa: BLE001 - one listener must not end the others
                _log.exception("a listener failed and is dropped")
                watch.close()

    # What happens ---------------------------------------------------------------------------

    async def _heard(self, message: Msg) -> None:
        try:
            subject = subjects.parse(message.subject)
            event = _UPDATED.decode(message.data)
        except (ValueError, msgspec.DecodeError):
            _log.warning("an update that cannot be read", extra={"subject": message.subject})
            return
        server = Server(subject.tenant, subject.names[1])
        if event.anew and self._interests.anew(server, self._loop.time()):
            self._wake.set()
        if event.uri:
            for watch, listed in self._interests.hearing(server, event.uri):
                watch.push(listed)

    async def _after_reconnect(self) -> None:
        """Events were lost while there was no connection."""
        now = self._loop.time()
        for interest in self._interests:
            interest.due = min(interest.due, now)
            self._tell(interest)
        self._wake.set()

    def _lists_changed(self, _tenant: str) -> None:
        if self._looking is None and self._watches:
            self._looking = self._loop.call_later(COALESCE_S, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        for watch in tuple(self._watches):
            watch.look_again()

    def _tell(self, interest: Interest[ResourceWatch]) -> None:
        for watch, names in interest.listeners.items():
            for listed in names:
                watch.push(listed)

    # Asking runners -------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now = self._loop.time()
            for batch in self._interests.due(now):
                self._begin(batch)
            due = self._interests.next_due()
            pause_s = _TICK_MAX_S if due is None else min(_TICK_MAX_S, max(0.0, due - now))
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _begin(self, batch: Batch[ResourceWatch]) -> None:
        try:
            self._tasks.spawn(self._ask(batch), name="ask-updates")
        except TasksFullError:
            error = MeshError(ErrorKind.OVERLOADED, "the gateway is overloaded")
            self._failed(batch, error)

    async def _ask(self, batch: Batch[ResourceWatch]) -> None:
        async with self._slots:
            if not batch.wanted:
                await self._unsubscribe(batch)
                return
            try:
                verdict = await self._request(batch)
            except MeshError as error:
                self._failed(batch, error)
            else:
                self._answered(batch, verdict)
            self._wake.set()

    async def _request(self, batch: Batch[ResourceWatch]) -> Verdict:
        method = watching.SUBSCRIBE if batch.wanted else watching.UNSUBSCRIBE
        asked = Asked(uris=tuple(one.uri for one in batch.interests), subscriber=self._bus.instance)
        caller, context = self._speaker(batch)
        request_id = self._bus.new_request_id()
        body = await self._bus.call(
            subjects.rpc(caller.tenant, batch.server.name, method),
            encode_request(method, request_id, watching.write_asked(asked)),
            envelope=RequestEnvelope(method=method, request_id=request_id, context=context),
            timeout_s=LIST_TIMEOUT_S,
            tenant=caller.tenant,
        )
        try:
            return _VERDICT.decode(result_of(body, batch.server.name))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MeshError(ErrorKind.UPSTREAM, "an answer that cannot be read") from None

    def _speaker(self, batch: Batch[ResourceWatch]) -> tuple[Caller, str]:
        """A caller in whose name the runner is asked: any of those who listen."""
        failure = MeshError(ErrorKind.UNAUTHENTICATED, "nobody listens any more")
        for interest in batch.interests:
            last = () if interest.last is None else (interest.last,)
            for watch in (*interest.listeners, *last):
                try:
                    return watch.caller, watch.caller.context(self._loop.time())
                except MeshError as error:
                    failure = error
        raise failure

    def _answered(self, batch: Batch[ResourceWatch], verdict: Verdict) -> None:
        now = self._loop.time()
        fresh = frozenset(verdict.fresh)
        for interest in batch.interests:
            reason = verdict.refused.get(interest.uri)
            missed = interest.watched and interest.uri in fresh
            self._interests.answered(interest, now, watched=reason is None)
            if reason is not None:
                self._refused(interest, MeshError(ErrorKind.UPSTREAM, reason))
            elif missed:
                # Another runner, or a new one: what changed in between nobody heard.
                self._tell(interest)
            self._settle(interest)

    def _failed(self, batch: Batch[ResourceWatch], error: MeshError) -> None:
        now = self._loop.time()
        for interest in batch.interests:
            self._interests.answered(interest, now, watched=False)
            self._refused(interest, error)
            self._settle(interest)

    def _refused(self, interest: Interest[ResourceWatch], error: MeshError) -> None:
        for watch in interest.listeners:
            watch.failed(interest, error)

    def _settle(self, interest: Interest[ResourceWatch]) -> None:
        verdict = self._verdicts.pop(interest, None)
        if verdict is not None and not verdict.done():
            verdict.set_result(None)

    async def _unsubscribe(self, batch: Batch[ResourceWatch]) -> None:
        """Nobody listens here any more; told on a best effort, runners forget by time anyway."""
        try:
            await self._request(batch)
        except MeshError as error:
            _log.debug("not unsubscribed: %s", error.message, extra={"server": batch.server.name})
        now = self._loop.time()
        for interest in batch.interests:
            self._interests.given_back(interest, now)
            if not interest.listeners:
                self._settle(interest)
        self._wake.set()
