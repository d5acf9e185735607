"""The one dispatcher behind every edge: a modern request and its caller in, a result out.

Everything is decided from memory (who, may they, where, how much time is left); the only thing
awaited in the path of a call is the one hop to the server. Edges translate eras, keep
connections and render errors; nothing here knows which edge asked.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from gateway.config import LimitsConfig
from gateway.core.access import View
from gateway.core.answers import Signature, result_of
from gateway.core.merge import ListKind, Lists
from gateway.core.paramheaders import ParamHeader
from gateway.core.requests import ModernRequest, budget_s, optional_text, text_member
from gateway.core.routing import Item
from gateway.identity import Caller
from gateway.store import Catalogs
from mcp_proto import subjects
from mcp_proto.codec import encode_request
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick, splice
from mesh_chassis.clock import SYSTEM, Clock
from mesh_chassis.metrics import Metrics
from mesh_chassis.tracing import SpanKind, start_span

__all__ = ["CallBus", "Dispatcher", "Notices"]

Notices = Callable[[bytes], None]
"""Takes one notification (JSON-RPC bytes); must not block."""

NAME_HEADER_CHARS_MAX = 256
"""Longest URI repeated in ``Mcp-Name``: a longer one stands in the body alone, because all headers
of a message on the bus have 2 KiB together."""

_LISTS = {
    "tools/list": ListKind.TOOLS,
    "prompts/list": ListKind.PROMPTS,
    "resources/list": ListKind.RESOURCES,
    "resources/templates/list": ListKind.TEMPLATES,
}


class CallBus(Protocol):
    """What of the bus is needed here."""

    def new_request_id(self) -> str:
        """A fresh ``Mesh-Req``."""
        ...

    async def call(
        self,
        subject: str,
        payload: bytes,
        *,
        envelope: RequestEnvelope,
        timeout_s: float,
        tenant: str,
        on_frame: Notices | None = None,
    ) -> bytes:
        """One call, repeats of what did not run included; the response body."""
        ...


class _Named(msgspec.Struct):
    method: str = ""


class _Reference(msgspec.Struct):
    type: str = ""
    name: str = ""
    uri: str = ""


class _Route(msgspec.Struct, frozen=True):
    """Where a request goes: subject, owner, and the owner's own name of what is meant."""

    subject: str
    server: str
    name: str


_NOTICE = msgspec.json.Decoder(_Named)
_REFERENCE = msgspec.json.Decoder(_Reference)


class Dispatcher:
    """Handles every modern request except ``subscriptions/listen``, which streams."""

    def __init__(
        self,
        *,
        bus: CallBus,
        catalogs: Catalogs,
        limits: LimitsConfig,
        metrics: Metrics,
        clock: Clock = SYSTEM,
    ) -> None:
        self._bus = bus
        self._catalogs = catalogs
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._signature = Signature(msgspec.json.encode(catalogs.facts.info()))
        self._methods: dict[str, _Method] = {
            "server/discover": self._discover,
            "tools/call": self._call_tool,
            "resources/read": self._read_resource,
            "prompts/get": self._get_prompt,
            "completion/complete": self._complete,
            **dict.fromkeys(_LISTS, self._list),
        }

    async def dispatch(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None = None
    ) -> bytes:
        """Answer one request.

        Args:
            request: with a valid modern envelope, or one an edge built for an old client.
            caller: checked.
            on_notice: called with each notification of this request; None = the edge cannot
                deliver any.

        Returns:
            The result object in the modern dialect.

        Raises:
            MeshError: for the edge to render.
        """
        began = self._clock.monotonic()
        method = self._methods.get(request.method)
        outcome = "cancelled"
        try:
            if method is None:
                raise MeshError(ErrorKind.METHOD, "method not found")
            result = await method(request, caller, on_notice)
            outcome = "ok"
        except MeshError as error:
            outcome = error.kind.value
            raise
        finally:
            label = request.method if method is not None else "other"
            self._metrics.call(request.edge, label, outcome, self._clock.monotonic() - began)
        return result

    def lists(self, caller: Caller) -> Lists:
        """What a caller sees."""
        return self._catalogs.lists(caller.viewer)

    def param_headers(self, caller: Caller, tool: str) -> tuple[ParamHeader, ...]:
        """Arguments of a tool that its schema mirrors into HTTP headers; () for unknown tools."""
        found = self._catalogs.table(caller.tenant).tool(tool)
        return found.headers if found is not None else ()

    def has_tool(self, caller: Caller, tool: str) -> bool:
        """Whether the caller's tenant has a tool of this name, allowed or not."""
        return self._catalogs.table(caller.tenant).tool(tool) is not None

    async def _discover(self, _request: ModernRequest, caller: Caller, _: Notices | None) -> bytes:
        return self.lists(caller).discover()

    async def _list(self, request: ModernRequest, caller: Caller, _: Notices | None) -> bytes:
        cursor = optional_text(request.params, "cursor")
        return self.lists(caller).listing(_LISTS[request.method]).page(cursor)

    async def _call_tool(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        asked = request.target or text_member(request.params, "name")
        view = self._view(caller)
        tool = view.callable_tool(asked)
        params = bytes(request.params)
        if asked != tool.name:
            params = splice(params, {"name": msgspec.json.encode(tool.name)})
        route = _Route(view.table.call_subject(tool), tool.server, tool.name)
        return await self._forward(
            request, params, caller, route, on_notice, default_s=tool.timeout_s
        )

    async def _read_resource(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        asked = request.target or text_member(request.params, "uri")
        resource = self._view(caller).resource(asked)
        params = bytes(request.params)
        if asked != resource.name:
            params = splice(params, {"uri": msgspec.json.encode(resource.name)})
        route = _rpc(caller, resource.server, request.method, resource.name)
        result = await self._forward(request, params, caller, route, on_notice)
        return result if resource.name == resource.listed else _relisted(result, resource)

    async def _get_prompt(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        asked = request.target or text_member(request.params, "name")
        prompt = self._view(caller).prompt(asked)
        params = bytes(request.params)
        if asked != prompt.name:
            params = splice(params, {"name": msgspec.json.encode(prompt.name)})
        route = _rpc(caller, prompt.server, request.method, prompt.name)
        return await self._forward(request, params, caller, route, on_notice)

    async def _complete(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        raw = pick(request.params, "ref").get("ref", msgspec.Raw(b"{}"))
        try:
            reference = _REFERENCE.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MeshError(ErrorKind.PARAMS, "params.ref is malformed") from None
        view = self._view(caller)
        params = bytes(request.params)
        if reference.type == "ref/prompt":
            prompt = view.prompt(reference.name)
            server = prompt.server
            own = splice(raw, {"name": msgspec.json.encode(prompt.name)})
            params = splice(params, {"ref": own})
        elif reference.type == "ref/resource":
            server = _owner_of_reference(view, reference.uri)
        else:
            raise MeshError(ErrorKind.PARAMS, "params.ref.type must be ref/prompt or ref/resource")
        route = _rpc(caller, server, request.method, "")
        return await self._forward(
            request, params, caller, route, on_notice, default_s=self._limits.list_timeout_s
        )

    def _view(self, caller: Caller) -> View:
        return self._catalogs.lists(caller.viewer).view

    async def _forward(
        self,
        request: ModernRequest,
        params: bytes,
        caller: Caller,
        route: _Route,
        on_notice: Notices | None,
        *,
        default_s: float = 0.0,
    ) -> bytes:
        """The one hop: publish, wait, sign the result."""
        meta, limits, clock = request.meta, self._limits, self._clock
        with start_span(
            f"{request.method} {route.server}",
            SpanKind.CLIENT,
            meta.traceparent or "",
            tracestate=meta.tracestate or "",
        ) as span:
            request_id = self._bus.new_request_id()
            body = await self._bus.call(
                route.subject,
                encode_request(request.method, request_id, params),
                envelope=RequestEnvelope(
                    method=request.method,
                    name=route.name,
                    request_id=request_id,
                    context=caller.context(clock.monotonic()),
                    traceparent=span.traceparent,
                    tracestate=span.tracestate,
                ),
                timeout_s=budget_s(
                    request.timeout_s,
                    default_s or limits.call_timeout_s,
                    limits.call_timeout_max_s,
                ),
                tenant=caller.tenant,
                on_frame=_filtered(on_notice, wants_log=bool(meta.log_level)),
            )
        return self._signature.sign(result_of(body, route.server), route.server)


_Method = Callable[[ModernRequest, Caller, Notices | None], Awaitable[bytes]]


def _rpc(caller: Caller, server: str, method: str, name: str) -> _Route:
    shown = name if len(name) <= NAME_HEADER_CHARS_MAX else ""
    return _Route(subjects.rpc(caller.tenant, server, method), server, shown)


def _filtered(on_notice: Notices | None, *, wants_log: bool) -> Notices | None:
    """Let through what belongs to the request: progress, and log messages if it opted in."""
    if on_notice is None or wants_log:
        return on_notice

    def deliver(notice: bytes) -> None:
        try:
            method = _NOTICE.decode(notice).method
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if method != "notifications/message":
            on_notice(notice)

    return deliver


def _owner_of_reference(view: View, uri: str) -> str:
    if view.table.template(uri) is not None:
        return view.template(uri).server
    return view.resource(uri).server


def _relisted(result: bytes, resource: Item) -> bytes:
    """Give ``contents[].uri`` back under the URI the client asked for."""
    raw = pick(result, "contents").get("contents")
    if raw is None:
        return result
    try:
        contents = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return result
    own, listed = msgspec.json.encode(resource.name), msgspec.json.encode(resource.listed)
    pieces: list[bytes] = []
    for content in contents:
        uri = pick(content, "uri").get("uri")
        same = uri is not None and bytes(uri) == own
        pieces.append(splice(content, {"uri": listed}) if same else bytes(content))
    return splice(result, {"contents": b"[" + b",".join(pieces) + b"]"})
