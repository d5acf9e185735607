"""Results on their way to the owner: kept until it has them, sent again until then.

One request is under way at a time and takes along whatever has gathered meanwhile, so that a busy
swarm costs few round trips. How much waits is bounded by those who run steps (``Resident``): an
agent whose results are not taken gets no more work.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.contracts.swarm import ResultsTaken, WorkResult
from mcp_proto.errors import MeshError

__all__ = ["Outbox"]

BATCH_MAX = 256
BATCH_BYTES = 192 * 1024
"""Results of one request: what fits inline; a larger result travels alone."""
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
"""Waits before a repeat: doubling, each off by up to half, so that hosts do not come together."""

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

Send = Callable[[bytes], Awaitable[ResultsTaken]]
Taken = Callable[[str, str, bytes], None]


class Outbox:
    """Results of the agents that one host has of one swarm.

    Args:
        send: delivers an encoded ``Results``.
        believes: whether an answer of this owner epoch counts.
        taken: hears of each item that need not be sent again: agent, item, encoded result.
    """

    def __init__(self, send: Send, believes: Callable[[int], bool], taken: Taken) -> None:
        self._send = send
        self._believes = believes
        self._taken = taken
        self._waiting: dict[str, bytes] = {}
        self._agents: dict[str, str] = {}
        self._per_agent: dict[str, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Results that wait."""
        return len(self._waiting)

    def holds(self, item: str) -> bool:
        """Whether this result waits."""
        return item in self._waiting

    def items_of(self, agent: str) -> list[str]:
        """Items of one agent whose results wait."""
        return [item for item, whose in self._agents.items() if whose == agent]

    def count_of(self, agent: str) -> int:
        """How many of them there are."""
        return self._per_agent.get(agent, 0)

    def put(self, result: WorkResult) -> None:
        """Send a result as soon as may be."""
        self.put_encoded(result.agent, result.item, _encode(result))

    def put_encoded(self, agent: str, item: str, data: bytes) -> None:
        """The same for one that was sent before."""
        if item not in self._waiting:
            self._agents[item] = agent
            self._per_agent[agent] = self._per_agent.get(agent, 0) + 1
        self._waiting[item] = data
        self._wake.set()

    async def run(self) -> None:
        """Deliver, for ever."""
        failures = 0
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch = self._batch()
            body = b'{"results":[' + b",".join(batch.values()) + b"]}"
            try:
                answer = await self._send(body)
            except MeshError as error:
                if failures == 0:
                    _log.info("results are not taken yet: %s", error.message)
                progress = False
            else:
                progress = self._believes(answer.owner_epoch) and self._settle(batch, answer.taken)
            failures = 0 if progress else failures + 1
            if failures:
                await asyncio.sleep(_pause_s(failures))

    def _batch(self) -> dict[str, bytes]:
        batch: dict[str, bytes] = {}
        size = 0
        for item, data in self._waiting.items():
            if batch and (size + len(data) > BATCH_BYTES or len(batch) >= BATCH_MAX):
                break
            batch[item] = data
            size += len(data)
        return batch

    def _settle(self, batch: dict[str, bytes], taken: tuple[str, ...]) -> bool:
        """Forget what was taken; whether anything was."""
        progress = False
        for item in taken:
            data = batch.get(item)
            # One that was replaced meanwhile (an answered question) is still to be sent.
            if data is not None and self._waiting.get(item) is data:
                progress = True
                self._taken(self._forget(item), item, data)
        return progress

    def _forget(self, item: str) -> str:
        """Whose it was."""
        del self._waiting[item]
        agent = self._agents.pop(item)
        left = self._per_agent[agent] - 1
        if left:
            self._per_agent[agent] = left
        else:
            del self._per_agent[agent]
        return agent


def _pause_s(failures: int) -> float:
    full = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(failures - 1, 10))
    return full * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret
