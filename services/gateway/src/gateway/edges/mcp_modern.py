"""`POST /mcp` of revision 2026-07-28: stateless, every request carries its context.

The checks stand in the order of the specification's ladder, and each has its status: clients and
the conformance suite tell the rungs apart.
"""

import asyncio

import msgspec

from gateway.backend import HttpBackend
from gateway.core import eras, httprules, paramheaders
from gateway.core.merge import ListKind
from gateway.core.requests import ModernRequest, text_of
from gateway.edges.exchange import Exchange
from gateway.edges.http_server import LARGE_BYTES
from gateway.edges.sse import LateReply, LateStarts
from gateway.edges.streams import ListStream
from gateway.edges.task_watch import TaskWatch
from gateway.identity import Caller
from mcp_proto import codec
from mcp_proto.convert.errors import Peer, http_status
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.header_values import decode_value
from mcp_proto.jsonrpc import Notification, Request, RequestId
from mcp_proto.members import pick
from mcp_proto.methods import is_known, routing_member
from mcp_proto.request_meta import Head, head_of, meta_of
from mcp_proto.types.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION, Meta
from mcp_proto.versions import MODERN
from mesh_chassis.clock import monotonic

__all__ = ["ModernHttp"]


class ModernHttp:
    """Serves modern requests."""

    def __init__(self, backend: HttpBackend) -> None:
        self._backend = backend
        self._starts = LateStarts()
        self._listens: dict[ListStream, RequestId] = {}

    async def post(self, exchange: Exchange, caller: Caller, body: bytes, version: str) -> None:
        """Answer one POST.

        Args:
            exchange: the request.
            caller: checked.
            body: whole.
            version: the header ``MCP-Protocol-Version``.
        """
        try:
            message = codec.decode_message(body)
            if isinstance(message, Notification):
                if version != MODERN:
                    raise _not_served(version)
                await exchange.answer(202)
                return
            if not isinstance(message, Request):
                raise MeshError(ErrorKind.REQUEST, "nothing was asked of this client")
        except MeshError as error:
            status = error.http_status if error.kind is ErrorKind.TOO_LARGE else 400
            await exchange.answer(status, codec.encode_error(error.request_id, error))
            return
        if len(body) > LARGE_BYTES:
            await asyncio.sleep(0)  # small calls go between two passes over a large body
        try:
            caller, modern = await self._climb(exchange, caller, message, version)
            exchange.connection.gate.pace(monotonic())
            if message.method == "subscriptions/listen":
                await self._listen(exchange, caller, message)
                return
            exchange.connection.gate.enter()
        except MeshError as error:
            await exchange.answer(
                http_status(error, Peer.MODERN), codec.encode_error(message.id, error)
            )
            return
        try:
            await self._run(exchange, caller, message.id, modern)
        finally:
            exchange.connection.gate.leave()

    async def _climb(
        self, exchange: Exchange, caller: Caller, request: Request, version: str
    ) -> tuple[Caller, ModernRequest]:
        """Rungs 8 to 12 of the ladder."""
        head = head_of(request.params)
        meta = head.meta or _NO_META
        _check_complete(meta)
        target = _check_headers(exchange.heads, request, head, version)
        if meta.protocol_version != MODERN:
            raise _not_served(meta.protocol_version or "")
        if isinstance(request.tenant_id, str):
            credential = httprules.bearer(exchange.heads.get(b"authorization"))
            caller = await self._backend.caller(credential, request.tenant_id)
        if isinstance(request.tenant_id, str) or isinstance(request.user_id, str):
            eras.check_claims(request, tenant=caller.tenant, principal=caller.principal)
        if request.method == "tools/call":
            rules = self._backend.param_headers(caller, target, exchange.endpoint)
            if rules:
                arguments = pick(request.params, "arguments").get("arguments", b"")
                paramheaders.check(rules, arguments, httprules.param_values(exchange.heads))
        if not is_known(request.method, MODERN):
            raise MeshError(ErrorKind.METHOD, "method not found")
        asked = exchange.heads.get(b"mesh-timeout-ms", b"")
        timeout_s = int(asked[:9]) / 1000 if asked.isdigit() else 0.0
        return caller, ModernRequest(
            request.method, request.params, meta, "http", timeout_s, target, exchange.endpoint
        )

    async def _run(
        self, exchange: Exchange, caller: Caller, request_id: RequestId, modern: ModernRequest
    ) -> None:
        reply = LateReply(
            self._starts,
            exchange.send,
            streams=True,
            headers=exchange.cors,
            whole=exchange.whole,
        )
        task = asyncio.current_task(exchange.connection.loop)
        assert task is not None
        # A closed response is the cancel of this era.
        exchange.connection.on_lost = task.cancel
        try:
            result = await self._backend.dispatch(modern, caller, eras.modern_notices(reply.notice))
            if len(result) > LARGE_BYTES:
                await asyncio.sleep(0)
            status, answer = 200, codec.encode_response(request_id, result)
        except MeshError as error:
            status = http_status(error, Peer.MODERN)
            answer = codec.encode_error(request_id, error)
        except asyncio.CancelledError:
            await reply.abandon()
            raise
        finally:
            exchange.connection.on_lost = None
        await reply.finish(status, answer)

    async def _listen(self, exchange: Exchange, caller: Caller, request: Request) -> None:
        wanted = eras.listen_filter(request.params)

        def changed(kinds: frozenset[ListKind]) -> None:
            for notice in eras.notices(kinds, wanted, request.id):
                stream.events.push(notice)

        def told(uri: str) -> None:
            # Nothing goes before the acknowledgement; what changes before it is read after it.
            if acknowledged:
                stream.events.push(eras.updated(uri, request.id))

        acknowledged = False
        stream = ListStream(self._backend, exchange, caller, changed, told)
        stream.on_refused = lambda: stream.events.push(_ended(request.id), must=True)
        tasks = self._task_watch(exchange, caller, request, stream)
        self._listens[stream] = request.id
        try:
            if wanted.task_ids:
                wanted = msgspec.structs.replace(wanted, task_ids=await tasks.aim(wanted.task_ids))
            if wanted.resource_subscriptions:
                wanted = await self._watched(exchange, stream, wanted)
            stream.events.push(eras.acknowledged(wanted, request.id), must=True)
            acknowledged = True
            tasks.start()
            await stream.run()
        finally:
            del self._listens[stream]
            stream.watch.close()
            tasks.close()

    def _task_watch(
        self, exchange: Exchange, caller: Caller, request: Request, stream: ListStream
    ) -> TaskWatch:
        """The tasks that a listen asks for, told on its stream."""
        asks = ModernRequest(
            "tasks/get", request.params, meta_of(request.params), "http", endpoint=exchange.endpoint
        )

        def told(task: bytes, _seen: object) -> None:
            stream.events.push(eras.task_notice(task, request.id))

        return TaskWatch(self._backend.dispatch, asks, caller, told)

    async def _watched(
        self, exchange: Exchange, stream: ListStream, wanted: eras.Filter
    ) -> eras.Filter:
        """What of a filter is honoured, once the servers have said what they watch."""
        task = asyncio.current_task(exchange.connection.loop)
        assert task is not None
        exchange.connection.on_lost = task.cancel
        try:
            stream.watch.aim(wanted.resource_subscriptions)
            honoured = eras.honoured(wanted, await stream.watch.settle())
            stream.watch.aim(honoured.resource_subscriptions)
        finally:
            exchange.connection.on_lost = None
        return honoured

    def end_streams(self) -> None:
        """End every listen with its result."""
        for stream, request_id in self._listens.items():
            stream.events.push(_ended(request_id), must=True)
            stream.events.end()


_NO_META = Meta()


def _ended(request_id: RequestId) -> bytes:
    """The last frame of a listen that the gateway ends."""
    return codec.encode_response(request_id, eras.listen_result(request_id))


def _check_complete(meta: Meta) -> None:
    if meta.protocol_version is None:
        raise MeshError(ErrorKind.PARAMS, f"_meta must carry {PROTOCOL_VERSION}")
    if bytes(memoryview(meta.client_capabilities)[:1]) != b"{":
        raise MeshError(ErrorKind.PARAMS, f"_meta must carry the object {CLIENT_CAPABILITIES}")
    if bytes(memoryview(meta.client_info)[:1]) not in {b"{", b""}:
        raise MeshError(ErrorKind.PARAMS, "clientInfo in _meta must be an object")


def _check_headers(heads: dict[bytes, bytes], request: Request, head: Head, version: str) -> str:
    """Headers against body; returns ``params.name`` or ``params.uri`` of methods that have one."""
    if head.meta is None or version != head.meta.protocol_version:
        raise _mismatch("MCP-Protocol-Version", "the protocol version in _meta")
    method = heads.get(b"mcp-method")
    if method is None or method.decode("latin-1") != request.method:
        raise _mismatch("Mcp-Method", "the method")
    member = routing_member(request.method)
    if member is None:
        return ""
    name = heads.get(b"mcp-name")
    if name is None and member == "taskId":
        # fastmcp-tasks 4.1 leaves it out and the official SDK has no place for it; one that is
        # there must agree.
        return text_of(head.member(member), member)
    if name is None:
        raise _mismatch("Mcp-Name", f"params.{member}")
    target = text_of(head.member(member), member)
    try:
        agrees = decode_value(name.decode("latin-1")) == target
    except ValueError:
        agrees = False
    if not agrees:
        raise _mismatch("Mcp-Name", f"params.{member}")
    return target


def _mismatch(header: str, what: str) -> MeshError:
    return MeshError(ErrorKind.HEADER_MISMATCH, f"header {header} does not match {what}")


def _not_served(version: str) -> MeshError:
    return MeshError(
        ErrorKind.VERSION,
        "unsupported protocol version",
        data={"supported": [MODERN.value], "requested": version[:64]},
    )
