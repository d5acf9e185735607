"""The tools ``vm_spawn vm_list vm_status vm_stop vm_logs``: operations as models ask for them.

A refusal that a caller can act on is a result with ``isError``; a caller's mistake raises.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from mcp_proto.asked import TOOLS_CALL, read_request
from mcp_proto.codec import encode_response
from mcp_proto.contracts.registry import Catalog
from mcp_proto.contracts.vm_spawner import (
    Isolation,
    ListMachines,
    Logs,
    MachineRef,
    MachineView,
    Owner,
    Resources,
    Spawn,
    Stop,
    Wanted,
)
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.names import VM_SERVER, VM_TOOLS
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.call import Call
from vm_spawner.core.machine import STATUS
from vm_spawner.core.refusals import is_resource
from vm_spawner.handlers.admission import Admission
from vm_spawner.handlers.operations import Operations
from vm_spawner.handlers.tool_schemas import SPECS

__all__ = ["Tools", "catalog"]

INSTRUCTIONS = (
    "Machines for agents that nobody needs to trust: vm_spawn starts one and answers at once, "
    "vm_status says when it is ready or why not, vm_stop ends it."
)
_encode = msgspec.json.Encoder().encode
T = TypeVar("T")

if frozenset(spec.name for spec in SPECS) != VM_TOOLS:
    raise RuntimeError("the tools of machines are not those whose names are reserved")


def catalog(version: str) -> Catalog:
    """The catalogue entry, without its hash."""
    return Catalog(
        tenant=PLATFORM,
        server=VM_SERVER,
        prefixed=False,
        tools=tuple(spec.catalog_tool() for spec in SPECS),
        capabilities=msgspec.Raw(b'{"tools":{}}'),
        server_info=msgspec.Raw(_encode({"name": "mesh-vm-spawner", "version": version})),
        instructions=INSTRUCTIONS,
    )


class _Arguments(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Members that nobody declared are ignored."""


class _SpawnArguments(_Arguments, frozen=True, kw_only=True):
    agent: str = ""
    program: str = ""
    image: str = ""
    isolation: Isolation | Wanted = Wanted()
    resources: Resources = Resources()
    ttl: int = 0
    config: msgspec.Raw = ABSENT


class _ListArguments(_Arguments, frozen=True, kw_only=True):
    include_ended: bool = False
    limit: int = 100


class _StatusArguments(_Arguments, frozen=True, kw_only=True):
    vm_id: str


class _StopArguments(_Arguments, frozen=True, kw_only=True):
    vm_id: str
    grace: float = -1.0


class _LogsArguments(_Arguments, frozen=True, kw_only=True):
    vm_id: str
    lines: int = 200


Answer = dict[str, object]


class Tools:
    """The tools of one spawner.

    Args:
        operations: what is done.
        admission: who may.
    """

    def __init__(self, operations: Operations, admission: Admission) -> None:
        self._operations = operations
        self._admission = admission
        self._tools: dict[str, Callable[[str, str, bytes], Awaitable[Answer]]] = {
            "vm_spawn": self._spawn,
            "vm_list": self._list,
            "vm_status": self._status,
            "vm_stop": self._stop,
            "vm_logs": self._logs,
        }

    async def call(self, call: Call) -> bytes:
        """``tools/call`` on server ``vm``.

        Raises:
            MeshError: ``unauthenticated``, ``denied``, ``params``, ``not_found``.
        """
        protocol = call.headers.get(Header.PROTOCOL)
        asked = read_request(call.subject, call.envelope, protocol, call.payload)
        principal = self._admission.principal(call)
        tool = self._tools.get(asked.name)
        if asked.method != TOOLS_CALL or tool is None:
            raise MeshError(ErrorKind.NOT_FOUND, f"server {VM_SERVER} has no tool {asked.name}")
        try:
            said = await tool(call.subject.tenant, principal, bytes(asked.arguments) or b"{}")
        except MeshError as error:
            if not is_resource(error):
                raise
            told: Answer = {"message": error.message, **error.data}
            if error.retry_after_s is not None:
                told["retryAfterMs"] = round(error.retry_after_s * 1000)
            return encode_response(asked.id, _result(_encode({"error": told}), failed=True))
        return encode_response(asked.id, _result(_encode(said), failed=False))

    async def _spawn(self, tenant: str, principal: str, arguments: bytes) -> Answer:
        asked = _decoded(arguments, _SpawnArguments)
        isolation = asked.isolation
        spawned = await self._operations.spawn(
            Spawn(
                tenant=tenant,
                agent=asked.agent,
                program=asked.program,
                image=asked.image,
                isolation=isolation if isinstance(isolation, Wanted) else Wanted(min=isolation),
                resources=asked.resources,
                ttl_s=asked.ttl,
                owner=Owner(principal=principal),
                config=asked.config,
            )
        )
        ready_ms = None
        if spawned.estimate_ms is not None:
            ready_ms = spawned.machine.record.observed.created_ms + spawned.estimate_ms
        return {**_machine(spawned.machine), "estimatedReadyTime": _iso(ready_ms)}

    async def _list(self, tenant: str, _principal: str, arguments: bytes) -> Answer:
        asked = _decoded(arguments, _ListArguments)
        found = await self._operations.list(
            ListMachines(tenant=tenant, ended=asked.include_ended, limit=asked.limit)
        )
        machines = [_machine(one) for one in found.machines]
        return {"machines": machines, "count": len(machines), "more": found.more}

    async def _status(self, tenant: str, _principal: str, arguments: bytes) -> Answer:
        asked = _decoded(arguments, _StatusArguments)
        return _machine(await self._operations.status(MachineRef(tenant=tenant, vm_id=asked.vm_id)))

    async def _stop(self, tenant: str, _principal: str, arguments: bytes) -> Answer:
        asked = _decoded(arguments, _StopArguments)
        return _machine(
            await self._operations.stop(Stop(tenant=tenant, vm_id=asked.vm_id, grace_s=asked.grace))
        )

    async def _logs(self, tenant: str, _principal: str, arguments: bytes) -> Answer:
        asked = _decoded(arguments, _LogsArguments)
        found = await self._operations.logs(
            Logs(tenant=tenant, vm_id=asked.vm_id, lines=asked.lines)
        )
        return {
            "vmId": asked.vm_id,
            "lines": found.lines,
            "dropped": found.dropped,
            "live": found.live,
        }


def _decoded(arguments: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(arguments, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeshError(ErrorKind.PARAMS, f"arguments: {error}") from error


def _machine(view: MachineView) -> Answer:
    """A machine as a model reads it; what is not known is null."""
    record, observed = view.record, view.record.observed
    shape = record.desired.shape
    return {
        "vmId": record.vm_id,
        "status": STATUS[observed.state],
        "state": observed.state,
        "agent": record.desired.agent or record.vm_id,
        "driver": observed.driver,
        "isolation": observed.isolation,
        "limits": observed.limits,
        "reason": observed.reason or None,
        "code": observed.code or None,
        "phase": observed.phase or None,
        "host": observed.host,
        "draining": view.draining,
        "createdAt": _iso(observed.created_ms),
        "readyAt": _iso(observed.started_ms),
        "resources": {
            "allocated": observed.limits == "full",
            "cpu": shape.cpu,
            "memory": f"{shape.mem_mib}Mi",
            "gpuDevice": None,
        },
        "initialisationMetrics": {"spawnTime": observed.ready_ms, "modelLoadTime": None},
        "timings": msgspec.structs.asdict(observed.timings),
        "usage": {"cpuS": view.cpu_s, "memoryBytes": view.memory_bytes, "pids": view.pids},
    }


def _result(structured: bytes, *, failed: bool) -> bytes:
    """The structured content, and the same as text for old clients."""
    return b'%b%b"content":[{"type":"text","text":%b}],"structuredContent":%b}' % (
        COMPLETE_HEAD,
        b'"isError":true,' if failed else b"",
        _encode(structured.decode()),
        structured,
    )


def _iso(unix_ms: float | None) -> str | None:
    """ISO 8601, UTC, to the millisecond; 0 and None = not known."""
    if not unix_ms:
        return None
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
