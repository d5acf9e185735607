"""Tests of mesh_chassis.bus.broker_time."""

from datetime import UTC, datetime

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus import broker_time
from mesh_chassis.bus.broker_time import TRIES, BrokerClock

AHEAD_MS = 7_000


class Broker:
    """Answers with its own time, which is ahead of ours; the way back takes as long as said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ways_ms: int) -> None:
        self._ways_ms = iter(ways_ms)
        self.now_ms = 1_800_000_000_000
        self.asked = 0
        monkeypatch.setattr(broker_time, "wall_ms", lambda: self.now_ms)

    async def ask(self, _subject: str, _timeout_s: float) -> bytes:
        self.asked += 1
        there = datetime.fromtimestamp((self.now_ms + AHEAD_MS) / 1000, UTC)
        self.now_ms += next(self._ways_ms)
        text = there.isoformat(timespec="milliseconds").replace("+00:00", "000000Z")
        return msgspec.json.encode({"server": {"time": text}})


async def test_a_quick_answer_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, clock = Broker(monkeypatch, 4), BrokerClock()
    await clock.learn(broker.ask)
    assert clock.known
    assert clock.offset_ms == AHEAD_MS - 2
    assert broker.asked == 1


async def test_the_quickest_of_slow_answers_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, clock = Broker(monkeypatch, 3_000, 200, *[900] * (TRIES - 2)), BrokerClock()
    await clock.learn(broker.ask)
    assert clock.offset_ms == AHEAD_MS - 100
    assert broker.asked == TRIES


async def test_a_broker_that_may_not_be_asked_leaves_our_own_clock() -> None:
    async def refuse(_subject: str, _timeout_s: float) -> bytes:
        raise MeshError(ErrorKind.DENIED, "no")

    clock = BrokerClock()
    await clock.learn(refuse)
    assert not clock.known
    assert clock.offset_ms == 0
