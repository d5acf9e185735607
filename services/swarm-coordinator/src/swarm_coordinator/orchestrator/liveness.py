"""Which agents live: when each last beat, and what a host that is silent answers.

Memory of the owner only: a new owner gives every agent the full time to beat again.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping

import msgspec

from mcp_proto.contracts.swarm import BEAT_S, LOST_S, AgentBeat, Beat, WorkProgress
from mesh_chassis.tasks import Tasks
from swarm_coordinator.core.state import AgentState
from swarm_coordinator.handlers.ports import Reported

__all__ = ["Heard", "Liveness"]

LOOK_S = 0.5
"""Resolution of losses."""
SILENT_S = BEAT_S + 1.0
"""One beat is missing: the host is asked whether it is still there."""
PROBE_GAP_S = 2.5
PROGRESS_MAX = 2_000
"""Attempts whose progress is remembered: twice what a swarm runs at once."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """The newest of an agent.

    Attributes:
        at_ms: Unix time.
        host: who said it.
        node: of the host.
        beat: what it said.
    """

    at_ms: int
    host: str
    node: str
    beat: AgentBeat


class Liveness:
    """Beats of the agents of one swarm.

    Args:
        agents: those of the state, now.
        clock: monotonic seconds.
        probe: asks the host of an agent; called at most every ``PROBE_GAP_S`` for each.
        lost: says that an agent is lost, and why.
        tasks: parent of probes.
    """

    def __init__(
        self,
        agents: Callable[[], Mapping[str, AgentState]],
        *,
        clock: Callable[[], float],
        probe: Callable[[str], Coroutine[object, object, None]],
        lost: Callable[[str, str], None],
        tasks: Tasks,
    ) -> None:
        self._agents = agents
        self._clock = clock
        self._probe = probe
        self._lost = lost
        self._tasks = tasks
        self._last: dict[str, float] = {}
        self._probed: dict[str, float] = {}
        self.heard: dict[str, Heard] = {}
        self.progress: dict[str, Reported] = {}

    def note(self, host: str, beat: Beat, now_ms: int) -> None:
        """A beat came from the host of some agents."""
        now = self._clock()
        agents = self._agents()
        for one in beat.agents:
            agent = agents.get(one.agent)
            if agent is None or agent.host != host:
                continue
            if agent.external and one.epoch < agent.epoch:
                continue  # an older life of the same program
            self.heard[one.agent] = Heard(at_ms=now_ms, host=host, node=beat.node, beat=one)
            if one.state != "frozen":
                self._last[one.agent] = now

    def alive(self, agent: str) -> None:
        """Another sign of life: it attached, or gave a result."""
        self._last[agent] = self._clock()

    def note_progress(self, progress: WorkProgress, now_ms: int) -> None:
        """How far an attempt is."""
        if progress.item not in self.progress and len(self.progress) >= PROGRESS_MAX:
            self.progress.pop(next(iter(self.progress)))
        self.progress[progress.item] = Reported(now_ms, progress)

    def forget_item(self, item: str) -> None:
        """An attempt has ended."""
        self.progress.pop(item, None)

    async def run(self) -> None:
        """Look for silence, for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Ask after silent agents, and give up those that were silent for too long."""
        now = self._clock()
        agents = self._agents()
        for gone in self._last.keys() - agents.keys():
            self._last.pop(gone)
            self._probed.pop(gone, None)
            self.heard.pop(gone, None)
        for agent in list(agents.values()):
            if agent.status not in ("active", "draining") or not agent.host:
                continue
            silence = now - self._last.setdefault(agent.id, now)
            if silence >= LOST_S:
                self._last.pop(agent.id)
                self._lost(agent.id, "silent")
            elif silence >= SILENT_S and now - self._probed.get(agent.id, 0.0) >= PROBE_GAP_S:
                self._probed[agent.id] = now
                self._tasks.spawn(self._probe(agent.id), name="probe-host")
