"""The host: spawns agents, sees them freeze and die, and lets them finish when it has to go."""

import asyncio
import functools
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from mcp_proto.contracts.swarm import (
    BidRequest,
    Spawn,
    Spawned,
    WorkProgress,
    WorkResult,
    bid_subject,
    spawn_subject,
)
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import ANY
from mesh_agents.config import AgentHostConfig
from mesh_agents.host.auction import Auction
from mesh_agents.host.kinds import Kind, Kinds, RefusedError, SpawnConfig
from mesh_agents.host.limits import Cgroups, Limited
from mesh_agents.host.process import NotStartedError, ProcessBody
from mesh_agents.host.synadia import SynadiaBody
from mesh_agents.host.work_folder import WorkFolder
from mesh_agents.types.places import ROOTS_VARIABLE
from mesh_agents.worker.frames import Init
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.children import ChildLimits, Children
from mesh_chassis.service import Service
from mesh_sdk.swarm.gateway import Gateway
from mesh_sdk.swarm.measuring import measured
from mesh_sdk.swarm.membership import Membership
from mesh_sdk.swarm.residence import Residence
from mesh_sdk.swarm.resident import Body, Resident

__all__ = ["Hosting"]

SPAWNS = 8
"""Starts at once; each keeps a core busy for a moment."""
BID_SLOTS = 256
FROZEN_S = 1.5
"""A process that answers no ping for so long is frozen."""
PLACED_S = 0.05
"""Until the owner has surely stored where an agent is; a beat then makes it active."""
STOP_S = 2.0
"""SIGTERM to SIGKILL when the whole host ends."""
FLUSH_S = 3.0
"""How long last results and beats may take then."""
CLOSE_S = STOP_S + FLUSH_S + 1.0

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_BID = msgspec.json.Decoder(BidRequest)
_SPAWN = msgspec.json.Decoder(Spawn)
_CONFIG = msgspec.json.Decoder(SpawnConfig)

Key = tuple[str, str, str]


class Hosting:
    """The agents of one host.

    Args:
        service: connected; this becomes a part of it.
        config: of the host.
        kinds: what can run here.
    """

    def __init__(self, service: Service, config: AgentHostConfig, kinds: Kinds) -> None:
        self._bus = service.bus
        self._tasks = service.tasks
        self._metrics = service.metrics
        self._section = config.host
        self._env = {ROOTS_VARIABLE: os.pathsep.join(config.types.roots)}
        self._kinds = kinds
        self._children = Children()
        self._gateway = Gateway(service.bus)
        self._cgroups = Cgroups(None, "cgroups are switched off")
        self._folder = WorkFolder(Path(config.host.work_dir).absolute())
        self.residence = Residence(
            service.bus, service.tasks, node=config.host.node, beat_s=config.host.beat_s
        )
        self.auction = Auction(
            service.bus.instance, self.residence.node, config.host, kinds, self._count
        )
        self._lives: dict[Key, tuple[int, asyncio.Future[Spawned]]] = {}
        self._starting = asyncio.Semaphore(SPAWNS)
        self._drain_s = config.service.drain_s

    def __len__(self) -> int:
        """Agents that live here, or are being started."""
        return len(self._lives)

    @property
    def children(self) -> int:
        """Processes that live."""
        return len(self._children)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Everything that owners and auctions ask of this host."""
        bus, host = self._bus, self._bus.instance
        return (
            Endpoint(
                bus, subject=bid_subject(), handler=self._bid, slots=BID_SLOTS, name="bid"
            ),
            Endpoint(
                bus, subject=spawn_subject(ANY, host), handler=self._spawn,
                slots=self._section.agents_max or 1, name="spawn",
            ),
            *self.residence.endpoints(),
        )  # fmt: skip

    async def open(self) -> None:
        """Make the directories, and the cgroup where it is ours."""
        await asyncio.to_thread(self._folder.open)
        if self._section.cgroups:
            self._cgroups = Cgroups.find()
            if self._cgroups.reason:
                _log.info("limits are rlimits: %s", self._cgroups.reason)
        self._tasks.spawn(self._watch(), name="agents-watch", fatal=True)

    async def drain(self) -> None:
        """Take nothing new, let steps finish, end every agent, deliver what they left."""
        self.auction.draining = True
        residents = self.residence.residents
        for one in residents:
            one.drain()
        try:
            async with asyncio.timeout(max(0.0, self._drain_s - CLOSE_S)):
                for one in residents:
                    await one.idle()
        except TimeoutError:
            _log.warning("steps are ended with their agents: their time to finish is over")
        await asyncio.gather(*(one.stop(STOP_S) for one in self.residence.residents))
        await self.residence.close(FLUSH_S)

    async def close(self) -> None:
        """End every process."""
        await self._children.close()
        self._folder.close()

    def _count(self, tenant: str) -> int:
        return sum(1 for key in self._lives if tenant in {"", key[0]})

    async def _bid(self, call: Call) -> bytes:
        try:
            request = _BID.decode(call.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(ErrorKind.PARAMS, f"no request for bids: {error}") from error
        return _encode(self.auction.bid(request))

    # Spawning

    async def _spawn(self, call: Call) -> bytes:
        try:
            spawn = _SPAWN.decode(call.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(ErrorKind.PARAMS, f"no spawn: {error}") from error
        return _encode(await self.spawn(call.subject.tenant, spawn))

    async def spawn(self, tenant: str, spawn: Spawn) -> Spawned:
        """Start an agent; the same spawn again gets the same answer.

        Goes on when whoever asked is gone: the owner learns of the agent from its first beat.
        """
        key = (tenant, spawn.swarm, spawn.agent)
        epoch, known = self._lives.get(key, (-1, None))
        if known is not None and epoch == spawn.epoch:
            return await asyncio.shield(known)
        if epoch > spawn.epoch:
            return _refused("failed", "a later life of this agent is here")
        request = self.auction.redeem(spawn.bid, tenant, spawn.swarm)
        if request is None:
            return _refused("failed", "the bid is not, or no longer, valid")
        found = self.residence.find(tenant, spawn.swarm)
        if found is not None and not found.believes(spawn.owner_epoch):
            return _refused("failed", "an owner of an older epoch")
        answer: asyncio.Future[Spawned] = asyncio.get_running_loop().create_future()
        self._lives[key] = (spawn.epoch, answer)
        self._tasks.spawn(self._live(key, spawn, request, answer), name="spawn")
        return await asyncio.shield(answer)

    async def _live(
        self, key: Key, spawn: Spawn, request: BidRequest, answer: "asyncio.Future[Spawned]"
    ) -> None:
        try:
            spawned = await self._started(key, spawn, request)
        except (RefusedError, NotStartedError) as error:
            spawned = _refused(error.reason, error.message)
        except Exception as error:  # noqa: BLE001 - whoever asked gets an answer, whatever failed
            _log.exception("an agent could not be started")
            spawned = _refused("failed", type(error).__name__)
        if spawned.refused:
            self._forget(key, spawn.epoch)
        if not answer.done():
            answer.set_result(spawned)
        found = self.residence.find(key[0], key[1])
        if found is not None:
            # A beat that came before this answer named an agent that the owner had not placed.
            asyncio.get_running_loop().call_later(PLACED_S, found.beat_soon)

    async def _started(self, key: Key, spawn: Spawn, request: BidRequest) -> Spawned:
        tenant, swarm, agent = key
        config = _config(spawn)
        if not config.runtime and request.runtime:
            config = msgspec.structs.replace(config, runtime=request.runtime)
        kind = self._kinds.resolve(spawn.agent_type, config)
        membership = self.residence.join(tenant, swarm)
        try:
            membership.believes(spawn.owner_epoch)
            older = membership.residents.get(agent)
            if older is not None:
                await older.stop(STOP_S)
            async with self._starting:
                make = self._process if kind.loader else self._elsewhere
                resident, spawned = await make(key, spawn, kind, membership)
        except BaseException:
            self.residence.leave(membership)
            raise
        self.residence.enter(membership, resident)
        return spawned

    async def _process(
        self, key: Key, spawn: Spawn, kind: Kind, membership: Membership
    ) -> tuple[Resident, Spawned]:
        began = asyncio.get_running_loop().time()
        agent = spawn.agent
        body = ProcessBody(
            self._children,
            self._tasks,
            self._gateway,
            key[0],
            functools.partial(self._progress, membership),
        )
        workdir = self._folder.path / f"{agent}-{spawn.epoch}"
        workdir.mkdir(mode=0o700)
        memory = spawn.memory_bytes or self._section.memory_bytes
        limited = Limited(holds=False)

        def confine(pid: int) -> None:
            nonlocal limited
            limited = self._cgroups.confine(
                workdir.name, pid, memory_bytes=memory, cpu=spawn.cpu
            )  # fmt: skip

        init = Init(
            agent=agent, kind=kind.loader, name=kind.name,
            config=spawn.config if memoryview(spawn.config).nbytes else msgspec.Raw(b"{}"),
            settings=kind.settings, workdir=str(workdir),
        )  # fmt: skip
        try:
            ready = await body.start(
                init,
                limits=ChildLimits(memory_bytes=memory),
                env=self._env,
                timeout_s=self._section.start_timeout_s,
                started=confine,
            )
        except BaseException:
            self._tidy(workdir)
            raise
        resident = self._resident(
            spawn, body, membership, slots=ready.slots, changed=membership.beat_soon
        )
        body.gone = functools.partial(self._gone, key, spawn.epoch, resident, workdir)
        if body.ended:
            raise NotStartedError("the agent's process ended at once")
        spawn_ms = (asyncio.get_running_loop().time() - began) * 1000
        return resident, Spawned(
            runtime=kind.runtime,
            model_source=ready.model_source,
            capabilities=tuple(dict.fromkeys((*ready.capabilities, *spawn.capabilities))),
            slots=ready.slots,
            pid=body.pid,
            spawn_ms=round(spawn_ms, 3),
            memory_bytes=measured(body.pid or 0).memory_bytes,
            limited=limited.holds,
            limits_reason=limited.reason,
        )

    async def _elsewhere(
        self, key: Key, spawn: Spawn, kind: Kind, membership: Membership
    ) -> tuple[Resident, Spawned]:
        """An agent of the Synadia Agent Protocol: no process of ours."""
        began = asyncio.get_running_loop().time()
        progress = functools.partial(self._progress, membership)
        body = SynadiaBody(self._bus, key[0], kind.name, progress)
        await body.start()
        changed = functools.partial(self._left, key, spawn.epoch, membership)
        resident = self._resident(spawn, body, membership, slots=1, changed=changed)
        return resident, Spawned(
            runtime=kind.runtime,
            capabilities=spawn.capabilities,
            spawn_ms=round((asyncio.get_running_loop().time() - began) * 1000, 3),
            limits_reason="the agent is a program of somebody else",
        )

    def _resident(
        self,
        spawn: Spawn,
        body: Body,
        membership: Membership,
        *,
        slots: int,
        changed: Callable[[], None],
    ) -> Resident:
        return Resident(
            spawn.agent,
            spawn.epoch,
            body,
            slots=slots,
            tasks=self._tasks,
            settled=functools.partial(self._settled, membership),
            unsent=functools.partial(membership.unsent, spawn.agent),
            changed=changed,
        )

    def _settled(self, membership: Membership, result: WorkResult) -> None:
        self._metrics.add("mesh_host_attempts_ended", result.status)
        membership.settle(result)

    def _left(self, key: Key, epoch: int, membership: Membership) -> None:
        """An agent without a process changed."""
        membership.beat_soon()
        resident = membership.residents.get(key[2])
        if resident is not None and resident.state == "gone":
            self._forget(key, epoch)

    def _progress(self, membership: Membership, progress: WorkProgress) -> None:
        self._tasks.spawn(membership.progress(progress), name="progress")

    # Ends

    def _gone(
        self, key: Key, epoch: int, resident: Resident, workdir: Path, reason: str, status: int
    ) -> None:
        resident.lost(reason, status)
        self._forget(key, epoch)
        self._tidy(workdir)

    def _tidy(self, workdir: Path) -> None:
        self._cgroups.release(workdir.name)
        shutil.rmtree(workdir, ignore_errors=True)

    def _forget(self, key: Key, epoch: int) -> None:
        known = self._lives.get(key)
        if known is not None and known[0] == epoch:
            del self._lives[key]

    async def _watch(self) -> None:
        """See which processes react, for ever."""
        while True:
            await asyncio.sleep(self._section.beat_s / 2)
            residents = self.residence.residents
            alive = await asyncio.gather(*(one.body.ping(FROZEN_S) for one in residents))
            for one, lives in zip(residents, alive, strict=True):
                one.freeze(not lives)


def _config(spawn: Spawn) -> SpawnConfig:
    if not memoryview(spawn.config).nbytes:
        return SpawnConfig()
    try:
        return _CONFIG.decode(spawn.config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError("failed", f"config: {error}") from None


def _refused(reason: str, message: str) -> Spawned:
    return Spawned(refused=reason, message=message)
