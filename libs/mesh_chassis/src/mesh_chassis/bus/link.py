"""One supervised connection: reconnects, heartbeat, denials, and the point where it gives up.

nats-py says "connected" to a frozen broker, never raises on a denied publish and stays CLOSED for
good after most errors; this module notices each and tells whoever waits.
"""

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from nats import errors
from nats.aio.client import Server
from nats.nuid import NUID

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.frames import encode_error, encode_headers, error_headers, repliable
from mesh_chassis.bus.mux import ReplyMux
from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.bus.wire import WireClient
from mesh_chassis.link.addresses import is_link, parse
from mesh_chassis.link.dial import Dial, dialler

__all__ = ["Link"]

RECONNECT_FIRST_S = 0.05
RECONNECT_MAX_S = 2.0
"""Waits between attempts: doubling, with full jitter, so that a fleet does not return as a herd."""
DIAL_S = 2
"""One attempt; a frozen broker's kernel still accepts connections, so INFO is awaited too."""
PING_S = 2
PINGS_OUTSTANDING = 2
HEARTBEAT_S = 1.0
HEARTBEAT_MISS_S = 0.95
"""Two misses after one interval: a stalled broker is known after at most 2.9 s."""
LOOP_LAG_S = 0.5
"""A heartbeat that our own blocked loop kept waiting proves nothing."""
HOPELESS_S = 15.0
"""Reconnecting for longer although the broker greets strangers: credentials or limits are wrong."""
GREETINGS = 6
"""So many in a row, one each ``HEARTBEAT_S``: a broker that has just come back was tried twice."""
CLOSE_S = 2.0
DENIALS_MAX = 256
"""Refused subscriptions nobody asked about (those repeated after a reconnect)."""
LINK_URL = "nats://link:4222"
"""What nats-py is told where a link leads to the broker; nothing ever dials it."""
_DENIED = re.compile(r'permissions violation for (publish|subscription)[^"]*"([^"]*)"')
_log = logging.getLogger(__name__)


class Link:
    """A connection with its reply mux.

    Args:
        config: where and as whom.
        name: connection name as the broker's monitoring shows it.
        inbox_prefix: inbox space this user may subscribe.
        on_closed: called once when the connection is gone for good; the process should end.

    Raises:
        MeshError: ``params``: a link address that cannot be read, or one among several.
    """

    def __init__(
        self, config: BusConfig, *, name: str, inbox_prefix: str, on_closed: Callable[[], None]
    ) -> None:
        self._config = config
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._on_closed = on_closed
        self._dial_link = _dial_of(config.urls)
        self.client = WireClient(self._dial_link)
        self.mux = ReplyMux(self.client, f"{inbox_prefix}.{NUID().next().decode()}")
        self.lost_hooks: list[Callable[[], None]] = []
        self.back_hooks: list[Callable[[], Awaitable[None]]] = []
        self.reconnected_at = float("-inf")
        self.last_error = ""
        self._attempts = 0
        self._away_since = 0.0
        self._greetings = 0
        self._closing = False
        self._gave_up = False
        self._supervisor: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: asyncio.Future[str] | None = None
        self._denials: set[str] = set()
        self._down = False
        self.dropped = 0

    @property
    def connected(self) -> bool:
        """True while messages can be sent."""
        return self.client.is_connected and not self._closing

    @property
    def urls(self) -> str:
        """Configured servers without credentials, for messages."""
        return ", ".join(_redacted(url) for url in self._config.urls)

    async def connect(self) -> None:
        """Connect once, bounded by ``connect_timeout_s``.

        Raises:
            MeshError: ``bus``, naming the URLs and the reason.
        """
        loop = asyncio.get_running_loop()
        self._refused = loop.create_future()
        dial = loop.create_task(self._dial())
        try:
            done, _ = await asyncio.wait(
                {dial, self._refused},
                timeout=self._config.connect_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if dial in done:
                dial.result()
                await self._prepare()
                return
        except (OSError, ValueError, errors.Error) as error:
            self.last_error = str(error) or type(error).__name__
        except BaseException:
            await self._give_back(dial)
            raise
        await self._give_back(dial)
        reason = self.last_error or f"no answer within {self._config.connect_timeout_s:g} s"
        raise MeshError(ErrorKind.BUS, f"cannot connect to NATS at {self.urls}: {reason}")

    async def _prepare(self) -> None:
        await self.mux.start()
        self._supervisor = asyncio.get_running_loop().create_task(
            self._supervise(), name=f"bus-{self._name}"
        )
        await self.round_trip(self._config.connect_timeout_s)
        if self._denials:
            await self.close()
            raise MeshError(
                ErrorKind.BUS,
                f"NATS at {self.urls} does not permit {self._name} its inbox {self._inbox_prefix}",
            )

    async def _give_back(self, dial: "asyncio.Task[None]") -> None:
        self._closing = True
        dial.cancel()
        await asyncio.gather(dial, return_exceptions=True)
        await self.close()

    async def _dial(self) -> None:
        # As a dict: the parameter is annotated int, but any number of seconds works.
        options: dict[str, Any] = {"reconnect_time_wait": RECONNECT_FIRST_S}
        config = self._config
        if config.nkey_seed_file:
            options["nkeys_seed"] = config.nkey_seed_file
        if config.creds_file:
            options["user_credentials"] = config.creds_file
        if config.tls_ca_file:
            options["tls"] = ssl.create_default_context(cafile=config.tls_ca_file)
        await self.client.connect(
            servers=list(config.urls) if self._dial_link is None else [LINK_URL],
            name=self._name,
            inbox_prefix=self._inbox_prefix,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_client_closed,
            lame_duck_mode_cb=self._on_lame_duck,
            reconnect_to_server_handler=self._next_attempt,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            connect_timeout=DIAL_S,
            ping_interval=PING_S,
            max_outstanding_pings=PINGS_OUTSTANDING,
            skip_subject_validation=True,
            **options,
        )

    async def round_trip(self, timeout_s: float) -> None:
        """PING and PONG: everything sent before has reached the broker, answers included.

        Raises:
            MeshError: ``lost`` when there is no connection or no answer in time.
        """
        if not self.connected:
            raise MeshError(ErrorKind.LOST, "the connection to the bus is down")
        pong = await self.client.ping()
        await asyncio.wait({pong}, timeout=timeout_s)
        if not pong.done() or pong.cancelled():
            pong.cancel()
            raise MeshError(ErrorKind.LOST, "the broker does not answer")

    def take_denial(self, subject: str) -> bool:
        """True when the broker refused this subscription; the broker writes it in lower case."""
        refused = subject.lower() in self._denials
        self._denials.discard(subject.lower())
        return refused

    async def close(self) -> None:
        """Close for good; what is in flight fails."""
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        if self.client.is_connected:
            pong = await self.client.ping()  # what was published last leaves before the socket
            await asyncio.wait({pong}, timeout=CLOSE_S)
        self.mux.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.client.shut()
        except (TimeoutError, OSError, errors.Error) as error:
            _log.debug("closing the connection: %s", error)

    # What nats-py reports

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, errors.SlowConsumerError):
            self.dropped += 1
            if error.reply and repliable(error.reply.encode()) and self.connected:
                self._answer_busy(error.reply)
            if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, 8 … not one line per message
                _log.warning("bus %s: slow handler, %d messages dropped", self._name, self.dropped)
            return
        text = str(error) or type(error).__name__
        denial = _DENIED.search(text.lower())
        if denial is None:
            self.last_error = text
            if self._refused is not None and not self._refused.done() and _is_refusal(text):
                self._refused.set_result(text)
            if not self._closing:
                _log.info("bus %s: %s", self._name, text)
            return
        what, subject = denial.groups()
        if what == "subscription":
            if len(self._denials) >= DENIALS_MAX:
                self._denials.clear()
            self._denials.add(subject)
        elif self.mux.denied(subject):
            return
        _log.warning("the broker denies %s: %s", self._name, text)

    def _answer_busy(self, reply: str) -> None:
        busy = MeshError(ErrorKind.OVERLOADED, "too many messages wait", retry_after_s=0.1)
        block = encode_headers(error_headers(busy))
        self.client.send(reply, "", encode_error(busy, None), block)

    async def _on_disconnected(self) -> None:
        self._lost()

    async def _on_reconnected(self) -> None:
        if self._closing:
            return
        self._attempts = 0
        self._down = False
        self._away_since, self._greetings = 0.0, 0
        self.reconnected_at = asyncio.get_running_loop().time()
        _log.info("bus %s: connected again", self._name)
        for hook in self.back_hooks:
            task = asyncio.get_running_loop().create_task(_guarded(hook))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _on_client_closed(self) -> None:
        self._lost()
        self._give_up(f"closed by the broker: {self.client.last_error}")

    async def _on_lame_duck(self) -> None:
        if len(self.client.servers) > 1:
            await self.client.force_reconnect()

    def _next_attempt(
        self, servers: list[Server], _info: dict[str, Any]
    ) -> tuple[Server | None, float]:
        wait = min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2 ** min(self._attempts, 10))
        server = servers[self._attempts % len(servers)]
        self._attempts += 1
        return server, random.uniform(0, wait)  # noqa: S311 - jitter

    # Supervision

    def _lost(self) -> None:
        self.client.drop_unsent()
        self.mux.fail_all()
        if self._closing or self._down:
            return
        self._down = True
        _log.warning("bus %s: connection lost", self._name)
        for hook in self.lost_hooks:
            hook()

    def _give_up(self, reason: str) -> None:
        if not self._closing and not self._gave_up:
            self._gave_up = True
            _log.error("bus %s: gone for good: %s", self._name, reason)
            self._on_closed()

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self.client.is_connected:
                if not await self._heartbeat(loop):
                    _log.warning("bus %s: the broker does not answer", self._name)
                    self._lost()
                    await self.client.force_reconnect()
            elif self.client.is_reconnecting and await self._is_hopeless(loop):
                self._give_up(f"cannot reconnect to {self.urls}: {self.last_error}")

    async def _is_hopeless(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether attempts to reconnect fail although the broker greets, look after look.

        Counted from our own looks: a process that was frozen, or a broker that was away, has had
        no attempt in that time.
        """
        self._away_since = self._away_since or loop.time()
        if loop.time() - self._away_since <= HOPELESS_S or not await self._greets():
            self._greetings = 0
            return False
        self._greetings += 1
        return self.client.is_reconnecting and self._greetings > GREETINGS

    async def _heartbeat(self, loop: asyncio.AbstractEventLoop) -> bool:
        pong = await self.client.ping()
        misses = 0
        while misses < 2:
            before = loop.time()
            await asyncio.wait({pong}, timeout=HEARTBEAT_MISS_S)
            if pong.done() or not self.client.is_connected:
                return True
            if loop.time() - before < HEARTBEAT_MISS_S + LOOP_LAG_S:
                misses += 1
        return False

    async def _greets(self) -> bool:
        """True when a server accepts a stranger and sends its INFO line."""
        dials = [self._dial_link or _tcp(url) for url in self._config.urls]
        for dial in dials:
            try:
                async with asyncio.timeout(DIAL_S):
                    reader, writer = await dial()
                    try:
                        if (await reader.readline()).startswith(b"INFO"):
                            return True
                    finally:
                        writer.close()
            except (OSError, TimeoutError):
                continue
        return False


async def _guarded(hook: Callable[[], Awaitable[None]]) -> None:
    try:
        await hook()
    except Exception:  # noqa: BLE001 - one hook must not keep the others from running
        _log.exception("reconnect hook failed")


def _is_refusal(text: str) -> bool:
    lower = text.lower()
    return "authorization" in lower or "authentication" in lower


def _dial_of(urls: tuple[str, ...]) -> Dial | None:
    """What opens the link that these URLs name; None = they name brokers."""
    if not any(is_link(url) for url in urls):
        return None
    link, *others = urls
    if others:
        raise MeshError(ErrorKind.PARAMS, "a link leads to one broker: it stands alone in urls")
    return dialler(parse(link))


def _tcp(url: str) -> Dial:
    parts = urlsplit(url)
    return lambda: asyncio.open_connection(parts.hostname, parts.port or 4222)


def _redacted(url: str) -> str:
    if is_link(url):
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}"
