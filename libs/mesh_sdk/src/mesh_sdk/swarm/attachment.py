"""The place of an external agent: taken with its claim, kept, taken again when it was lost."""

import asyncio
import logging
import random
from collections.abc import Mapping

import msgspec

from mcp_proto.contracts.swarm import Attach, Attached, WorkProgress
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.service import Service
from mesh_chassis.tasks import TasksFullError
from mesh_sdk.swarm.callables import Hear, Run
from mesh_sdk.swarm.config import SwarmSection
from mesh_sdk.swarm.gateway import Gateway
from mesh_sdk.swarm.in_process import FunctionBody
from mesh_sdk.swarm.membership import Membership
from mesh_sdk.swarm.owner import OwnerPort
from mesh_sdk.swarm.residence import Residence
from mesh_sdk.swarm.resident import Resident

__all__ = ["Attachment", "Described", "RefusedError"]

RETRY_FIRST_S = 0.2
RETRY_MAX_S = 5.0
FLUSH_S = 2.0

_log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The owner of the swarm does not give the place to this program."""


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as it was written.

    Attributes:
        functions: by kind of step; "" = every other.
        hear: gets letters.
        capabilities: what it can do.
        slots: steps at once.
    """

    functions: Mapping[str, Run]
    hear: Hear | None
    capabilities: tuple[str, ...]
    slots: int


class Attachment:
    """A program in the place of an agent.

    Args:
        service: connected; this becomes a part of it.
        section: which place.
        described: what it does.
        drain_s: how long running steps may take when it ends.
    """

    def __init__(
        self, service: Service, section: SwarmSection, described: Described, drain_s: float
    ) -> None:
        self.attached = asyncio.Event()
        """Set while it has the place."""
        self.epoch = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with ``RefusedError`` when the place is lost for good."""
        self._bus = service.bus
        self._tasks = service.tasks
        self._section = section
        self._described = described
        self._drain_s = drain_s
        self._residence = Residence(service.bus, service.tasks)
        self._port = OwnerPort(service.bus, section.tenant, section.id)
        self._gateway = Gateway(service.bus)
        self._left = asyncio.Event()
        self._resident: Resident | None = None
        for endpoint in self._residence.endpoints(section.tenant):
            service.add_endpoint(endpoint)
        service.on_ready(self._begin)
        service.on_drain(self._leave)

    async def _begin(self) -> None:
        self._staying = self._tasks.spawn(self._stay(), name="attachment", fatal=True)

    async def _leave(self) -> None:
        """Finish what runs and deliver it. The place is kept for the next start with its claim."""
        self._staying.cancel()
        resident = self._resident
        if resident is not None:
            resident.drain()
            try:
                async with asyncio.timeout(max(0.0, self._drain_s - FLUSH_S)):
                    await resident.idle()
            except TimeoutError:
                _log.warning("steps are ended: their time to finish is over")
            resident.abandon()
        await self._residence.close(FLUSH_S)
        if resident is not None:
            await resident.body.stop(0.0)

    async def _stay(self) -> None:
        try:
            while True:
                await self._live(await self._attach())
        except RefusedError as error:
            if not self.ended.done():
                self.ended.set_exception(error)
                self.ended.exception()  # whoever embeds the agent may not look
            raise

    async def _attach(self) -> Attached:
        section, described = self._section, self._described
        attach = Attach(
            agent=section.agent,
            claim=section.claim,
            boot=self._bus.boot,
            capabilities=described.capabilities,
            slots=described.slots,
            node=self._residence.node,
        )
        wait_s = RETRY_FIRST_S
        while True:
            try:
                answer = await self._port.attach(attach)
            except MeshError as error:
                if error.kind in {ErrorKind.DENIED, ErrorKind.PARAMS}:
                    raise RefusedError(error.message) from error
                _log.info("the swarm does not answer yet: %s", error.message)
            else:
                if answer.refused:
                    raise RefusedError(f"the swarm refuses agent {section.agent}: {answer.refused}")
                return answer
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            wait_s = min(RETRY_MAX_S, wait_s * 2)

    async def _live(self, answer: Attached) -> None:
        """One life, from its begin to its end."""
        section, described = self._section, self._described
        membership = self._residence.join(section.tenant, section.id)
        membership.believes(answer.owner_epoch)
        membership.beat_s = answer.beat_s
        self._left.clear()
        body = FunctionBody(
            described.functions,
            described.hear,
            tenant=section.tenant,
            gateway=self._gateway,
            progress=lambda progress: self._report(membership, progress),
            threads=described.slots,
        )
        resident = self._resident = Resident(
            section.agent,
            answer.epoch,
            body,
            slots=described.slots,
            tasks=self._tasks,
            settled=membership.settle,
            unsent=lambda: membership.unsent(section.agent),
            changed=lambda: self._changed(membership),
        )
        self.epoch = answer.epoch
        self._residence.enter(membership, resident)
        self.attached.set()
        _log.info("agent %s of %s, life %d", section.agent, section.id, answer.epoch)
        await self._left.wait()
        self.attached.clear()
        # Its end is told before the next life begins, which has the same name.
        while membership.residents.get(section.agent) is resident:
            membership.beat_soon()
            await asyncio.sleep(RETRY_FIRST_S)

    def _changed(self, membership: Membership) -> None:
        membership.beat_soon()
        if self._resident is not None and self._resident.state == "gone":
            self._left.set()

    def _report(self, membership: Membership, progress: WorkProgress) -> None:
        try:
            self._tasks.spawn(membership.progress(progress), name="progress")
        except TasksFullError:
            return  # nobody insists on it
