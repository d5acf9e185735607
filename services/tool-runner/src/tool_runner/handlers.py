"""The operations of the runner, one short function each: who asks, what for, do it, answer."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from mcp_proto.asked import TOOLS_CALL, Asked, read_directed, read_request
from mcp_proto.codec import encode_error, encode_response, pick
from mcp_proto.contracts import watching
from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.inputs import RESUMABLE, links_required, may_declare_input
from mcp_proto.limits import INLINE_MAX_BYTES
from mcp_proto.subjects import PLATFORM, Kind
from mesh_chassis.bus.endpoint import Call, Intake, LargeBody
from mesh_chassis.callerctx import ContextVerifier
from tool_runner.core.toolbox import Toolbox, ToolResult, failure
from tool_runner.native_resources import NATIVE_RESOURCE_METHODS, answer_resource
from tool_runner.parking import Parking, parked_under
from tool_runner.toolsets.arriving import Arriving
from tool_runner.toolsets.toolset import Tool, Toolset
from tool_runner.upstreams.upstream import Request

__all__ = ["FORWARDED", "Admission", "AnswerHandlers", "NativeHandlers", "ServerHandlers", "Target"]

_TASKS = ("tasks/get", "tasks/update", "tasks/cancel")
_SKILLS = ("skills/list", "skills/get", "resources/directory/read")
FORWARDED = frozenset(
    (TOOLS_CALL, "resources/read", "prompts/get", "completion/complete", *_TASKS, *_SKILLS)
)
"""Requests that go to an upstream server; everything else of MCP is the gateway's."""

_WATCHED = frozenset((watching.SUBSCRIBE, watching.UNSUBSCRIBE))
_encode = msgspec.json.Encoder().encode


Extend = Callable[[Call, CallerContext | None], Awaitable[float]]
Follower = Callable[[Call, str], Awaitable[CallerContext | None]]
Run = Callable[[str], Awaitable[bytes | ErrorObject]]
"""An execution; takes the tag of the record of its idempotency key, "" = it has none."""
Fit = Callable[[Call, CallerContext | None, bytes], Awaitable[bytes]]


class Once(Protocol):
    """What of ``Idempotency`` the handlers need."""

    def once(
        self, call: Call, asked: Asked, caller: CallerContext | None, run: Run
    ) -> Awaitable[bytes | ErrorObject]:
        """A first call with a key, or a repeat."""
        ...

    def resume(
        self,
        call: Call,
        params: msgspec.Raw,
        whose: tuple[str, str],
        tag: str,
        way: tuple[Run, Callable[[], bool]],
    ) -> Awaitable[bytes | ErrorObject]:
        """Answers to a parked one."""
        ...

    def parked_ended(
        self, tenant: str, principal: str, tag: str, answer: bytes | ErrorObject | str
    ) -> None:
        """A parked one ended without its caller."""
        ...


KEY_MARK = IDEMPOTENCY_KEY.partition("/")[2].encode()
"""Without the slash, which some JSON writers escape."""


class Admission:
    """Checks who calls.

    Args:
        allow_unsigned: accept calls without a signed caller context, and any before the keys are
            known (the broker's rights on subjects then decide alone).
    """

    def __init__(self, *, allow_unsigned: bool) -> None:
        self._verifier: ContextVerifier | None = None
        self._allow_unsigned = allow_unsigned
        self.extend: Extend | None = None
        """Gives the call of a durable task its time; None = nothing knows tasks yet."""
        self.follower: Follower | None = None
        """Who follows a task of a server, by the record of the task of ours; None = nobody."""
        self.once: Once | None = None
        """Runs calls that carry an idempotency key; None = nothing keeps records yet."""

    def use(self, verifier: ContextVerifier) -> None:
        """Check caller contexts from now on."""
        self._verifier = verifier

    def admit(self, call: Call) -> CallerContext | None:
        """The caller; None for an unsigned call where that is allowed.

        Raises:
            MeshError: ``unauthenticated``, ``denied``.
        """
        token = call.envelope.context
        if not token:
            if self._allow_unsigned:
                return None
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the call carries no caller context")
        if self._verifier is None:
            if self._allow_unsigned:
                return None
            raise MeshError(ErrorKind.UNAUTHENTICATED, "caller contexts cannot be checked yet")
        context = self._verifier.verify(token)
        if context.tid != call.subject.tenant:
            raise MeshError(ErrorKind.DENIED, "the caller context is for another tenant")
        return context

    def identify(self, token: str, tenant: str, principal: str) -> tuple[str, str]:
        """Tenant and principal of an operation that names both and brings a signed context.

        Raises:
            MeshError: ``unauthenticated``, ``denied``.
        """
        if self._verifier is None or not token:
            if self._allow_unsigned:
                return tenant, principal
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the operation carries no caller context")
        context = self._verifier.verify(token)
        if (context.tid, context.sub) != (tenant, principal):
            raise MeshError(ErrorKind.DENIED, "the caller context is for somebody else")
        return tenant, principal

    async def admit_follower(self, call: Call, task_id: str) -> CallerContext | None:
        """The caller of a request with which a runner follows a server's task for one of ours.

        Such a task may outlive the submitter's context; then the record of ours decides.

        Raises:
            MeshError: ``unauthenticated``, ``denied``.
        """
        try:
            return self.admit(call)
        except MeshError as error:
            found = None
            if error.kind is ErrorKind.UNAUTHENTICATED and self.follower is not None:
                found = await self.follower(call, task_id)
            if found is None:
                raise
            return found

    async def task_s(self, call: Call, caller: CallerContext | None) -> float:
        """For how long the durable task is kept whose call this says to be; 0 = it is none's.

        A call of a task gets the time that the task gives it.
        """
        return await self.extend(call, caller) if self.extend is not None else 0.0


def _read(call: Call) -> Asked:
    protocol = call.headers.get(Header.PROTOCOL)
    return read_request(call.subject, call.envelope, protocol, call.payload)


class NativeHandlers:
    """Runs native tools."""

    def __init__(
        self, toolsets: tuple[Toolset, ...], admission: Admission, fit: Fit | None = None
    ) -> None:
        self._fit = fit
        tools = [tool for toolset in toolsets for tool in toolset.tools]
        self._tools: Mapping[str, Tool] = {tool.spec.name: tool for tool in tools}
        self._toolbox = Toolbox(tool.spec for tool in tools)
        self._servers = {
            toolset.server: frozenset(tool.spec.name for tool in toolset.tools)
            for toolset in toolsets
        }
        self._resources = {
            toolset.server: toolset.resources
            for toolset in toolsets
            if toolset.resources is not None
        }
        self._admission = admission

    def intake(self, call: Call) -> Intake | None:
        """What uses the large body of a call while it comes; None = nothing, or it is not allowed.

        Whoever calls is judged by the headers here, and all else when the body is there.
        """
        subject = call.subject
        if subject.kind is not Kind.CALL or len(subject.names) != 2:
            return None
        server, name = subject.names
        tool = self._tools.get(name)
        if tool is None or tool.arrives is None or name not in self._servers.get(server, ()):
            return None
        try:
            _check_permission(self._admission.admit(call), tool.spec.permission)
        except MeshError:
            return None
        protocol = call.headers.get(Header.PROTOCOL)

        def arguments(body: bytes) -> msgspec.Raw:
            return read_request(subject, call.envelope, protocol, body).arguments

        return tool.arrives(subject.tenant, arguments)

    async def call(self, call: Call) -> bytes | LargeBody:
        """Any request for a native server: its tools, and resources where it has some.

        Raises:
            MeshError: ``params`` for an unknown tool, and what ``Admission`` and the tool say.
        """
        asked = await _read_arrived(call)
        large = len(call.payload) > INLINE_MAX_BYTES
        if large:
            await asyncio.sleep(0)  # small calls go between two passes over a large body
        caller = self._admission.admit(call)
        server = call.subject.names[0]
        if asked.method != TOOLS_CALL:
            resources = self._resources.get(server)
            if resources is None or asked.method not in NATIVE_RESOURCE_METHODS:
                raise MeshError(ErrorKind.METHOD, f"server {server} does not serve {asked.method}")
            _check_permission(caller, resources.permission)
            return await answer_resource(resources, call, asked, caller)
        if asked.name not in self._servers.get(server, ()):
            raise MeshError(ErrorKind.NOT_FOUND, f"unknown tool: {asked.name}")
        tool = self._tools[asked.name]
        _check_permission(caller, tool.spec.permission)
        problem = self._toolbox.problem(asked.name, asked.arguments)
        if problem is not None:
            return encode_response(asked.id, _encode(failure(problem)))
        if large:
            await asyncio.sleep(0)
        arguments = asked.arguments if memoryview(asked.arguments).nbytes else _NO_ARGUMENTS
        once = self._admission.once
        if once is not None and _may_have_key(call, asked):

            async def run(_tag: str) -> bytes:
                result = _encode(await _handled(tool, call, asked, caller, arguments))
                return await self._fitted(call, caller, result)

            return _answered(asked, await once.once(call, asked, caller, run))
        handler = tool.handler
        result = _encode(
            await handler(call.subject.tenant, arguments)
            if handler is not None
            else await _handled(tool, call, asked, caller, arguments)
        )
        if len(result) > INLINE_MAX_BYTES:
            result = await self._fitted(call, caller, result)
        return encode_response(asked.id, result)

    async def _fitted(self, call: Call, caller: CallerContext | None, result: bytes) -> bytes:
        fit = self._fit
        if fit is None or len(result) <= INLINE_MAX_BYTES:
            return result
        return await fit(call, caller, result)


_NO_ARGUMENTS = msgspec.Raw(b"{}")


async def _read_arrived(call: Call) -> Asked:
    asked, arriving = _read(call), call.intake
    if isinstance(arriving, Arriving) and arriving.used and _may_have_key(call, asked):
        # What its key is compared with is the whole body.
        call.payload = arriving.whole()
        await arriving.close()
        asked = _read(call)
    return asked


def _may_have_key(call: Call, asked: Asked) -> bool:
    """Whether to look for an idempotency key: a large body is not searched, only its ``_meta``."""
    if len(call.payload) <= _SEARCHED_BYTES:
        return KEY_MARK in call.payload
    return KEY_MARK in bytes(pick(asked.params, "_meta").get("_meta", _NO_ARGUMENTS))


_SEARCHED_BYTES = 64 * 1024


def _handled(
    tool: Tool, call: Call, asked: Asked, caller: CallerContext | None, arguments: msgspec.Raw
) -> Awaitable[ToolResult]:
    if tool.asked is None:
        if tool.handler is None:
            raise MeshError(ErrorKind.INTERNAL, f"nothing is behind {tool.spec.name}")
        return tool.handler(call.subject.tenant, arguments)
    request = Request(
        method=asked.method,
        params=asked.params,
        timeout_s=call.remaining_s,
        notify=call.emit if call.frames else None,
        tenant=call.subject.tenant,
        caller=caller,
    )
    return tool.asked(request, arguments)


def _answered(asked: Asked, answer: bytes | ErrorObject) -> bytes:
    if isinstance(answer, ErrorObject):
        return encode_error(asked.id, answer)
    return encode_response(asked.id, answer)


def _check_permission(caller: CallerContext | None, permission: str) -> None:
    """The gateway has decided already; its context repeats the permissions, and they hold."""
    if caller is not None and permission and permission not in caller.perms:
        raise MeshError(
            ErrorKind.DENIED, f"missing permission {permission}", data={"missing": permission}
        )


class Target(Protocol):
    """An upstream server as the handlers see it."""

    @property
    def name(self) -> str:
        """Server name."""
        ...

    @property
    def tenant(self) -> str:
        """Owner; ``_`` = shared."""
        ...

    async def call(self, request: Request) -> bytes | ErrorObject:
        """See ``Upstream.call``."""
        ...

    @property
    def asks_back(self) -> bool:
        """Whether it may send requests of its own in mid-call."""
        ...

    @property
    def call_timeout_s(self) -> float:
        """Longest time of one call, people's time apart."""
        ...

    async def subscribe(self, asked: watching.Asked, timeout_s: float) -> watching.Verdict:
        """Watch resources for somebody."""
        ...

    def unsubscribe(self, asked: watching.Asked) -> None:
        """Watch them no longer."""
        ...


class ServerHandlers:
    """Forwards requests to one upstream server, and keeps subscriptions to its resources."""

    def __init__(self, target: Target, admission: Admission, parking: Parking) -> None:
        self._target = target
        self._admission = admission
        self._parking = parking

    async def call(self, call: Call) -> bytes:
        """Any request that an upstream server serves.

        Raises:
            MeshError: ``method``, what ``Admission`` says, and how the upstream failed.
        """
        asked = _read(call)
        if asked.method in _TASKS and Header.TASK in call.headers:
            context = await self._admission.admit_follower(call, asked.name)
        else:
            context = self._admission.admit(call)
        if asked.method not in FORWARDED and asked.method not in _WATCHED:
            raise MeshError(
                ErrorKind.METHOD, f"server {self._target.name} does not serve {asked.method}"
            )
        if self._target.tenant not in {PLATFORM, call.subject.tenant}:
            raise MeshError(ErrorKind.DENIED, "the server belongs to another tenant")
        if asked.method in _WATCHED:
            return await self._watch(asked, context, call.remaining_s)
        named = Header.TASK in call.headers
        task_s = await self._admission.task_s(call, context) if named else 0.0
        answer = await self._call(
            call,
            asked,
            context,
            Request(
                method=asked.method,
                params=asked.params,
                timeout_s=call.remaining_s,
                notify=call.emit if call.frames else None,
                tenant=call.subject.tenant,
                caller=context,
                task_s=task_s,
            ),
        )
        if isinstance(answer, ErrorObject):
            answer = links_required(answer, asked.method, asked.params)
        return _answered(asked, answer)

    def _call(
        self, call: Call, asked: Asked, caller: CallerContext | None, request: Request
    ) -> Awaitable[bytes | ErrorObject]:
        once = self._admission.once
        if once is None or KEY_MARK not in call.payload or asked.method != TOOLS_CALL:
            return self._forward(call, request, "")

        async def run(tag: str) -> bytes | ErrorObject:
            answer = await self._forward(call, request, tag)
            if isinstance(answer, ErrorObject):
                # Before it is kept: a call that asks has no final answer yet.
                answer = links_required(answer, asked.method, asked.params)
            return answer

        return once.once(call, asked, caller, run)

    def _forward(self, call: Call, request: Request, tag: str) -> Awaitable[bytes | ErrorObject]:
        target = self._target
        if target.asks_back and request.method in RESUMABLE and may_declare_input(request.params):
            return self._parking.call(call, request, target, tag)
        return target.call(request)

    async def _watch(self, asked: Asked, caller: CallerContext | None, timeout_s: float) -> bytes:
        wish = watching.read_asked(asked.params, "" if caller is None else caller.sub)
        if asked.method == watching.UNSUBSCRIBE:
            self._target.unsubscribe(wish)
            return encode_response(asked.id, _encode(watching.Verdict()))
        # The answer must be there before the caller's patience ends.
        verdict = await self._target.subscribe(wish, max(0.001, timeout_s * _ANSWER_SHARE))
        return encode_response(asked.id, _encode(verdict))


_ANSWER_SHARE = 0.9


class AnswerHandlers:
    """Takes repeated calls that bring answers to a parked one."""

    def __init__(self, parking: Parking, admission: Admission) -> None:
        self._parking = parking
        self._admission = admission

    async def answer(self, call: Call) -> bytes:
        """``inst.{instance}.answer``: the request as first sent, with answers and state.

        Raises:
            MeshError: ``lost`` when that call is not parked here, or is another principal's; what
                ``Admission`` says, and how the upstream failed.
        """
        asked = read_directed(call.envelope, call.headers.get(Header.PROTOCOL), call.payload)
        caller = self._admission.admit(call)
        if Header.TASK in call.headers:
            await self._admission.task_s(call, caller)
        whose = (call.subject.tenant, caller.sub if caller is not None else "")
        park_id, tag = parked_under(asked.params)
        once = self._admission.once

        async def run(_tag: str) -> bytes | ErrorObject:
            answer = await self._parking.answer(call, asked.method, asked.params, *whose)
            if isinstance(answer, ErrorObject):
                answer = links_required(answer, asked.method, asked.params)
            return answer

        if once is None or not tag:
            return _answered(asked, await run(""))
        way = (run, lambda: self._parking.holds(park_id))
        return _answered(asked, await once.resume(call, asked.params, whose, tag, way))
