"""What goes to hosts once it is stored: one line per host, so that a slow one delays no other.

Work is batched while the request before is on its way. Nothing is insisted on here: what is lost
on the way is found by the host's next beat, which names everything its agents have.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from mcp_proto.contracts.swarm import AgentCommand, Commanded, Mail, Work, WorkItem
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.tasks import Tasks, TasksFullError
from swarm_coordinator.core.effects import (
    AnswerWork,
    CancelWork,
    DrainAgent,
    Effect,
    SendMail,
    SendWork,
    StopAgent,
)
from swarm_coordinator.orchestrator import requests
from swarm_coordinator.orchestrator.grants import Grants

__all__ = ["Outbox"]

ITEMS_PER_REQUEST = 64
REQUEST_BYTES = 192 * 1024
"""Below what travels inline; a single item that is larger goes as a claim check."""
WORK_S = 5.0
"""Longest wait for a host to say that it has work; its beat tells what became of it."""
COMMAND_S = 5.0
STOP_S = 10.0
"""SIGTERM, 5 s, SIGKILL, and the way back."""
MAIL_S = 5.0
_log = logging.getLogger(__name__)

Gone = Callable[[str], None]
Refused = Callable[[str, Mapping[str, str]], None]
Delivered = Callable[[str, str], None]


class _Line:
    """One host's."""

    __slots__ = ("cancels", "grants", "items", "task", "wake")

    def __init__(self) -> None:
        self.items: dict[str, WorkItem] = {}
        self.grants: dict[str, str] = {}
        self.cancels: list[str] = []
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Outbox:
    """Sends for the owner of one swarm.

    Args:
        bus: connected.
        tenant: of the swarm.
        swarm: its id.
        epoch: of the owner, at the moment of sending.
        grants: fresh contexts.
        tasks: parent of the lines.
    """

    def __init__(
        self,
        bus: Bus,
        tenant: str,
        swarm: str,
        *,
        epoch: Callable[[], int],
        grants: Grants,
        tasks: Tasks,
    ) -> None:
        self._bus = bus
        self._tenant = tenant
        self._swarm = swarm
        self._epoch = epoch
        self._grants = grants
        self._tasks = tasks
        self._lines: dict[str, _Line] = {}
        self.on_gone: Gone = lambda _host: None
        """Called when the broker knows nobody by a host's name."""
        self.on_refused: Refused = lambda _host, _refused: None
        """Called with items that a host did not take, and why."""
        self.on_stale: Callable[[], None] = lambda: None
        """Called when a host has seen a newer owner."""
        self.on_delivered: Delivered = lambda _agent, _mail: None
        """Called with agent and message that its host has."""
        self.on_ungranted: Callable[[str, MeshError], None] = lambda _task, _error: None
        """Called with a task whose grant has ended."""

    def take(self, effects: Sequence[Effect]) -> None:
        """Send what is for hosts; other effects are passed over."""
        for effect in effects:
            if isinstance(effect, SendWork):
                line = self._line(effect.host)
                line.grants.update(effect.grants)
                for item in effect.items:
                    line.items[item.item] = item
                line.wake.set()
            elif isinstance(effect, CancelWork):
                line = self._line(effect.host)
                for item in effect.items:
                    line.items.pop(item, None)
                line.cancels.extend(effect.items)
                line.wake.set()
            elif isinstance(effect, AnswerWork):
                self._tell(effect.host, answers={effect.item: effect.answers}, agent=effect.agent)
            elif isinstance(effect, DrainAgent):
                self._tell(effect.host, agent=effect.agent, drain=True)
            elif isinstance(effect, StopAgent):
                self._tell(effect.host, timeout_s=STOP_S, agent=effect.agent, stop=True)
            elif isinstance(effect, SendMail):
                self._spawn(self._deliver(effect.host, effect.agent, effect.mail), "mail")

    async def command(self, host: str, command: AgentCommand, timeout_s: float) -> Commanded:
        """Tell a host something and wait for what became of it.

        Raises:
            MeshError: ``no_runner`` when the host is gone, ``deadline``, ``lost``, ``bus``.
        """
        command = msgspec.structs.replace(command, swarm=self._swarm, owner_epoch=self._epoch())
        return await requests.command(self._bus, self._tenant, host, command, timeout_s=timeout_s)

    def _line(self, host: str) -> _Line:
        line = self._lines.get(host)
        if line is None or (line.task is not None and line.task.done()):
            line = self._lines[host] = _Line()
            try:
                line.task = self._tasks.spawn(self._run(host, line), name="host-line")
            except TasksFullError:
                _log.info("nothing is sent any more: the owner ends")
        return line

    async def _run(self, host: str, line: _Line) -> None:
        while True:
            await line.wake.wait()
            line.wake.clear()
            while line.cancels or line.items:
                if line.cancels:
                    cancels, line.cancels = line.cancels, []
                    await self._say(host, COMMAND_S, cancel=tuple(cancels))
                if line.items:
                    await self._send(host, line)

    async def _send(self, host: str, line: _Line) -> None:
        work = Work(swarm=self._swarm, owner_epoch=self._epoch(), items=await self._some(line))
        if not work.items:
            return
        try:
            taken = await requests.send_work(self._bus, self._tenant, host, work, timeout_s=WORK_S)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:
                self.on_gone(host)
            elif error.kind is ErrorKind.OVERLOADED:
                # What must not run twice may have begun when it was sent before: its beat tells.
                again = {item.item: "busy" for item in work.items if item.idempotent}
                self.on_refused(host, again)
            else:
                _log.info("work for %s is left to its beat: %s", host, error.message)
            return
        if taken.refused:
            if "stale_owner" in taken.refused.values():
                self.on_stale()
            else:
                self.on_refused(host, taken.refused)

    async def _some(self, line: _Line) -> tuple[WorkItem, ...]:
        """The next items, each with a fresh context."""
        items: list[WorkItem] = []
        size = 0
        for item in list(line.items.values())[:ITEMS_PER_REQUEST]:
            size += len(item.payload) + 512
            if items and size > REQUEST_BYTES:
                break
            items.append(item)
        ready: list[WorkItem] = []
        for item in items:
            grant = line.grants.get(item.task, "")
            if line.items.pop(item.item, None) is None:
                continue  # cancelled while another item's context was asked for
            if grant:
                try:
                    context = await self._grants.context_of(grant)
                except MeshError as error:
                    if error.kind in (ErrorKind.UNAUTHENTICATED, ErrorKind.DENIED):
                        self.on_ungranted(item.task, error)
                    # Else the host's next beat does not name the item, and it is sent again.
                    continue
                item = msgspec.structs.replace(item, context=context)  # noqa: PLW2901
            ready.append(item)
        if not line.items:
            line.grants.clear()
        return tuple(ready)

    def _tell(
        self,
        host: str,
        *,
        timeout_s: float = COMMAND_S,
        agent: str,
        drain: bool = False,
        stop: bool = False,
        answers: Mapping[str, dict[str, msgspec.Raw]] | None = None,
    ) -> None:
        work = self._say(
            host, timeout_s, agent=agent, drain=drain, stop=stop, answers=dict(answers or {})
        )
        self._spawn(work, "host-command")

    async def _say(
        self,
        host: str,
        timeout_s: float,
        *,
        agent: str = "",
        cancel: tuple[str, ...] = (),
        drain: bool = False,
        stop: bool = False,
        answers: dict[str, dict[str, msgspec.Raw]] | None = None,
    ) -> None:
        command = AgentCommand(
            swarm=self._swarm,
            owner_epoch=0,
            agent=agent,
            cancel=cancel,
            drain=drain,
            stop=stop,
            answers=answers or {},
        )
        try:
            await self.command(host, command, timeout_s)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:
                self.on_gone(host)
            else:
                _log.info("%s did not confirm a command: %s", host, error.message)

    async def _deliver(self, host: str, agent: str, mail: Mail) -> None:
        command = AgentCommand(swarm=self._swarm, owner_epoch=0, agent=agent, mail=mail)
        try:
            done = await self.command(host, command, MAIL_S)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:
                self.on_gone(host)
            return  # it waits in the mailbox
        if done.mail in ("delivered", "replied"):
            self.on_delivered(agent, mail.id)

    def _spawn(self, work: Awaitable[None], name: str) -> None:
        async def run() -> None:
            await work

        try:
            self._tasks.spawn(run(), name=name)
        except TasksFullError:
            _log.info("a %s was not sent: the owner ends", name)
            if asyncio.iscoroutine(work):
                work.close()
