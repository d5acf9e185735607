"""Every subject of the coordinator in one place, because the broker's rights are made from it.

Published or requested
    mesh.v1._.svc.agent-host.bid                    an auction, to every host at once
    mesh.v1.{tenant}.inst.{host}.spawn|work|agent   to one host: Spawn, Work, AgentCommand
    mesh.v1.{tenant}.inst.{swarm}.swarm             OwnerCall to another replica
    mesh.v1._.inst.{replica}.ping                   is an owner that is another process alive?
    mesh.v1.{tenant}.task.log.{swarm}               the log (JetStream, MESH_SWARM_LOG)
    mesh.v1.{tenant}.evt.swarm.{swarm}              transitions, outward
    mesh.v1.{tenant}.evt.task.{task}                the record of a task has changed
    mesh.v1.{tenant}.evt.updated.swarm              a resource of server ``swarm`` has changed
    mesh.v1._.svc.registry.{put,remove,ensure}      catalogue, storage of tenants
    mesh.v1._.svc.tenant-auth.{delegate,exchange,revoke-grant}
    $JS.API.DIRECT.GET.MESH_SWARM_LOG               replay, in batches
    $JS.API.STREAM.MSG.GET.MESH_SWARM_LOG           whose was the last append
    $JS.API.STREAM.PURGE.MESH_SWARM_LOG             what is older than a snapshot
    $KV.mesh_swarms.>, $KV.mesh_tasks.>, $KV.mesh_lease.swarm.*.*, $O.*.C.*.*  with their reads
    watches of mesh_swarms, mesh_lease, mesh_instances, mesh_keys

Subscribed by every replica
    mesh.v1.*.call.swarm.*                  queue w
    mesh.v1.*.rpc.swarm.>                   queue w
    mesh.v1._.svc.swarm-coordinator.*       queue swarm-coordinator

Subscribed for each swarm that is owned, and by its owner only: no-responders says that nobody is
    mesh.v1.{tenant}.inst.{swarm}.swarm
    mesh.v1.{tenant}.inst.{swarm}.attach.*
    mesh.v1.{tenant}.inst.{swarm}.beat.*
    mesh.v1.{tenant}.inst.{swarm}.result.*
    mesh.v1.{tenant}.inst.{swarm}.progress.*
"""

from collections.abc import Awaitable, Callable

from mcp_proto import subjects
from mcp_proto.contracts import swarm as wire
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.names import SWARM_SERVER
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint

__all__ = ["EVENT_SOURCE", "OwnerEndpoints", "sender_of"]

EVENT_SOURCE = SWARM_SERVER
"""Source of ``evt.updated``: the server, not the replica."""
DRAIN_S = 2.0
SLOTS = {"attach": 8, "beat": 32, "result": 24, "progress": 64}
"""Requests of hosts at once: a swarm has at most 20, each sends results one after the other, and a
body may be large."""

Serve = Callable[[Call], Awaitable[bytes]]


def sender_of(call: Call) -> str:
    """The host that speaks: the last token of the subject, which the broker has checked.

    Raises:
        MeshError: ``request`` where the subject names none.
    """
    names = call.subject.names
    if len(names) != 3:
        raise MeshError(ErrorKind.REQUEST, "the subject names no host")
    return names[2]


class OwnerEndpoints:
    """What the owner of one swarm serves.

    Args:
        bus: connected.
        tenant: whose swarm.
        swarm: its id.
        slots: requests of each kind that are answered at once.
        serve: handlers by verb: ``swarm``, ``attach``, ``beat``, ``result``, ``progress``.
    """

    def __init__(
        self, bus: Bus, tenant: str, swarm: str, *, slots: int, serve: dict[str, Serve]
    ) -> None:
        of_hosts = {
            "attach": wire.attach_subject,
            "beat": wire.beat_subject,
            "result": wire.result_subject,
            "progress": wire.progress_subject,
        }
        made = [
            Endpoint(
                bus,
                subject=subject(tenant, swarm, subjects.ANY),
                handler=serve[verb],
                slots=min(slots, SLOTS[verb]),
                name=f"owner-{verb}",
            )
            for verb, subject in of_hosts.items()
        ]
        # Last: whoever asks for the owner finds one that hears its hosts already.
        made.append(
            Endpoint(
                bus,
                subject=wire.owner_subject(tenant, swarm),
                handler=serve["swarm"],
                slots=slots,
                name="owner-swarm",
            )
        )
        self._endpoints = made

    async def start(self) -> None:
        """Subscribe.

        Raises:
            MeshError: ``denied``, ``lost``, ``bus``.
        """
        for endpoint in self._endpoints:
            await endpoint.start()

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """End interest and answer what runs."""
        for endpoint in reversed(self._endpoints):
            await endpoint.drain(drain_s)
