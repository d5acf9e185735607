"""When an agent takes calls: not before the registry has spoken, and not where it refuses.

Calls go to whoever listens. An agent with the name of a shared server would be one more member of
that server's queue group and answer in its place, although no list shows it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from mcp_proto import subjects
from mcp_proto.subjects import QUEUE
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.service import Service
from mesh_sdk.agent.serving import Serving

__all__ = ["Doors"]

_REFUSED = "refused by the registry"


class Doors:
    """The subjects of an agent, open or shut.

    Args:
        service: that serves them.
        serving: takes the calls.
        tenant: whose agent.
        slots: calls that run at once, on each subject.
    """

    def __init__(self, service: Service, serving: Serving, tenant: str, slots: int) -> None:
        self._service = service
        self._serving = serving
        self._tenant = tenant
        self._slots = slots
        self._opened: list[Endpoint] = []
        self._turn = asyncio.Lock()
        self.known = False
        """Whether it is settled if they are open."""

    async def open(self) -> None:
        """Take calls; nothing happens where they are taken already, or the agent ends.

        Raises:
            MeshError: ``denied``, ``lost``, ``bus``.
        """
        async with self._turn:
            if self._service.draining:
                return
            name, call = self._serving.name, self._serving.call
            wanted = (
                (subjects.call(self._tenant, name, subjects.ANY), f"call-{name}"),
                (subjects.rpc(self._tenant, name, subjects.REST), f"rpc-{name}"),
            )
            # One may be open from an attempt that the connection did not survive.
            for subject, label in wanted[len(self._opened) :]:
                endpoint = self._endpoint(subject, call, label, QUEUE)
                await self._service.serve(endpoint)
                self._opened.append(endpoint)
            self._service.health.ready_again(_REFUSED)
            self.known = True

    async def shut(self) -> None:
        """Take no more calls; those that run may end."""
        self.known = True
        async with self._turn:
            opened, self._opened = self._opened, []
            self._service.health.unready(_REFUSED)
            for endpoint in opened:
                if not self._service.draining:
                    await self._service.retire(endpoint)

    def answers(self) -> Endpoint:
        """Where answers to the questions of this process arrive, whoever else has its name."""
        subject = subjects.instance(subjects.ANY, self._service.bus.instance, "answer")
        return self._endpoint(subject, self._serving.answer, "answer", "")

    def _endpoint(
        self, subject: str, handler: Callable[[Call], Awaitable[bytes]], label: str, queue: str
    ) -> Endpoint:
        return Endpoint(
            self._service.bus,
            subject=subject,
            queue=queue,
            handler=handler,
            slots=self._slots,
            name=label,
        )
