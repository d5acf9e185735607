"""Durable tasks at the gateway: calls that become one, and the requests about them.

The gateway keeps nothing: a task is made by a runner and read from ``mesh_tasks``, so any gateway
answers for it. A task that a server keeps itself is relayed; its id is sealed with whose it is.
A stranger's id is answered exactly like one that never was.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from gateway.core import tasks as words
from gateway.core.answers import Signature
from gateway.core.core_tasks import WAIT_META
from gateway.core.relinking import relinked
from gateway.core.requests import ModernRequest, optional_text, text_member
from gateway.core.routing import Tool
from gateway.identity import Caller
from gateway.task_events import TaskEvents
from mcp_proto import buckets
from mcp_proto.codec import encode
from mcp_proto.contracts import Operation
from mcp_proto.contracts import tasks as contract
from mcp_proto.contracts.tasks import (
    TaskCancel,
    TaskCreate,
    TaskRecord,
    TaskUpdate,
    is_task_id,
    keeper_of,
    owner_token,
    record_key,
)
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.members import pick, splice
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import SYSTEM, Clock
from mesh_chassis.stored_bodies import read_parts

__all__ = ["LIST_METHOD", "Forward", "GatewayTasks", "TokenSealer"]

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

LIST_METHOD = "mesh/tasks/list"
"""All tasks of the caller: asked by edges for clients of 2025-11-25, and by NATS-native clients."""
PURPOSE = "task"
PAGE = 50
OPERATION_S = 15.0
WAIT_MAX_S = 25.0
ANSWER_S = 0.5
"""Kept of the caller's time for the answer itself."""
LOOK_EVERY_S = 5.0
"""How often whoever waits looks at the record without having heard of a change."""
_SERVER = "mesh"

Forward = Callable[[ModernRequest, bytes, Caller, str, str], Awaitable[bytes]]
"""(request, params, caller, server, name) → its result: one request to one server."""


Renamed = Callable[[ModernRequest, Caller, str], Mapping[str, str] | None]
"""(request, caller, server) → the server's own URI → the one that is listed; None = all alike."""


class TokenSealer(Protocol):
    """What of the sealer is needed here."""

    def seal(self, purpose: str, payload: bytes) -> str:
        """A token that only a gateway opens."""
        ...

    def open(self, purpose: str, token: str) -> bytes:
        """What was sealed; ``MeshError`` (``params``) otherwise."""
        ...


class _Wait(msgspec.Struct, frozen=True):
    ms: int = 0
    since: str = ""


class _Waits(msgspec.Struct, frozen=True):
    wait: _Wait | None = msgspec.field(name=WAIT_META, default=None)


_RECORD = msgspec.json.Decoder(TaskRecord)
_RELAYED = msgspec.json.Decoder(words.Relayed)
_RESPONSES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WAITS = msgspec.json.Decoder(_Waits)


class GatewayTasks:
    """Makes tasks of calls and answers requests about them.

    Args:
        bus: connection.
        sealer: seals the ids of relayed tasks.
        events: tells of changes.
        clock: the clock.
    """

    def __init__(
        self, bus: Bus, sealer: TokenSealer, events: TaskEvents, clock: Clock = SYSTEM
    ) -> None:
        self._bus = bus
        self._sealer = sealer
        self.events = events
        self._clock = clock
        self._kv = KV.bind(bus, buckets.TASKS)
        self._forward: Forward
        self._signature: Signature
        self._renamed: Renamed

    def use(self, forward: Forward, signature: Signature, renamed: Renamed) -> None:
        """Take over what the dispatcher lends.

        Args:
            forward: the way to a server.
            signature: our name in results.
            renamed: URIs of a server that clients know under others.
        """
        self._forward = forward
        self._signature = signature
        self._renamed = renamed

    # Calls

    async def instead(
        self, request: ModernRequest, params: bytes, caller: Caller, tool: Tool
    ) -> bytes | None:
        """A task in place of an ordinary call; None = it is an ordinary call.

        Args:
            request: ``tools/call``.
            params: its params under the server's own name of the tool.
            caller: may call the tool.
            tool: what is called.

        Raises:
            MeshError: ``capability`` when the tool runs as a task only; as the runner says.
        """
        declared = words.declares(request.meta.client_capabilities)
        if tool.task == "required" and not declared:
            raise words.undeclared(f"tool {tool.listed}")
        if not declared or b'"requestState"' in params:
            return None
        wish = words.wish_of(params)
        if tool.task == "never":
            if wish.must:
                raise MeshError(ErrorKind.METHOD, f"tool {tool.listed} does not run as a task")
            return None
        always = tool.task in {"always", "required"}
        if not (wish.asked or always):
            return None
        if tool.own_tasks and not always and not wish.asked:
            return None
        record = await self._ask(
            contract.create.at(keeper_of(tool.server)),
            TaskCreate(
                context=caller.context(self._clock.monotonic()),
                tenant=caller.tenant,
                principal=caller.principal,
                server=tool.server,
                tool=tool.name,
                params=msgspec.Raw(params),
                ttl_ms=wish.ttl_ms,
            ),
        )
        return self._sign(words.created(record) if record.id else bytes(record.result))

    def relayed(self, result: bytes, caller: Caller, server: str) -> bytes:
        """The result of an ordinary call; a task of the server's own gets a sealed id.

        Raises:
            MeshError: no sealing key is known.
        """
        task_id = words.task_id_of(result)
        if task_id is None:
            return result
        sealed = words.Relayed(caller.tenant, caller.principal, server, task_id)
        try:
            token = self._sealer.seal(PURPOSE, msgspec.json.encode(sealed))
        except MeshError as error:
            error.outcome = Outcome.UNKNOWN  # the server has begun
            raise
        return words.relisted(result, token)

    # Requests

    async def get(self, request: ModernRequest, caller: Caller, _notice: object = None) -> bytes:
        """``tasks/get``.

        Raises:
            MeshError: ``capability``, ``params`` for an unknown task.
        """
        task_id = self._task_id(request)
        if not is_task_id(task_id):
            return await self._relay(request, caller, task_id)
        wait = _wait_of(request.params)
        if wait is None:
            return await self._shown(request, caller, await self._read(caller, task_id))
        wait_s = min(wait.ms / 1000, WAIT_MAX_S)
        if request.timeout_s:
            wait_s = min(wait_s, request.timeout_s - ANSWER_S)
        record = await self._awaited(caller, task_id, wait_s, wait.since)
        return await self._shown(request, caller, record)

    async def update(self, request: ModernRequest, caller: Caller, _notice: object = None) -> bytes:
        """``tasks/update``.

        Raises:
            MeshError: ``capability``, ``params``.
        """
        task_id = self._task_id(request)
        raw = pick(request.params, "inputResponses").get("inputResponses", msgspec.Raw(b""))
        try:
            responses = _RESPONSES.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MeshError(ErrorKind.PARAMS, "params.inputResponses must be an object") from None
        if not is_task_id(task_id):
            return await self._relay(request, caller, task_id)
        record = await self._read(caller, task_id)
        await self._ask(
            contract.update.at(keeper_of(record.server)),
            TaskUpdate(
                context=caller.context(self._clock.monotonic()),
                tenant=caller.tenant,
                principal=caller.principal,
                id=task_id,
                responses=responses,
            ),
        )
        return self._sign(words.ACKNOWLEDGED)

    async def cancel(self, request: ModernRequest, caller: Caller, _notice: object = None) -> bytes:
        """``tasks/cancel``.

        Raises:
            MeshError: ``capability``, ``params``.
        """
        task_id = self._task_id(request)
        if not is_task_id(task_id):
            return await self._relay(request, caller, task_id)
        record = await self._read(caller, task_id)
        await self._ask(
            contract.cancel.at(keeper_of(record.server)),
            TaskCancel(
                context=caller.context(self._clock.monotonic()),
                tenant=caller.tenant,
                principal=caller.principal,
                id=task_id,
            ),
        )
        return self._sign(words.ACKNOWLEDGED)

    async def list(self, request: ModernRequest, caller: Caller, _notice: object = None) -> bytes:
        """All tasks of the caller that the mesh keeps, oldest first, in pages.

        Raises:
            MeshError: ``params`` for a bad cursor.
        """
        cursor = optional_text(request.params, "cursor")
        after = "" if cursor is None else _opened_cursor(cursor)
        prefix = buckets.key(caller.tenant, owner_token(caller.principal)) + "."
        try:
            keys = [key for key in await self._kv.keys(prefix) if key.count(".") == 2]
        except MeshError as error:
            raise _unserved(error) from error
        names = [name for key in keys if (name := key.rpartition(".")[2]) > after]
        page = names[:PAGE]
        entries = await asyncio.gather(*(self._kv.get(prefix + name) for name in page))
        shown = [words.listed(_decoded(entry.value)) for entry in entries if entry is not None]
        more = b""
        if len(names) > PAGE:
            more = b',"nextCursor":' + encode(base64.urlsafe_b64encode(page[-1].encode()).decode())
        head = words.ACKNOWLEDGED[:-1]
        return self._sign(head + b',"tasks":[' + b",".join(shown) + b"]" + more + b"}")

    # Records

    async def _shown(self, request: ModernRequest, caller: Caller, record: TaskRecord) -> bytes:
        answer = self._linked(await self._show(record), request, caller, record.server)
        return self._sign(answer)

    def _linked(self, answer: bytes, request: ModernRequest, caller: Caller, server: str) -> bytes:
        """The result within an answer with the URIs that this client knows."""
        names = self._renamed(request, caller, server)
        result = pick(answer, "result").get("result") if names else None
        if names is None or result is None:
            return answer
        return splice(answer, {"result": relinked(bytes(result), names)})

    def _task_id(self, request: ModernRequest) -> str:
        if not words.declares(request.meta.client_capabilities):
            raise words.undeclared(request.method)
        return request.target or text_member(request.params, "taskId")

    async def _read(self, caller: Caller, task_id: str) -> TaskRecord:
        key = record_key(caller.tenant, caller.principal, task_id)
        try:
            # On a cluster a read may be a moment behind the write of the record.
            entry = await self._kv.get(key) or await self._kv.latest(key)
        except MeshError as error:
            raise _unserved(error) from error
        if entry is None:
            raise _unknown()
        return _decoded(entry.value)

    async def _awaited(self, caller: Caller, task_id: str, wait_s: float, since: str) -> TaskRecord:
        """The record once it is another than the caller knows, or time is over."""
        await self.events.open()
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        moved = asyncio.Event()
        stop = self.events.of_task(caller.tenant, task_id, lambda _: moved.set())
        try:
            while True:
                moved.clear()
                record = await self._read(caller, task_id)
                left = until - loop.time()
                changed = words.updated_at(record) != since
                if record.terminal or record.status == "input_required" or changed or left <= 0:
                    return record
                try:
                    async with asyncio.timeout(min(left, LOOK_EVERY_S)):
                        await moved.wait()
                except TimeoutError:
                    continue
        finally:
            stop()

    async def _show(self, record: TaskRecord) -> bytes:
        result = b""
        if record.parts:
            key = record_key(record.tenant, record.principal, record.id)
            result = await read_parts(self._kv, key, record.parts)
        return words.detailed(record, result)

    # Tasks of servers

    def opened(self, caller: Caller, token: str) -> words.Relayed:
        """What a sealed id stands for.

        Raises:
            MeshError: ``params``: an unknown task.
        """
        try:
            sealed = _RELAYED.decode(self._sealer.open(PURPOSE, token))
        except (MeshError, msgspec.DecodeError):
            raise _unknown() from None
        if (sealed.tenant, sealed.principal) != (caller.tenant, caller.principal):
            raise _unknown()
        return sealed

    async def _relay(self, request: ModernRequest, caller: Caller, token: str) -> bytes:
        sealed = self.opened(caller, token)
        params = splice(request.params, {"taskId": encode(sealed.id)})
        result = await self._forward(request, params, caller, sealed.server, sealed.id)
        if "taskId" in pick(result, "taskId"):
            result = words.relisted(result, token)
            return self._linked(result, request, caller, sealed.server)
        return result

    async def _ask(self, operation: Operation[P, R], params: P) -> R:
        try:
            return await self._bus.operation(operation, params, timeout_s=OPERATION_S)
        except MeshError as error:
            if error.kind is ErrorKind.NOT_FOUND:
                raise _unknown() from None
            raise

    def _sign(self, result: bytes) -> bytes:
        return self._signature.sign(msgspec.Raw(result), _SERVER)


def _decoded(value: bytes) -> TaskRecord:
    try:
        return _RECORD.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unknown() from None


def _unknown() -> MeshError:
    return MeshError(ErrorKind.PARAMS, "unknown task")


def _unserved(error: MeshError) -> MeshError:
    """A bucket that is not there means that no runner has made it yet: nobody serves tasks."""
    if error.kind is not ErrorKind.NO_RUNNER:
        return error
    return MeshError(ErrorKind.NO_RUNNER, "no runner keeps tasks now", retry_after_s=1.0)


def _opened_cursor(cursor: str) -> str:
    try:
        name = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        name = ""
    if not is_task_id(name):
        raise MeshError(ErrorKind.PARAMS, "bad cursor")
    return name


def _wait_of(params: bytes | msgspec.Raw) -> _Wait | None:
    if WAIT_META.encode() not in bytes(params):
        return None
    meta = pick(params, "_meta").get("_meta", msgspec.Raw(b"{}"))
    try:
        return _WAITS.decode(meta).wait
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARAMS, f'_meta["{WAIT_META}"] is malformed') from None
