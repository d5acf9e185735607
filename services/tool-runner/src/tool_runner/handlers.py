"""The operations of the runner, one short function each: who asks, what for, do it, answer."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from mcp_proto.codec import encode_error, encode_response
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.callerctx import ContextVerifier
from tool_runner.core.requests import TOOLS_CALL, Asked, read_request
from tool_runner.core.toolbox import Toolbox, failure
from tool_runner.toolsets.toolset import Tool, Toolset
from tool_runner.upstreams.upstream import Request

__all__ = ["FORWARDED", "Admission", "NativeHandlers", "ServerHandlers", "Target"]

FORWARDED = frozenset((TOOLS_CALL, "resources/read", "prompts/get", "completion/complete"))
"""Requests that go to an upstream server; everything else of MCP is the gateway's."""

_encode = msgspec.json.Encoder().encode


class Admission:
    """Checks who calls.

    Args:
        allow_unsigned: accept calls without a signed caller context, and any before the keys are
            known (the broker's rights on subjects then decide alone).
    """

    def __init__(self, *, allow_unsigned: bool) -> None:
        self._verifier: ContextVerifier | None = None
        self._allow_unsigned = allow_unsigned

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


def _read(call: Call) -> Asked:
    protocol = call.headers.get(Header.PROTOCOL)
    return read_request(call.subject, call.envelope, protocol, call.payload)


class NativeHandlers:
    """Runs native tools."""

    def __init__(self, toolsets: tuple[Toolset, ...], admission: Admission) -> None:
        tools = [tool for toolset in toolsets for tool in toolset.tools]
        self._tools: Mapping[str, Tool] = {tool.spec.name: tool for tool in tools}
        self._toolbox = Toolbox(tool.spec for tool in tools)
        self._servers = {
            toolset.server: frozenset(tool.spec.name for tool in toolset.tools)
            for toolset in toolsets
        }
        self._admission = admission

    async def call(self, call: Call) -> bytes:
        """``tools/call`` of a native tool.

        Raises:
            MeshError: ``params`` for an unknown tool, and what ``Admission`` and the tool say.
        """
        asked = _read(call)
        caller = self._admission.admit(call)
        server = call.subject.names[0]
        if asked.method != TOOLS_CALL:
            raise MeshError(ErrorKind.METHOD, f"server {server} does not serve {asked.method}")
        if asked.name not in self._servers.get(server, ()):
            raise MeshError(ErrorKind.NOT_FOUND, f"unknown tool: {asked.name}")
        tool = self._tools[asked.name]
        _check_permission(caller, tool.spec.permission)
        problem = self._toolbox.problem(asked.name, asked.arguments)
        if problem is not None:
            return encode_response(asked.id, _encode(failure(problem)))
        arguments = asked.arguments if memoryview(asked.arguments).nbytes else _NO_ARGUMENTS
        result = await tool.handler(call.subject.tenant, arguments)
        return encode_response(asked.id, _encode(result))


_NO_ARGUMENTS = msgspec.Raw(b"{}")


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


class ServerHandlers:
    """Forwards requests to one upstream server."""

    def __init__(self, target: Target, admission: Admission) -> None:
        self._target = target
        self._admission = admission

    async def call(self, call: Call) -> bytes:
        """Any request that an upstream server serves.

        Raises:
            MeshError: ``method``, what ``Admission`` says, and how the upstream failed.
        """
        asked = _read(call)
        self._admission.admit(call)
        if asked.method not in FORWARDED:
            raise MeshError(
                ErrorKind.METHOD, f"server {self._target.name} does not serve {asked.method}"
            )
        if self._target.tenant not in {PLATFORM, call.subject.tenant}:
            raise MeshError(ErrorKind.DENIED, "the server belongs to another tenant")
        answer = await self._target.call(
            Request(
                method=asked.method,
                params=asked.params,
                timeout_s=call.remaining_s,
                notify=call.emit if call.frames else None,
            )
        )
        if isinstance(answer, ErrorObject):
            return encode_error(asked.id, answer)
        return encode_response(asked.id, answer)
