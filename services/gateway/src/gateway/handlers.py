"""The one dispatcher behind every edge: a modern request and its caller in, a result out.

Everything is decided from memory (who, may they, where, how much time is left); the only thing
awaited in the path of a call is the one hop to the server. Edges translate eras, keep
connections and render errors; nothing here knows which edge asked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from gateway.config import LimitsConfig
from gateway.core.access import View
from gateway.core.answers import Signature, result_of
from gateway.core.caching import read_hints
from gateway.core.merge import ListKind, Lists
from gateway.core.notices import scoped
from gateway.core.paramheaders import ParamHeader
from gateway.core.relinking import relinked
from gateway.core.requests import ModernRequest, budget_s, optional_text, text_member
from gateway.core.results import bounded_completion, relisted
from gateway.core.routing import Route
from gateway.core.sealed_state import carries_input, may_ask
from gateway.core.search_tools import NAMES as SEARCH_TOOLS
from gateway.core.skills import SKILL_METHODS, skill_file
from gateway.core.tasks import declares, may_be_task
from gateway.core.toolargs import completed
from gateway.identity import Caller
from gateway.sealing import InputStates, Repeat, lost
from gateway.search import ToolSearch
from gateway.skills import Skills
from gateway.store import Catalogs
from gateway.tasks import LIST_METHOD, GatewayTasks
from gateway.verifier import Verifier
from mcp_proto import subjects
from mcp_proto.codec import encode_request, request_parts
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import INLINE_MAX_BYTES
from mcp_proto.members import pick, splice
from mesh_chassis.bus.connection import Parts
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
        payload: bytes | Parts,
        *,
        envelope: RequestEnvelope,
        timeout_s: float,
        tenant: str,
        on_frame: Notices | None = None,
    ) -> bytes:
        """One call, repeats of what did not run included; the response body."""
        ...


class _Reference(msgspec.Struct):
    type: str = ""
    name: str = ""
    uri: str = ""


_REFERENCE = msgspec.json.Decoder(_Reference)


class Dispatcher:
    """Handles every modern request except ``subscriptions/listen``, which streams."""

    def __init__(
        self,
        *,
        bus: CallBus,
        catalogs: Catalogs,
        states: InputStates,
        tasks: GatewayTasks,
        limits: LimitsConfig,
        metrics: Metrics,
        clock: Clock = SYSTEM,
        verifier: Verifier | None = None,
    ) -> None:
        self._verifier = verifier
        self._bus = bus
        self._states = states
        self._tasks = tasks
        self._catalogs = catalogs
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._signature = Signature(msgspec.json.encode(catalogs.facts.info()))
        self._search = ToolSearch(self._call_tool, self._signature)
        self._skills = Skills(self._ask_server, self._signature)
        tasks.use(self._ask_server, self._signature, self._renamed)
        self._methods: dict[str, _Method] = {
            "server/discover": self._discover,
            "tools/call": self._call_tool,
            "resources/read": self._read_resource,
            "prompts/get": self._get_prompt,
            "completion/complete": self._complete,
            "tasks/get": tasks.get,
            "tasks/update": tasks.update,
            "tasks/cancel": tasks.cancel,
            LIST_METHOD: tasks.list,
            **dict.fromkeys(SKILL_METHODS, self._serve_skills),
            **dict.fromkeys(_LISTS, self._list),
        }

    def change_limits(self, limits: LimitsConfig) -> None:
        """Give calls other budgets from now on."""
        self._limits = limits

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

    def lists(self, caller: Caller, endpoint: str = "") -> Lists:
        """What a caller sees at an endpoint."""
        return self._catalogs.lists(caller.viewer, endpoint)

    def param_headers(
        self, caller: Caller, tool: str, endpoint: str = ""
    ) -> tuple[ParamHeader, ...]:
        """Arguments of a tool that its schema mirrors into HTTP headers; () for unknown tools."""
        found = self._catalogs.lists(caller.viewer, endpoint).view.table.tool(tool)
        return found.headers if found is not None else ()

    def has_tool(self, caller: Caller, tool: str) -> bool:
        """Whether the caller's tenant has a tool of this name, allowed or not."""
        if tool in SEARCH_TOOLS and self.lists(caller).searchable:
            return True
        return self._catalogs.table(caller.tenant).tool(tool) is not None

    async def _discover(self, request: ModernRequest, caller: Caller, _: Notices | None) -> bytes:
        return self.lists(caller, request.endpoint).discover()

    async def _list(self, request: ModernRequest, caller: Caller, _: Notices | None) -> bytes:
        cursor = optional_text(request.params, "cursor")
        return self.lists(caller, request.endpoint).listing(_LISTS[request.method]).page(cursor)

    async def _call_tool(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        asked = request.target or text_member(request.params, "name")
        lists = self._catalogs.lists(caller.viewer, request.endpoint)
        view = lists.view
        if lists.searchable and (own := asked.removeprefix("mesh:")) in SEARCH_TOOLS:
            return await self._search.serve(own, request, caller, view, on_notice)
        tool = view.callable_tool(asked)
        params: bytes | msgspec.Raw = request.params  # not copied: it may be large
        if asked != tool.name:
            params = splice(params, {"name": msgspec.json.encode(tool.name)})
        if tool.arguments is not None:
            params = completed(bytes(params), tool.arguments)
        takes_tasks = declares(request.meta.client_capabilities)
        if self._verifier is not None:  # here, because a task begins without ``_forward``
            await self._verifier.check(caller, request.method, tool.server, tool.name, params)
        if takes_tasks or tool.task == "required":
            made = await self._tasks.instead(request, bytes(params), caller, tool)
            if made is not None:
                return made
        route = view.table.call_route(tool)
        result = await self._forward(
            request, params, caller, route, on_notice, default_s=tool.timeout_s, verified=True
        )
        if takes_tasks and may_be_task(result):
            result = self._tasks.relayed(result, caller, tool.server)
        names = view.table.relisted.get(tool.server)
        return relinked(result, names) if names else result

    def _renamed(
        self, request: ModernRequest, caller: Caller, server: str
    ) -> Mapping[str, str] | None:
        return self._view(caller, request).table.relisted.get(server)

    async def _ask_server(
        self, request: ModernRequest, params: bytes, caller: Caller, server: str, name: str
    ) -> bytes:
        """One request about something that a server keeps."""
        route = _rpc(caller, server, request.method, name)
        return await self._forward(
            request, params, caller, route, None, default_s=self._limits.list_timeout_s
        )

    async def _read_resource(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        asked = request.target or text_member(request.params, "uri")
        view = self._view(caller, request)
        skilled = skill_file(view, request.endpoint, asked) if view.table.skilled else None
        resource = skilled or view.resource(asked)
        params = bytes(request.params)
        if asked != resource.name:
            params = splice(params, {"uri": msgspec.json.encode(resource.name)})
        route = _rpc(caller, resource.server, request.method, resource.name)
        result = await self._forward(request, params, caller, route, on_notice)
        result = read_hints(result, repeated=carries_input(params))
        return result if resource.name == resource.listed else relisted(result, resource)

    async def _serve_skills(
        self, request: ModernRequest, caller: Caller, _: Notices | None
    ) -> bytes:
        return await self._skills.serve(request, caller, self._view(caller, request))

    async def _get_prompt(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        asked = request.target or text_member(request.params, "name")
        view = self._view(caller, request)
        prompt = view.prompt(asked)
        params = bytes(request.params)
        if asked != prompt.name:
            params = splice(params, {"name": msgspec.json.encode(prompt.name)})
        route = _rpc(caller, prompt.server, request.method, prompt.name)
        result = await self._forward(request, params, caller, route, on_notice)
        names = view.table.relisted.get(prompt.server)
        return relinked(result, names) if names else result

    async def _complete(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        raw = pick(request.params, "ref").get("ref", msgspec.Raw(b"{}"))
        try:
            reference = _REFERENCE.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MeshError(ErrorKind.PARAMS, "params.ref is malformed") from None
        view = self._view(caller, request)
        params = bytes(request.params)
        if reference.type == "ref/prompt":
            prompt = view.prompt(reference.name)
            server, about = prompt.server, prompt.name
            own = splice(raw, {"name": msgspec.json.encode(prompt.name)})
            params = splice(params, {"ref": own})
        elif reference.type == "ref/resource":
            server, about = _owner_of_reference(view, reference.uri)
            if about != reference.uri:
                own = splice(raw, {"uri": msgspec.json.encode(about)})
                params = splice(params, {"ref": own})
        else:
            raise MeshError(ErrorKind.PARAMS, "params.ref.type must be ref/prompt or ref/resource")
        route = Route(subjects.rpc(caller.tenant, server, request.method), server, "", about)
        result = await self._forward(
            request, params, caller, route, on_notice, default_s=self._limits.list_timeout_s
        )
        return bounded_completion(result)

    def _view(self, caller: Caller, request: ModernRequest) -> View:
        return self._catalogs.lists(caller.viewer, request.endpoint).view

    async def _verify(
        self,
        verifier: Verifier,
        request: ModernRequest,
        params: bytes | msgspec.Raw,
        caller: Caller,
        route: Route,
    ) -> None:
        # A route without a name of its own (of a skill) is about the URI asked for.
        about = route.about or optional_text(params, "uri") or ""
        await verifier.check(caller, request.method, route.server, about, params)

    async def _forward(
        self,
        request: ModernRequest,
        params: bytes | msgspec.Raw,
        caller: Caller,
        route: Route,
        on_notice: Notices | None,
        *,
        default_s: float = 0.0,
        verified: bool = False,
    ) -> bytes:
        """The one hop: verify, publish, wait, sign the result."""
        if self._verifier is not None and not verified:
            await self._verify(self._verifier, request, params, caller, route)
        meta, limits, clock = request.meta, self._limits, self._clock
        repeat: Repeat | None = None
        if carries_input(params):
            repeat = await self._states.opened(request, bytes(params), caller, route)
            if repeat.over:
                return _NOTHING
            route = Route(repeat.subject, route.server, route.name, route.about)
        with start_span(
            f"{request.method} {route.server}",
            SpanKind.CLIENT,
            meta.traceparent or "",
            tracestate=meta.tracestate or "",
        ) as span:
            request_id = self._bus.new_request_id()
            try:
                body = await self._bus.call(
                    route.subject,
                    _payload(request.method, request_id, repeat.params if repeat else params),
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
                    on_frame=scoped(on_notice, meta.log_level or "", route.server),
                )
            except MeshError as error:
                if repeat is None or not repeat.parked:
                    raise
                raise lost(error, route.server) from error
        result: bytes | msgspec.Raw = result_of(body, route.server)
        if len(body) > INLINE_MAX_BYTES:
            await asyncio.sleep(0)  # small calls go between two passes over a large result
        else:
            result = bytes(result)
        if may_ask(result):
            result = await self._states.sealed(result, request, bytes(params), caller, route)
        return self._signature.sign(result, route.server)


def _payload(method: str, request_id: str, params: bytes | msgspec.Raw) -> bytes | Parts:
    if memoryview(params).nbytes > INLINE_MAX_BYTES:
        return Parts(request_parts(method, request_id, params))
    return encode_request(method, request_id, params)


_NOTHING = b'{"resultType":"complete"}'

_Method = Callable[[ModernRequest, Caller, Notices | None], Awaitable[bytes]]


def _rpc(caller: Caller, server: str, method: str, name: str) -> Route:
    shown = name if len(name) <= NAME_HEADER_CHARS_MAX else ""
    return Route(subjects.rpc(caller.tenant, server, method), server, shown, name)


def _owner_of_reference(view: View, uri: str) -> tuple[str, str]:
    """The server that completes arguments of a template or resource, and its own name for it."""
    if view.table.template(uri) is not None:
        template = view.template(uri)
        return template.server, template.own
    resource = view.resource(uri)
    return resource.server, resource.name
