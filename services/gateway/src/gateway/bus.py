"""The gateway for NATS-native clients and the stdio edge: ``mesh.v1.{tenant}.gw.{method}``.

A modern request comes in as any call on the bus does, so a bare NATS client needs no library of
ours: one plain reply, or frames when it asks for them. The credential travels in a header; in
development its absence means the demo principal, as at every edge.
"""

import asyncio
import contextlib

import msgspec

from gateway.backend import BusBackend
from gateway.core import eras
from gateway.core.merge import ListKind
from gateway.core.requests import ModernRequest
from gateway.edges.task_watch import TaskWatch
from gateway.identity import Caller
from gateway.tasks import LIST_METHOD
from mcp_proto import codec, subjects
from mcp_proto.endpoints import AGGREGATE, checked_endpoint
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Request
from mcp_proto.methods import is_known
from mcp_proto.request_meta import check_envelope, meta_of
from mcp_proto.subjects import QUEUE
from mcp_proto.versions import MODERN
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint

__all__ = ["BusEdge"]

LISTEN_QUEUE_MAX = 512
"""Notices that wait for the bus; an update of every resource one listener may watch fits."""


class BusEdge:
    """Serves ``gw`` subjects of every tenant."""

    def __init__(self, bus: Bus, backend: BusBackend, *, slots: int) -> None:
        self._backend = backend
        self._listening: set[asyncio.Queue[bytes | None]] = set()
        self.endpoint = Endpoint(
            bus,
            subject=subjects.gateway(subjects.ANY, subjects.REST),
            queue=QUEUE,
            handler=self._serve,
            slots=slots,
            name="gw",
        )

    async def _serve(self, call: Call) -> bytes:
        message = codec.decode_message(call.payload)
        if not isinstance(message, Request):
            raise MeshError(ErrorKind.REQUEST, "expected a request")
        if call.subject.method != message.method:
            raise MeshError(ErrorKind.HEADER_MISMATCH, "the subject does not match the method")
        if call.envelope.method not in {"", message.method}:
            raise MeshError(ErrorKind.HEADER_MISMATCH, "header Mcp-Method does not match")
        meta = check_envelope(message.params)
        tenant = call.subject.tenant
        caller = await self._caller(call, tenant)
        if caller.tenant != tenant:
            raise MeshError(
                ErrorKind.DENIED,
                "the credential is not for the tenant of the subject",
                data={"missing": "membership of the tenant"},
            )
        eras.check_claims(message, tenant=caller.tenant, principal=caller.principal)
        if not is_known(message.method, MODERN) and message.method != LIST_METHOD:
            raise MeshError(ErrorKind.METHOD, "method not found")
        endpoint = checked_endpoint(call.headers.get(Header.ENDPOINT, AGGREGATE))
        if message.method == "subscriptions/listen":
            return await self._listen(call, message, caller, endpoint)
        request = ModernRequest(
            # Never 0, which would stand for the default budget.
            message.method,
            message.params,
            meta,
            "bus",
            max(0.001, call.remaining_s),
            endpoint=endpoint,
        )
        notices = _Notices(call)
        try:
            result = await self._backend.dispatch(request, caller, notices.put)
        finally:
            await notices.done()
        return codec.encode_response(message.id, result)

    async def _caller(self, call: Call, tenant: str) -> Caller:
        """By credential; or by the context of the call that an agent serves and passes on."""
        if call.envelope.context:
            return await self._backend.delegated(call.envelope.context, tenant)
        credential = call.headers.get(Header.CREDENTIAL, "")
        known = self._backend.known(credential, tenant)
        return known or await self._backend.caller(credential, tenant)

    async def _listen(self, call: Call, request: Request, caller: Caller, endpoint: str) -> bytes:
        """Notices as frames until the caller cancels or its time is over; then the result."""
        wanted = eras.listen_filter(request.params)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(LISTEN_QUEUE_MAX)

        def put(notice: bytes) -> None:
            if not queue.full():
                queue.put_nowait(notice)

        def changed(kinds: frozenset[ListKind]) -> None:
            for notice in eras.notices(kinds, wanted, request.id):
                put(notice)

        def cut() -> None:
            # The client asks again, and the credential is checked again.
            _end(queue)

        watch = self._backend.watch(
            caller, lambda uri: put(eras.updated(uri, request.id)), endpoint
        )
        tasks = TaskWatch(
            self._backend.dispatch,
            ModernRequest(
                "tasks/get", request.params, meta_of(request.params), "bus", endpoint=endpoint
            ),
            caller,
            lambda task, _: put(eras.task_notice(task, request.id)),
        )
        stop = self._backend.listen(caller, changed, endpoint)
        caller.ended[cut] = None
        self._listening.add(queue)
        try:
            if wanted.resource_subscriptions:
                watch.aim(wanted.resource_subscriptions)
                wanted = eras.honoured(wanted, await watch.settle())
                watch.aim(wanted.resource_subscriptions)
            wanted = msgspec.structs.replace(wanted, task_ids=await tasks.aim(wanted.task_ids))
            await call.emit(eras.acknowledged(wanted, request.id))
            tasks.start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, call.remaining_s - 1.0)):
                    while (notice := await queue.get()) is not None:
                        await call.emit(notice)
            return codec.encode_response(request.id, eras.listen_result(request.id))
        finally:
            tasks.close()
            self._listening.discard(queue)
            caller.ended.pop(cut, None)
            stop()
            watch.close()

    async def end_streams(self) -> None:
        """The gateway stops: end every listen with its result."""
        for queue in self._listening:
            _end(queue)


def _end(queue: asyncio.Queue[bytes | None]) -> None:
    """The end must be heard: where there is no room, the oldest notice goes."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(None)


class _Notices:
    """Notifications of a running request, in order, as frames."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._queue: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, notice: bytes) -> None:
        """Queue one; a caller that asked for one plain reply gets none."""
        if not self._call.frames or len(self._queue) >= LISTEN_QUEUE_MAX:
            return
        self._queue.append(notice)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._emit())

    async def _emit(self) -> None:
        while self._queue:
            # One that is too large for a frame is dropped; the call goes on.
            with contextlib.suppress(MeshError):
                await self._call.emit(self._queue.pop(0))
        self._task = None

    async def done(self) -> None:
        """Wait until all are sent: no frame may follow the answer."""
        if self._task is not None:
            await self._task
