"""The operations of an agent on the bus: who asks, what for, run the handler, answer.

The usual tool call (no middleware, no input) costs one decode of its arguments into their types,
one call of the handler and one encode of what it returned.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from mcp_proto.asked import TOOLS_CALL, Asked, read_directed, read_request
from mcp_proto.codec import decode_as, encode, encode_response, pick
from mcp_proto.contracts import watching
from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.inputs import may_declare_input
from mcp_proto.limits import RESULT_BYTES_MAX
from mcp_proto.types.completion import VALUES_MAX, CompleteParams, PromptReference
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.metrics import Metrics
from mesh_sdk.agent import results
from mesh_sdk.agent.admission import Admission
from mesh_sdk.agent.context import Context
from mesh_sdk.agent.errors import ToolError
from mesh_sdk.agent.exchange import Exchange, Exchanges
from mesh_sdk.agent.handler import Handler
from mesh_sdk.agent.middleware import Middleware
from mesh_sdk.agent.offers import Completer, Prompt, Resource, Tool
from mesh_sdk.agent.signature import ArgumentError
from mesh_sdk.agent.threads import Threads

__all__ = ["EDGE", "Offered", "Serving"]

EDGE = "agent"
"""Label ``edge`` of the agent's calls in metrics."""
_KEY_MARK = IDEMPOTENCY_KEY.partition("/")[2].encode()
"""Without the slash, which some JSON writers escape."""
_log = logging.getLogger(__name__)


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an agent serves; maps are by name."""

    tools: Mapping[str, Tool]
    resources: Sequence[Resource]
    prompts: Mapping[str, Prompt]
    completers: Mapping[tuple[str, str], Completer]
    middlewares: Sequence[Middleware]


class _Job(msgspec.Struct, frozen=True):
    """One run of a handler, and what its value becomes."""

    handler: Handler
    values: Mapping[str, Any]
    made: Callable[[Any], bytes]
    failed: Callable[[ToolError], bytes]
    timeout_s: float = 0.0


class _Params(msgspec.Struct, frozen=True):
    arguments: dict[str, str] = {}


class Serving:
    """Serves one agent on one connection; also the ``Surroundings`` of its contexts.

    Args:
        name: server name.
        bus: connected.
        offered: what it serves.
        admission: who may call.
        exchanges: calls that ask.
        threads: where plain functions run.
        metrics: counts calls.
    """

    def __init__(
        self,
        name: str,
        bus: Bus,
        offered: Offered,
        *,
        admission: Admission,
        exchanges: Exchanges,
        threads: Threads,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.bus = bus
        self.loop = asyncio.get_running_loop()
        self._offered = offered
        self._admission = admission
        self._exchanges = exchanges
        self._threads = threads
        self._metrics = metrics
        self._rpc: dict[str, Callable[[Call, Asked, CallerContext | None], Awaitable[bytes]]] = {
            TOOLS_CALL: self._call_tool,
            "resources/read": self._read,
            "prompts/get": self._prompt,
            "completion/complete": self._complete,
            watching.SUBSCRIBE: self._watch,
            watching.UNSUBSCRIBE: self._watch,
        }
        self.running: dict[asyncio.Task[Any], Handler] = {}
        """Handlers that run on the loop, for the watchdog."""

    async def call(self, call: Call) -> bytes:
        """Any request on the agent's subjects.

        Raises:
            MeshError: for the caller.
        """
        asked = read_request(
            call.subject, call.envelope, call.headers.get(Header.PROTOCOL), call.payload
        )
        method = self._rpc.get(asked.method)
        if method is None:
            raise MeshError(ErrorKind.METHOD, f"agent {self.name} does not serve {asked.method}")
        began = self.loop.time()
        outcome = "cancelled"
        try:
            result = await method(call, asked, self._admission.admit(call))
            outcome = "ok"
        except MeshError as error:
            outcome = error.kind.value
            raise
        finally:
            self._metrics.call(EDGE, asked.method, outcome, self.loop.time() - began)
        if len(result) > RESULT_BYTES_MAX:
            raise MeshError(
                ErrorKind.TOO_LARGE,
                f"the result has {len(result)} bytes; at most {RESULT_BYTES_MAX} are delivered",
                outcome=Outcome.EXECUTED,
            )
        return encode_response(asked.id, result)

    async def answer(self, call: Call) -> bytes:
        """``inst.{instance}.answer``: the request as first sent, with answers and state.

        Raises:
            MeshError: ``lost`` when no such call waits here; as ``call``.
        """
        asked = read_directed(call.envelope, call.headers.get(Header.PROTOCOL), call.payload)
        caller = self._admission.admit(call)
        principal = caller.sub if caller is not None else ""
        result = await self._exchanges.answer(call, asked.method, asked.params, principal)
        return encode_response(asked.id, result)

    async def _call_tool(self, call: Call, asked: Asked, caller: CallerContext | None) -> bytes:
        tool = self._offered.tools.get(asked.name)
        if tool is None:
            raise MeshError(ErrorKind.NOT_FOUND, f"unknown tool: {asked.name}")
        missing = tool.permission
        if caller is not None and missing and missing not in caller.perms:
            raise MeshError(
                ErrorKind.DENIED, f"missing permission {missing}", data={"missing": missing}
            )
        if _KEY_MARK in call.payload:
            _refuse_key(asked)
        try:
            values = tool.read(asked.arguments)
        except ArgumentError as error:
            return results.failed(str(error))
        made = _structured if tool.output_schema is not None else _plain
        job = _Job(tool.handler, values, made, _tool_failed, tool.timeout_s)
        return await self._run(call, asked, caller, job)

    async def _read(self, call: Call, asked: Asked, caller: CallerContext | None) -> bytes:
        try:
            for one in self._offered.resources:
                values = one.match(asked.name)
                if values is not None:
                    break
            else:
                raise MeshError(
                    ErrorKind.NOT_FOUND, "unknown resource", data={"uri": asked.name[:2_048]}
                )
        except ArgumentError as error:
            raise MeshError(ErrorKind.PARAMS, str(error)) from None
        mime_type = one.mime_type

        def made(value: Any) -> bytes:
            return results.resource(asked.name, value, mime_type)

        return await self._run(call, asked, caller, _Job(one.handler, values, made, _failed))

    async def _prompt(self, call: Call, asked: Asked, caller: CallerContext | None) -> bytes:
        prompt = self._offered.prompts.get(asked.name)
        if prompt is None:
            raise MeshError(ErrorKind.PARAMS, f"unknown prompt: {asked.name}")
        given = decode_as(asked.params, _Params).arguments
        try:
            values = prompt.handler.signature.convert(given)
        except ArgumentError as error:
            raise MeshError(ErrorKind.PARAMS, str(error)) from None
        made = functools.partial(results.messages, description=prompt.description)
        return await self._run(call, asked, caller, _Job(prompt.handler, values, made, _failed))

    async def _complete(self, call: Call, asked: Asked, caller: CallerContext | None) -> bytes:
        params = decode_as(asked.params, CompleteParams)
        ref = params.ref
        of = ref.name if isinstance(ref, PromptReference) else ref.uri
        completer = self._offered.completers.get((of, params.argument.name))
        if completer is None:
            return _completion([])
        chosen = params.context.arguments if params.context is not None else None
        values = completer.values(params.argument.value, chosen or {})
        return await self._run(
            call, asked, caller, _Job(completer.handler, values, _completion, _failed)
        )

    async def _watch(self, _call: Call, asked: Asked, caller: CallerContext | None) -> bytes:
        """Whoever watches hears every ``updated``: there is nothing to keep per watcher."""
        wish = watching.read_asked(asked.params, caller.sub if caller is not None else "-")
        refused: dict[str, str] = {}
        for uri in wish.uris:
            try:
                known = any(one.match(uri) is not None for one in self._offered.resources)
            except ArgumentError:
                known = False
            if not known:
                refused[uri] = "unknown resource"
        return encode(watching.Verdict(refused=refused))

    async def _run(
        self, call: Call, asked: Asked, caller: CallerContext | None, job: _Job
    ) -> bytes:
        wants = bool(job.handler.signature.context)
        if not wants and not self._offered.middlewares:
            try:
                return _made(job, await self._value(job, None))
            except ToolError as error:
                return job.failed(error)
        exchange = None
        if wants and may_declare_input(asked.params):
            exchange = Exchange(
                call, asked.method, asked.params, caller.sub if caller is not None else ""
            )
        context = Context(
            self,
            call,
            method=asked.method,
            target=asked.name,
            params=asked.params,
            caller=caller,
            exchange=exchange,
        )
        work = self._behind(job, context)
        return await (work if exchange is None else self._exchanges.run(exchange, work))

    async def _behind(self, job: _Job, context: Context) -> bytes:
        """The handler behind every middleware; the first added is the outermost."""
        step: Callable[[], Awaitable[Any]] = functools.partial(self._value, job, context)
        for one in reversed(self._offered.middlewares):
            step = functools.partial(one, context, step)
        try:
            return _made(job, await step())
        except ToolError as error:
            return job.failed(error)
        except MeshError:
            raise
        except Exception as error:
            # The handler's own are dealt with: a middleware failed.
            _log.exception("a middleware of %s failed", job.handler.label)
            raise MeshError(ErrorKind.INTERNAL, f"{job.handler.label} failed") from error

    async def _value(self, job: _Job, context: Context | None) -> Any:
        handler = job.handler
        task = asyncio.current_task()
        if task is not None:
            self.running[task] = handler
        try:
            if not job.timeout_s:
                return await handler.run(self._threads, job.values, context)
            async with asyncio.timeout(job.timeout_s):
                return await handler.run(self._threads, job.values, context)
        except TimeoutError:
            raise MeshError(
                ErrorKind.DEADLINE, f"{handler.label} exceeded its {job.timeout_s:g} s"
            ) from None
        finally:
            if task is not None:
                self.running.pop(task, None)


def _refuse_key(asked: Asked) -> None:
    """Nothing here keeps the record that such a key needs: a repeat would run twice in silence."""
    meta = pick(asked.params, "_meta").get("_meta")
    if meta is not None and pick(meta, IDEMPOTENCY_KEY):
        raise MeshError(
            ErrorKind.PARAMS,
            "tools of agents keep no records of idempotency keys; call without one",
            data={"member": IDEMPOTENCY_KEY},
        )


def _made(job: _Job, value: Any) -> bytes:
    try:
        return job.made(value)
    except Exception as error:
        # A defect of the handler, told to its author only.
        _log.exception("%s returned what cannot be delivered", job.handler.label)
        raise MeshError(
            ErrorKind.INTERNAL, f"{job.handler.label} failed", outcome=Outcome.EXECUTED
        ) from error


def _tool_failed(error: ToolError) -> bytes:
    return results.failed(error.message)


def _failed(error: ToolError) -> bytes:
    """For methods whose results have no form for a tool error."""
    raise MeshError(ErrorKind.UPSTREAM, error.message, outcome=Outcome.EXECUTED) from None


def _structured(value: Any) -> bytes:
    return results.tool_result(value, structured=True)


def _plain(value: Any) -> bytes:
    return results.tool_result(value, structured=False)


def _completion(values: Any) -> bytes:
    listed = [str(one) for one in values or ()]
    found: dict[str, object] = {"values": listed[:VALUES_MAX], "total": len(listed)}
    if len(listed) > VALUES_MAX:
        found["hasMore"] = True
    return COMPLETE_HEAD + b'"completion":' + encode(found) + b"}"
