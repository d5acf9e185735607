"""Calls of tools and reads of resources: any replica receives them, the owner answers.

Who calls is checked where a call arrives, and again by the owner that it is forwarded to. A call
whose owner does not answer takes the swarm over; one whose owner was refused by the log, so that
nothing happened, is made once more.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from mcp_proto.asked import TOOLS_CALL, Asked, read_request
from mcp_proto.codec import encode_response
from mcp_proto.contracts import watching
from mcp_proto.contracts.swarm_replicas import OwnerCall, TaskReached
from mcp_proto.contracts.tasks import (
    Acknowledged,
    TaskCancel,
    TaskCreate,
    TaskRecord,
    TaskUpdate,
    is_task_id,
)
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.names import SWARM_SERVER
from mesh_chassis.bus.endpoint import Call
from swarm_coordinator.core import decide
from swarm_coordinator.core.records import SwarmRecord
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.handlers import dispatch, resources
from swarm_coordinator.handlers.asking import Resumption, client_of, resumption_of
from swarm_coordinator.handlers.ports import Caller
from swarm_coordinator.orchestrator import requests
from swarm_coordinator.orchestrator.admission import Admission
from swarm_coordinator.orchestrator.forwards import OwnerGone
from swarm_coordinator.orchestrator.loss import LOST_REASON
from swarm_coordinator.orchestrator.marks import told_apart
from swarm_coordinator.orchestrator.owner import SwarmOwner
from swarm_coordinator.orchestrator.subscriptions import Serve
from swarm_coordinator.orchestrator.swarms import SwarmDirectory
from swarm_coordinator.orchestrator.telling import Teller, notice_of, token_of

__all__ = ["Calls"]

TRIES_MAX = 4
"""A call meets a change of owner at most so often."""
AGAIN_S = 0.1
"""Doubled each time: a swarm with a long log takes its successor some tenths of a second."""
RESOURCES_READ = "resources/read"
_call = msgspec.json.Decoder(OwnerCall)
_encode = msgspec.json.Encoder().encode
_CREATE = msgspec.json.Decoder(TaskCreate)
_UPDATE = msgspec.json.Decoder(TaskUpdate)
_CANCEL = msgspec.json.Decoder(TaskCancel)
_RECORD = msgspec.json.Decoder(TaskRecord)
_GIVEN = msgspec.json.Decoder(Resumption)
Forwarded = Literal["tool", "read", "task-create", "task-update", "task-cancel", "task-resume"]
Local = Callable[[SwarmOwner], Awaitable[bytes]]


class Calls:
    """What the endpoints of this replica do.

    Args:
        admission: who calls.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._swarms: SwarmDirectory | None = None

    @property
    def swarms(self) -> SwarmDirectory:
        """The directory; set with ``use``."""
        if self._swarms is None:
            raise MeshError(ErrorKind.OVERLOADED, "the coordinator starts", retry_after_s=0.5)
        return self._swarms

    def use(self, swarms: SwarmDirectory) -> None:
        """Answer from these swarms from now on."""
        self._swarms = swarms

    # Endpoints of every replica

    async def call(self, call: Call) -> bytes:
        """``tools/call`` and ``resources/read`` of server ``swarm``.

        Raises:
            MeshError: ``unauthenticated``, ``denied``, ``params``, ``method``, ``not_found``, and
                what the owner says.
        """
        protocol = call.headers.get(Header.PROTOCOL)
        asked = read_request(call.subject, call.envelope, protocol, call.payload)
        context = self._admission.admit(call)
        caller = self._caller(call, context)
        if asked.method == TOOLS_CALL:
            result = await self._told_tool(call, caller, context, asked)
        elif asked.method == RESOURCES_READ:
            _permit(context, resources.PERMISSION)
            result = await self._read(caller, asked.name)
        elif asked.method in {watching.SUBSCRIBE, watching.UNSUBSCRIBE}:
            _permit(context, resources.PERMISSION)
            result = await self._watch(caller, asked)
        else:
            raise MeshError(ErrorKind.METHOD, f"server swarm does not serve {asked.method}")
        return encode_response(asked.id, result)

    async def _watch(self, caller: Caller, asked: Asked) -> bytes:
        wish = watching.read_asked(asked.params, caller.principal)

        async def exists(swarm: str) -> bool:
            return await self.swarms.find(caller.tenant, swarm) is not None

        return _encode(await resources.watched(wish.uris, exists))

    async def create_task(self, ask: TaskCreate) -> TaskRecord:
        """``task-create``: a call that becomes an MCP task.

        Raises:
            MeshError: as ``call``.
        """
        context, caller = self._identified(ask.context, ask.tenant, ask.principal)
        arguments = _arguments(ask.params)
        _permit(context, dispatch.permission_of(ask.tool))
        dispatch.check(ask.tool, arguments)
        record = await self._meant(caller, dispatch.target_of(ask.tool, arguments))
        if record is None:
            return _no_task(caller, ask.tool, self.swarms.now_ms(), self._no_swarm(""))

        async def local(owner: SwarmOwner) -> bytes:
            return _encode(
                await dispatch.begin_task(owner, caller, ask.tool, ask.params, ask.ttl_ms)
            )

        body = _encode(ask)
        return _RECORD.decode(await self._on_owner(record, caller, "task-create", "", body, local))

    async def update_task(self, ask: TaskUpdate) -> Acknowledged:
        """``task-update``: answers to what a task asked.

        Raises:
            MeshError: ``not_found``, and as ``call``.
        """
        _, caller = self._identified(ask.context, ask.tenant, ask.principal)
        record = await self._of_task(caller, ask.id)

        async def local(owner: SwarmOwner) -> bytes:
            return await _updated(owner, caller, ask)

        await self._on_owner(record, caller, "task-update", "", _encode(ask), local)
        return Acknowledged()

    async def cancel_task(self, ask: TaskCancel) -> Acknowledged:
        """``task-cancel``.

        Raises:
            MeshError: as ``update_task``.
        """
        _, caller = self._identified(ask.context, ask.tenant, ask.principal)
        record = await self._of_task(caller, ask.id)

        async def local(owner: SwarmOwner) -> bytes:
            return await _cancelled(owner, caller, ask)

        await self._on_owner(record, caller, "task-cancel", "", _encode(ask), local)
        return Acknowledged()

    # The endpoint of an owner

    def of_owner(self, owner: SwarmOwner) -> Serve:
        """Answers what other replicas forward."""

        async def serve(call: Call) -> bytes:
            try:
                ask = _call.decode(call.payload)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise MeshError(ErrorKind.PARAMS, f"parameters: {error}") from error
            if owner.over:
                raise _moved()
            teller = Teller(call.emit, _encode) if ask.progress and call.frames else None
            work = self._forwarded(owner, call, ask, None if teller is None else teller.tell)
            answering = told_apart(_answered(owner, work))
            body = await (answering if teller is None else teller.during(answering))
            return _encode(requests.OwnerAnswer(msgspec.Raw(body)))

        return serve

    async def _forwarded(
        self,
        owner: SwarmOwner,
        call: Call,
        ask: OwnerCall,
        tell: Callable[[TaskReached], None] | None,
    ) -> bytes:
        if ask.kind == "ping":
            return b"null"
        tenant = call.subject.tenant
        _, caller = self._identified(ask.context, tenant, ask.principal)
        caller = msgspec.structs.replace(
            caller,
            request=ask.request,
            deadline_s=owner.monotonic() + call.remaining_s,
            tell=tell,
            client=ask.client,
        )
        if ask.kind == "task-resume":
            return await dispatch.resume(owner, caller, ask.name, _GIVEN.decode(ask.body))
        if ask.kind == "tool":
            return await dispatch.call_on_owner(owner, caller, ask.name, ask.body)
        if ask.kind == "read":
            return await dispatch.read_resource(owner, caller, ask.name)
        if ask.kind == "task-create":
            create = _CREATE.decode(ask.body)
            return _encode(
                await dispatch.begin_task(owner, caller, create.tool, create.params, create.ttl_ms)
            )
        if ask.kind == "task-update":
            return await _updated(owner, caller, _UPDATE.decode(ask.body))
        return await _cancelled(owner, caller, _CANCEL.decode(ask.body))

    # The way to the owner

    async def _told_tool(
        self, call: Call, caller: Caller, context: CallerContext | None, asked: Asked
    ) -> bytes:
        """A tool, and how far it is for a caller who gave a progress token."""
        token = token_of(asked.params) if call.frames else None
        if token is None:
            return await self._tool(caller, context, asked)
        teller = Teller(call.emit, functools.partial(notice_of, token))
        caller = msgspec.structs.replace(caller, tell=teller.tell)
        return await teller.during(self._tool(caller, context, asked))

    async def _tool(self, caller: Caller, context: CallerContext | None, asked: Asked) -> bytes:
        tool = asked.name
        _permit(context, dispatch.permission_of(tool))
        arguments = dispatch.with_key(tool, asked.params, asked.arguments)
        dispatch.check(tool, arguments)
        if tool in dispatch.WAITING_TOOLS:
            given = resumption_of(asked.params)
            caller = msgspec.structs.replace(caller, client=client_of(asked.params))
            if given is not None:
                return await self._resumed(caller, tool, given)
        if tool in dispatch.ANYWHERE:
            try:
                return await dispatch.call_anywhere(self.swarms, caller, tool, arguments)
            except dispatch.Repeated as repeated:
                record = repeated.swarm
        else:
            target = dispatch.target_of(tool, arguments)
            found = await self._meant(caller, target)
            if found is None:
                return self._no_swarm(target.swarm or "")
            record = found

        async def local(owner: SwarmOwner) -> bytes:
            return await dispatch.call_on_owner(owner, caller, tool, arguments)

        try:
            return await self._on_owner(record, caller, "tool", tool, bytes(arguments), local)
        except MeshError as error:
            if error.data.get("reason") != LOST_REASON:
                raise
            return dispatch.lost_swarm(record.swarm, error.message, self.swarms.now_ms())

    async def _resumed(self, caller: Caller, tool: str, given: Resumption) -> bytes:
        """A call that is repeated with answers to what its task asked."""
        record = await self._of_task(caller, given.task)

        async def local(owner: SwarmOwner) -> bytes:
            return await dispatch.resume(owner, caller, tool, given)

        return await self._on_owner(record, caller, "task-resume", tool, _encode(given), local)

    async def _read(self, caller: Caller, uri: str) -> bytes:
        swarm = dispatch.swarm_of_uri(uri) or await self.swarms.default(caller)
        record = await self._record(caller, swarm)
        if record is None:
            raise resources.unknown(uri)

        async def local(owner: SwarmOwner) -> bytes:
            return await dispatch.read_resource(owner, caller, uri)

        return await self._on_owner(record, caller, "read", uri, b"", local)

    async def _meant(self, caller: Caller, target: dispatch.Target) -> SwarmRecord | None:
        """The swarm that a call means, if it is the caller's."""
        if target.swarm:
            return await self._record(caller, target.swarm)
        if target.task and is_task_id(target.task):
            known = await self.swarms.task_record(caller.tenant, caller.principal, target.task)
            if known is not None and known.upstream:
                return await self._record(caller, known.upstream)
        return await self._record(caller, await self.swarms.default(caller))

    async def _record(self, caller: Caller, swarm: str) -> SwarmRecord | None:
        if not swarm:
            return None
        record = await self.swarms.find(caller.tenant, swarm)
        return record if record is not None and record.principal == caller.principal else None

    async def _of_task(self, caller: Caller, task: str) -> SwarmRecord:
        known = None
        if is_task_id(task):
            known = await self.swarms.task_record(caller.tenant, caller.principal, task)
        record = None if known is None else await self._record(caller, known.upstream)
        if record is None:
            raise MeshError(ErrorKind.NOT_FOUND, "unknown task")
        return record

    async def _on_owner(
        self,
        record: SwarmRecord,
        caller: Caller,
        kind: Forwarded,
        name: str,
        body: bytes,
        local: Local,
    ) -> bytes:
        """Have the owner answer: this replica, or another one, or whoever takes the swarm over."""
        gone = False
        for tried in range(TRIES_MAX):
            try:
                owner = await self.swarms.owner_of(record, gone=gone)
                if owner is not None:
                    return await told_apart(_answered(owner, local(owner)))
                return await self._forward(record, caller, kind, name, body)
            except MeshError as error:
                if tried == TRIES_MAX - 1 or not _moved_on(error):
                    raise
                gone = error.kind is ErrorKind.NO_RUNNER
            await asyncio.sleep(AGAIN_S * 2**tried)
        raise _moved()

    async def _forward(
        self, record: SwarmRecord, caller: Caller, kind: Forwarded, name: str, body: bytes
    ) -> bytes:
        left_s = max(0.1, caller.deadline_s - self.swarms.monotonic())
        ask = OwnerCall(
            kind=kind,
            name=name,
            principal=caller.principal,
            context=caller.context,
            body=msgspec.Raw(body) if body else ABSENT,
            request=caller.request,
            timeout_ms=int(left_s * 1000),
            progress=caller.tell is not None,
            client=caller.client,
        )
        asking = requests.ask_owner(
            self._admission.bus,
            record.tenant,
            record.swarm,
            ask,
            timeout_s=left_s,
            tell=caller.tell,
        )
        try:
            answer = await self.swarms.elsewhere(record, asking)
        except OwnerGone:
            if kind == "read" or (kind == "tool" and dispatch.repeatable(name, msgspec.Raw(body))):
                raise _moved() from None
            raise MeshError(
                ErrorKind.LOST,
                "the owner of the swarm was lost while it had the call",
                outcome=Outcome.UNKNOWN,
                retry_after_s=0.2,
            ) from None
        return bytes(answer.body)

    def _no_swarm(self, swarm: str) -> bytes:
        return dispatch.no_swarm(swarm, self.swarms.now_ms())

    def _caller(self, call: Call, context: CallerContext | None) -> Caller:
        return Caller(
            tenant=call.subject.tenant,
            principal=context.sub if context is not None else self._admission.unsigned,
            context=call.envelope.context or "",
            request=call.envelope.request_id,
            deadline_s=self.swarms.monotonic() + call.remaining_s,
        )

    def _identified(
        self, token: str, tenant: str, principal: str
    ) -> tuple[CallerContext | None, Caller]:
        context = self._admission.identify(token, tenant, principal)
        caller = Caller(
            tenant=tenant,
            principal=principal,
            context=token,
            deadline_s=self.swarms.monotonic() + OPERATION_S,
        )
        return context, caller


OPERATION_S = 5.0
"""What an operation between services may take."""


async def _answered(owner: SwarmOwner, work: Awaitable[bytes]) -> bytes:
    """An answer, once everything it may have read is stored."""
    try:
        await owner.assure()
    except BaseException:
        if asyncio.iscoroutine(work):
            work.close()
        raise
    answer = await work
    await owner.stored()
    return answer


def _no_task(caller: Caller, tool: str, now_ms: int, result: bytes) -> TaskRecord:
    """The answer to a call that made no task: the caller has no such swarm."""
    return TaskRecord(
        id="",
        tenant=caller.tenant,
        principal=caller.principal,
        server=SWARM_SERVER,
        tool=tool,
        status="completed",
        created_ms=now_ms,
        updated_ms=now_ms,
        ttl_ms=0,
        poll_ms=0,
        result=msgspec.Raw(result),
    )


async def _updated(owner: SwarmOwner, caller: Caller, ask: TaskUpdate) -> bytes:
    _check_task(owner, caller, ask.id)
    events = decide.answer_input(owner.state, ask.id, ask.responses, owner.now_ms())
    await owner.commit(events)
    await owner.recorded(ask.id)
    return b"{}"


async def _cancelled(owner: SwarmOwner, caller: Caller, ask: TaskCancel) -> bytes:
    _check_task(owner, caller, ask.id)
    try:
        await owner.commit(decide.cancel(owner.state, ask.id, "cancelled", owner.now_ms()))
    except Refusal as refusal:
        raise MeshError(ErrorKind.NOT_FOUND, refusal.message) from refusal
    return b"{}"


def _check_task(owner: SwarmOwner, caller: Caller, task: str) -> None:
    known = owner.state.tasks.get(task)
    if known is None or (owner.state.tenant, known.principal) != (caller.tenant, caller.principal):
        raise MeshError(ErrorKind.NOT_FOUND, "unknown task")


def _permit(context: CallerContext | None, permission: str) -> None:
    """The gateway has decided already; its context repeats the permissions, and they hold."""
    if context is not None and permission and permission not in context.perms:
        raise MeshError(
            ErrorKind.DENIED, f"missing permission {permission}", data={"missing": permission}
        )


def _moved() -> MeshError:
    return MeshError(
        ErrorKind.LOST, "another replica owns the swarm now", outcome=Outcome.NOT_EXECUTED
    )


def _moved_on(error: MeshError) -> bool:
    """Whether a call met a change of owner, and certainly had no effect."""
    return error.outcome is Outcome.NOT_EXECUTED and error.kind in (
        ErrorKind.NO_RUNNER,
        ErrorKind.LOST,
    )


class _Params(msgspec.Struct):
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


def _arguments(params: msgspec.Raw) -> msgspec.Raw:
    try:
        return msgspec.json.decode(params, type=_Params).arguments
    except msgspec.MsgspecError as error:
        raise MeshError(ErrorKind.PARAMS, f"params: {error}") from error
