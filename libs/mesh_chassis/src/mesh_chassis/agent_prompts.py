"""Agents of the Synadia Agent Protocol, found and prompted over the supervised connection.

One subscription carries all exchanges of its owner, each under a token of its own. The protocol has
no cancel: an agent whose answer nobody reads any more works on.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import msgspec

from mcp_proto import agent_protocol as wire
from mcp_proto.agent_protocol import Chunk, FoundAgent, Prompt
from mcp_proto.broker_rights import inbox_prefix
from mesh_chassis.bus.connection import Bus, Msg, Subscription

__all__ = ["AGENTS_MAX", "SAID_CHARS_MAX", "AgentPrompts", "PromptError", "payload_of"]

AGENTS_MAX = 256
"""Agents of one discovery; further ones are left out."""
DISCOVERY_S = 2.0
STALL_S = 0.3
"""A discovery ends so long after the last record, or after ``DISCOVERY_S``."""
QUEUE_MAX = 1_024
"""Chunks of one answer that wait to be read; with more the exchange fails."""
SAID_CHARS_MAX = 1_000
"""What of an agent's own words goes into messages."""
_encode = msgspec.json.Encoder().encode


Reason = Literal["gone", "refused", "failed", "silent", "flood", "malformed"]


class PromptError(Exception):
    """An exchange that failed.

    Attributes:
        reason: ``gone`` (nobody serves the subject: nothing ran), ``refused`` and ``failed`` (the
            agent says so, by its ``code``), ``silent``, ``flood``, ``malformed``.
        code: of the agent, "" = none.
        said: words of the agent or about it, public.
    """

    def __init__(
        self,
        reason: Reason,
        said: str,
        code: str = "",
    ) -> None:
        """As the class says."""
        super().__init__(said)
        self.reason: Reason = reason
        self.code = code
        self.said = said[:SAID_CHARS_MAX]


def payload_of(prompt: Prompt) -> bytes:
    """A prompt as it is sent; an agent takes at most ``FoundAgent.bytes_max``."""
    return _encode(prompt)


class AgentPrompts:
    """Exchanges with agents elsewhere; ``open`` before use.

    Args:
        bus: connected.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        prefix = inbox_prefix(bus.service, bus.instance)
        self._inbox = f"{prefix}.synadia.{secrets.token_hex(8)}"
        self._exchanges: dict[str, asyncio.Queue[Msg]] = {}
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Hear what agents answer.

        Raises:
            MeshError: ``denied``, ``bus``.
        """
        if self._subscription is None:
            self._subscription = await self._bus.subscribe(f"{self._inbox}.*", self._heard)

    async def close(self) -> None:
        """Hear nothing more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()

    async def discover(self, *, within_s: float = DISCOVERY_S) -> list[FoundAgent]:
        """Agents that answer now, by name; those that the mesh exposes itself are left out.

        Args:
            within_s: longest time for it; it ends sooner when no more records come.

        Raises:
            MeshError: ``bus``.
        """
        found: dict[str, FoundAgent] = {}
        loop = asyncio.get_running_loop()
        with _Exchange(self._exchanges) as (token, queue):
            await self._bus.publish(f"$SRV.INFO.{wire.SERVICE}", reply=f"{self._inbox}.{token}")
            ends = loop.time() + within_s
            wait_s = within_s
            while len(found) < AGENTS_MAX and wait_s > 0:
                try:
                    async with asyncio.timeout(wait_s):
                        message = await queue.get()
                except TimeoutError:
                    break
                if _nobody(message):
                    break
                one = wire.found_of(message.data, self._bus.max_payload)
                if one is not None:
                    found.setdefault(one.subject, one)
                wait_s = min(STALL_S, ends - loop.time())
        return [found[subject] for subject in sorted(found)]

    @asynccontextmanager
    async def prompt(
        self, subject: str, payload: bytes, *, quiet_s: float
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        """Prompt an agent; what it answers, chunk by chunk, to the end of its answer.

        Args:
            subject: of the agent (``FoundAgent.subject``).
            payload: ``payload_of``.
            quiet_s: longest silence; its ``status`` chunks count as words.

        Raises:
            PromptError: while chunks are read.
            MeshError: ``bus``.
        """
        with _Exchange(self._exchanges) as (token, queue):
            await self._bus.publish(subject, payload, reply=f"{self._inbox}.{token}")
            chunks = self._chunks(queue, quiet_s)
            try:
                yield chunks
            finally:
                await chunks.aclose()

    async def _chunks(self, queue: asyncio.Queue[Msg], quiet_s: float) -> AsyncGenerator[Chunk]:
        while True:
            message = await _next(queue, quiet_s)
            headers = message.headers or {}
            if _nobody(message):
                raise PromptError("gone", "the agent is not there")
            if wire.ERROR_CODE_HEADER in headers:
                code = headers[wire.ERROR_CODE_HEADER]
                said = headers.get(wire.ERROR_HEADER, "")
                raise PromptError("refused" if code.startswith("4") else "failed", said, code)
            if not message.data and not headers:
                return
            try:
                chunk = wire.chunk_of(message.data)
            except ValueError as error:
                raise PromptError("malformed", f"a malformed chunk: {error}") from None
            if chunk is not None:
                yield chunk

    async def _heard(self, message: Msg) -> None:
        queue = self._exchanges.get(message.subject.rpartition(".")[2])
        if queue is not None and not queue.full():
            queue.put_nowait(message)


class _Exchange:
    """One exchange: its token, and the queue of what comes back under it."""

    def __init__(self, exchanges: dict[str, asyncio.Queue[Msg]]) -> None:
        self._exchanges = exchanges
        self._token = secrets.token_hex(12)

    def __enter__(self) -> tuple[str, asyncio.Queue[Msg]]:
        queue = self._exchanges[self._token] = asyncio.Queue(QUEUE_MAX)
        return self._token, queue

    def __exit__(self, *_: object) -> None:
        del self._exchanges[self._token]


async def _next(queue: asyncio.Queue[Msg], quiet_s: float) -> Msg:
    if queue.full():
        raise PromptError("flood", "the agent talks faster than it is heard")
    try:
        async with asyncio.timeout(quiet_s):
            return await queue.get()
    except TimeoutError:
        raise PromptError("silent", f"the agent was silent for {quiet_s:g} s") from None


def _nobody(message: Msg) -> bool:
    return not message.data and (message.headers or {}).get("Status", "").startswith("503")
