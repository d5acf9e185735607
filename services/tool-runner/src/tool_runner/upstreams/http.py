"""An MCP server behind an HTTP address: streamable HTTP of both eras.

One object is one life: from finding the era to the moment the server can no longer be talked to.
There is no connection whose end would say that, so the server is asked from time to time; a
legacy verdict is questioned too, because a server that was upgraded would never object to the
old dialect.
"""

import asyncio
import itertools
import logging
import random

import msgspec

from mcp_proto.codec import encode
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.limits import CALL_TIMEOUT_MAX_S, LIST_TIMEOUT_S
from mesh_chassis.tasks import Tasks
from tool_runner.core.askers import Askers
from tool_runner.core.dialect import Handshake, discover_params, proves_modern
from tool_runner.upstreams.http_answers import Refusal
from tool_runner.upstreams.http_failures import failed, refused
from tool_runner.upstreams.http_legacy import LegacyHttp
from tool_runner.upstreams.http_link import HttpLink
from tool_runner.upstreams.http_modern import ModernHttp
from tool_runner.upstreams.listing import read_offer
from tool_runner.upstreams.notices import Notices
from tool_runner.upstreams.upstream import Listener, Offer, Request

__all__ = ["HttpSettings", "HttpUpstream"]

_log = logging.getLogger(__name__)

_METHOD = -32601
_CHECK_PAUSE_S = 0.1
_TASKS_MAX = 512
"""Tasks of one life: listening, checking, and notifications on their way."""


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are watched over.

    Attributes:
        start_timeout_s: longest start, from the first connect to the last list.
        check_s: how often an idle server is asked whether it lives, spread by a fifth.
        patience_s: how long it may take to answer that.
        era_s: how long a legacy verdict is believed.
    """

    start_timeout_s: float = 60.0
    check_s: float = 30.0
    patience_s: float = 5.0
    era_s: float = 600.0


class HttpUpstream:
    """``Upstream`` over streamable HTTP.

    Args:
        definition: where it is.
        link: connections to it; closed with this object.
        listener: hears of changed lists.
        settings: bounds.
        legacy: the era is known to be legacy.
        askers: what is known of the server's habit to ask back, over all its lives.
    """

    pid = 0
    spoke = True
    """Silence over a network says nothing about the era."""

    def __init__(
        self,
        definition: ServerDefinition,
        link: HttpLink,
        listener: Listener,
        *,
        settings: HttpSettings | None = None,
        legacy: bool = False,
        askers: Askers | None = None,
    ) -> None:
        self._definition = definition
        self._name = definition.name
        self._link = link
        self._listener = listener
        self._settings = settings or HttpSettings()
        self._legacy_first = legacy
        self._numbers = itertools.count(1)
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks = Tasks(f"upstream {definition.name}", tasks_max=_TASKS_MAX)
        self._modern = ModernHttp(self._name, link, listener, self._numbers)
        self._legacy = LegacyHttp(
            self._name, link, listener, self._numbers, self._tasks, self._broken, askers
        )
        self._legacy.on_session = self._renew_watches
        self._era: ModernHttp | LegacyHttp | None = None
        self._notices: Notices | None = None
        self._uris: frozenset[str] = frozenset()
        self._checking = asyncio.Event()
        self._heard_at = 0.0

    @property
    def handshake(self) -> Handshake | None:
        """What the server said of itself; None before."""
        return self._era.handshake if self._era is not None else None

    def log_tail(self, lines: int = 20) -> list[str]:
        """Nothing is known of its log."""
        del lines
        return []

    async def start(self) -> Offer:
        """See ``Upstream``."""
        self._link.open()
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                await self._find_era()
                offer = await self.read_offer()
        except MeshError as error:
            error.outcome = Outcome.NOT_EXECUTED  # no call of anybody was on its way
            raise
        except TimeoutError:
            raise failed(
                self._name,
                f"did not speak MCP within {self._settings.start_timeout_s:.3g} s",
                Outcome.NOT_EXECUTED,
            ) from None
        self._tasks.spawn(self._watch_over(), name="check")
        return offer

    async def call(self, request: Request) -> bytes | ErrorObject:
        """See ``Upstream``."""
        era = self._era
        if era is None or self._ended.done():
            reason = self._ended.result() if self._ended.done() else "is not connected"
            raise failed(self._name, reason, Outcome.NOT_EXECUTED)
        try:
            answer = await era.call(request)
        except MeshError as error:
            if error.kind in {ErrorKind.UPSTREAM, ErrorKind.DEADLINE}:
                self._checking.set()
            raise
        self._heard_at = asyncio.get_running_loop().time()
        return answer

    async def read_offer(self) -> Offer:
        """See ``Upstream``."""
        era = self._era
        if era is None or era.handshake is None:
            raise failed(self._name, "is not connected", Outcome.NOT_EXECUTED)
        offer = await read_offer(self._name, era.handshake, self._ask)
        if isinstance(era, ModernHttp):
            return msgspec.structs.replace(offer, tools=era.learn_tools(offer.tools))
        return offer

    async def watch(self, uris: frozenset[str]) -> dict[str, str]:
        """See ``Upstream``."""
        if self._notices is None:
            raise failed(self._name, "is not connected", Outcome.NOT_EXECUTED)
        self._uris = uris
        return dict(await self._notices.watch(uris))

    async def wait_ended(self) -> str:
        """See ``Upstream``."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End it at once; ``close`` must still follow."""
        self._broken("was stopped")

    async def close(self) -> None:
        """See ``Upstream``: the session is ended at the server, then every connection."""
        politely = not self._ended.done()
        self._legacy.release()
        self._broken("was stopped")
        try:
            if politely and self._era is not None:
                await self._era.close()
        finally:
            await self._tasks.close()
            await self._link.close()

    # The era

    async def _find_era(self) -> None:
        if self._legacy_first and await self._open_legacy(surely=False):
            return
        handshake = await self._modern.discover()
        if handshake is None:
            await self._open_legacy(surely=True)
        elif not (handshake.bare and await self._serves_legacy()):
            self._modern.handshake = handshake
            self._enter(self._modern)

    async def _serves_legacy(self) -> bool:
        """Whether a server without ``server/discover`` is one of old behind a modern front.

        Every modern server has that method; a bridge (supergateway) hands it on to the old server
        behind it, and without a session can do little for it.
        """
        try:
            return await self._open_legacy(surely=False)
        except MeshError:
            return False

    async def _open_legacy(self, *, surely: bool) -> bool:
        """Shake hands as of old; False when the refusal means that the server is modern."""
        answer = await self._legacy.open(self._settings.start_timeout_s)
        if isinstance(answer, Handshake):
            self._enter(self._legacy)
            self._legacy.hear()
            return True
        error = answer.error if isinstance(answer, Refusal) else answer
        if not surely and error is not None and (proves_modern(error) or error.code == _METHOD):
            return False
        if isinstance(answer, ErrorObject):
            raise failed(
                self._name, f"refused initialize: {answer.message[:200]}", Outcome.NOT_EXECUTED
            )
        problem = refused(self._name, answer)
        if answer.status in {400, 404, 405}:
            problem.message += '; a server of HTTP+SSE (2024-11-05) needs transport "sse"'
        raise problem

    def _enter(self, era: ModernHttp | LegacyHttp) -> None:
        self._era = era
        self._notices = Notices(self._name, era, self._listener, self._tasks)
        self._notices.open()
        self._heard_at = asyncio.get_running_loop().time()

    def _renew_watches(self) -> None:
        """A new session watches nothing yet, and what changed meanwhile was not heard."""
        self._notices = Notices(self._name, self._legacy, self._listener, self._tasks)
        if self._uris:
            self._tasks.spawn(self._watch_again(self._notices, self._uris), name="watch")

    async def _watch_again(self, notices: Notices, uris: frozenset[str]) -> None:
        try:
            await notices.watch(uris)
        except MeshError as error:
            _log.warning("watch: %s", error.message, extra={"server": self._name})
        for uri in uris:
            self._listener.resource_updated(msgspec.Raw(encode({"uri": uri})))

    async def _ask(self, method: str, params: bytes) -> msgspec.Raw | ErrorObject:
        if self._era is None:
            raise failed(self._name, "is not connected", Outcome.NOT_EXECUTED)
        return await self._era.ask(method, params, LIST_TIMEOUT_S)

    # Is it still there, and still what it was?

    async def _watch_over(self) -> None:
        settings, loop = self._settings, asyncio.get_running_loop()
        verdict_at, failures = loop.time(), 0
        while not self._ended.done():
            suspected = await self._pause(settings.check_s * random.uniform(0.8, 1.2))  # noqa: S311
            fixed = self._definition.era == "legacy"
            due = loop.time() - verdict_at >= settings.era_s
            if isinstance(self._era, LegacyHttp) and due and not fixed:
                verdict_at = loop.time()
                await self._upgrade(self._era)
            if isinstance(self._era, ModernHttp) and self._era.doubted.is_set():
                self._broken("no longer speaks MCP 2026-07-28")
                return
            idle_s = loop.time() - self._heard_at
            if not suspected and not failures and idle_s < settings.check_s / 2:
                continue
            problem = await self._check()
            failures = failures + 1 if problem is not None else 0
            if problem is not None and problem.kind is ErrorKind.OVERLOADED:
                failures = 0  # it lives
            elif problem is not None and (problem.outcome is Outcome.NOT_EXECUTED or failures > 1):
                self._broken(problem.message.removeprefix(f"server {self._name} "))
                return
            elif problem is not None:
                self._checking.set()

    async def _pause(self, seconds: float) -> bool:
        """Wait; True when a call gave reason to look at once."""
        try:
            async with asyncio.timeout(seconds):
                await self._checking.wait()
        except TimeoutError:
            return False
        await asyncio.sleep(_CHECK_PAUSE_S)
        self._checking.clear()
        return True

    async def _check(self) -> MeshError | None:
        modern = isinstance(self._era, ModernHttp)
        method, params = ("server/discover", discover_params()) if modern else ("ping", b"")
        era = self._era
        if era is None:
            return None
        try:
            await era.ask(method, params, self._settings.patience_s)
        except MeshError as error:
            return error
        self._heard_at = asyncio.get_running_loop().time()
        return None

    async def _upgrade(self, old: LegacyHttp) -> None:
        """Ask for the era again; a server that is modern now is talked to as one from here on."""
        try:
            handshake = await self._modern.discover()
            if handshake is None or handshake.bare:
                return
            offer = await read_offer(
                self._name,
                handshake,
                lambda method, params: self._modern.ask(method, params, LIST_TIMEOUT_S),
            )
        except MeshError as error:
            _log.debug("era: %s", error.message, extra={"server": self._name})
            return
        self._modern.handshake = handshake
        self._modern.learn_tools(offer.tools)
        self._enter(self._modern)
        _log.info("the server speaks MCP 2026-07-28 now", extra={"server": self._name})
        self._listener.lists_changed()
        if self._notices is not None and self._uris:
            self._tasks.spawn(self._watch_again(self._notices, self._uris), name="watch")
        self._tasks.spawn(self._let_go(old), name="let-go")

    async def _let_go(self, old: LegacyHttp) -> None:
        """Calls that began in the old session end in it."""
        await old.idle(CALL_TIMEOUT_MAX_S)
        await old.close()

    def _broken(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)
