"""Endpoints: a subject served with bounded slots, frames, cancel, deadlines and drain.

The subscription callback only admits or refuses. A full endpoint answers busy at once, because
a queue inside the runner would hide overload until every caller's time is over.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts import Operation
from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.limits import (
    CALL_TIMEOUT_MAX_S,
    CALL_TIMEOUT_S,
    CLOCK_LEEWAY_S,
    KEEPALIVE_FRAME_S,
)
from mcp_proto.subjects import Subject
from mesh_chassis.bus.call import Call, Intake
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.frames import BOOT, decode_headers, frame_headers, repliable
from mesh_chassis.bus.instance import InstanceEndpoint
from mesh_chassis.bus.offers import LargeBody
from mesh_chassis.bus.wire import DirectRoute
from mesh_chassis.tracing import SpanKind, start_span

__all__ = [
    "Call",
    "Endpoint",
    "EndpointStats",
    "Handler",
    "Intake",
    "LargeBody",
    "Take",
    "serve_operation",
]

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)
Handler = Callable[[Call], Awaitable[bytes | LargeBody]]
Take = Callable[[Call], Intake | None]

SLOTS = 64
BUSY_RETRY_S = 0.05
DRAIN_S = 25.0
"""Longest wait for running calls at shutdown; the whole drain stays below a 30 s kill grace."""
STOPPED_S = 2.0
"""What a cancelled handler may still take before drain leaves it behind."""
SWEEP_S = 0.05
CONFIRM_S = 5.0
PARSED_MAX = 4096
FOLLOWERS_MAX = 16
"""Duplicates that may wait for the answer of one run; a caller repeats a handful of times."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_log = logging.getLogger(__name__)


class EndpointStats:
    """Counters of one endpoint since its start (ADR-32 statistics)."""

    __slots__ = ("busy", "duplicates", "errors", "last_error", "processing_ns", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.busy = 0
        self.duplicates = 0
        self.last_error = ""
        self.processing_ns = 0


class Endpoint:
    """Serves one subject, wildcards allowed.

    Args:
        bus: connection.
        subject: subject to serve.
        queue: queue group, "" = none (directed subjects).
        handler: makes the response body; ``MeshError`` becomes an error answer, anything else an
            opaque internal one. It is cancelled when the caller cancels or the deadline passes.
        slots: calls run at once.
        name: name in service discovery.
        intake: looks at a call whose body is large before that is pulled; None = not wanted.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        subject: str,
        handler: Handler,
        queue: str = "",
        slots: int = SLOTS,
        name: str = "",
        intake: Take | None = None,
    ) -> None:
        self.bus = bus
        self.subject = subject
        self.queue = queue
        self.name = name or _NOT_IN_NAMES.sub("-", subject)
        self.slots = slots
        self.stats = EndpointStats()
        self._handler = handler
        self._intake = intake
        self._route: DirectRoute | None = None
        self._running: set[Call] = set()
        self._by_key: dict[tuple[str, str], Call] = {}
        self._starting: list[Call] = []
        self._parsed: dict[bytes, Subject] = {}
        self._draining = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._instance = InstanceEndpoint.of(bus)
        self._ack = frame_headers("ack", 0, {Header.INSTANCE: bus.instance, BOOT: bus.boot})

    @property
    def inflight(self) -> int:
        """Calls running now."""
        return len(self._running)

    async def start(self) -> None:
        """Subscribe and wait until the broker confirmed it.

        Raises:
            MeshError: ``denied``, ``lost``, ``bus``.
        """
        await self._instance.start()
        client = self.bus.client
        self._route = await client.add_route(self.subject, self.queue, self._on_message)
        await self.bus.confirm(self.subject, self._forget)

    async def drain(self, timeout_s: float = DRAIN_S) -> None:
        """Stop taking calls, finish the running ones, answer the rest, flush.

        Args:
            timeout_s: longest wait for running calls.
        """
        route = self._route
        if route is not None:
            try:
                await self.bus.client.unsubscribe_route(route)
                await self.bus.link.round_trip(CONFIRM_S)
            except MeshError:
                pass  # no connection: the broker has forgotten us anyway
            await self._forget()
        self._draining = True
        await self._settle(timeout_s)
        if self._running:
            _log.warning("%s: %d calls outlast the drain", self.name, len(self._running))
            for call in list(self._running):
                call.answer_error(
                    MeshError(ErrorKind.LOST, "the runner is draining", data={"reason": "draining"})
                )
                self._stop(call, "drain")
            await self._settle(STOPPED_S)
        try:
            await self.bus.link.round_trip(CONFIRM_S)
        except MeshError:
            _log.info("%s: drained without a connection", self.name)

    async def _settle(self, timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._running:
            # Calls admitted in this very iteration get their task behind the next write.
            tasks = {call.task for call in self._running if call.task is not None}
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            if tasks:
                await asyncio.wait(tasks, timeout=left)
            await asyncio.sleep(0)

    async def _forget(self) -> None:
        if self._route is not None:
            self.bus.client.forget_route(self._route)
            self._route = None

    # Admission: synchronous, from within the parser

    def _on_message(self, subject: bytes, reply: bytes, payload: bytes, block: bytes) -> None:
        if not repliable(reply):
            _log.warning("%s: dropped a request with reply subject %r", self.name, reply)
            return
        stats = self.stats
        stats.requests += 1
        now = self.bus.link.mux.loop.time()
        headers = decode_headers(block) if block else {}
        stream = headers.get("Mesh-Stream", "")
        envelope = RequestEnvelope(stream=stream)
        parsed: Subject | None = None
        problem: MeshError | None = None
        try:
            parsed = self._parsed.get(subject) or self._parse(subject)
            envelope = RequestEnvelope.from_headers(headers)
        except MeshError as error:
            problem = error
        call = Call(
            self.bus,
            subject=parsed or _NOWHERE,
            envelope=envelope,
            payload=payload,
            headers=headers,
            reply=reply.decode(),
            now=now,
            budget_s=_budget_s(envelope),
        )
        if problem is None:
            problem = self._refusal(call)
        if problem is not None:
            self._refuse(call, problem)
            return
        if envelope.request_id and self._known(call, subject.decode(), now):
            return
        self._admit(call)

    def _parse(self, subject: bytes) -> Subject:
        try:
            parsed = subjects.parse(subject.decode())
        except ValueError as error:
            raise MeshError(ErrorKind.REQUEST, "not a subject of the mesh") from error
        if len(self._parsed) >= PARSED_MAX:
            self._parsed.clear()
        self._parsed[subject] = parsed
        return parsed

    def _refusal(self, call: Call) -> MeshError | None:
        envelope = call.envelope
        if self._draining:
            return MeshError(
                ErrorKind.OVERLOADED, "the runner is draining", retry_after_s=BUSY_RETRY_S
            )
        now = self.bus.server_now_ms()
        stale = envelope.deadline_ms and now > envelope.deadline_ms + CLOCK_LEEWAY_S * 1000
        if stale or (envelope.start_by_ms and now > envelope.start_by_ms):
            return MeshError(
                ErrorKind.DEADLINE,
                "the call arrived too late to begin",
                outcome=Outcome.NOT_EXECUTED,
            )
        return None

    def _known(self, call: Call, subject: str, now: float) -> bool:
        """Answer a duplicate from memory, or attach it to the run under way."""
        key = (subject, call.envelope.request_id)
        call.key = key
        call.fingerprint = _fingerprint(call)
        running = self._by_key.get(key)
        try:
            if running is not None:
                if running.fingerprint != call.fingerprint:
                    raise MeshError(ErrorKind.REQUEST, "Mesh-Req was used for another request")
                if len(running.followers) >= FOLLOWERS_MAX:
                    raise MeshError(
                        ErrorKind.OVERLOADED, "too many repeats of one call", retry_after_s=1.0
                    )
                call.acknowledge(self._ack)
                running.followers.append(call)
                self.stats.duplicates += 1
                return True
            found = self._instance.finished.find(key, call.fingerprint, now)
        except MeshError as error:
            self._refuse(call, error)
            return True
        if found is None:
            return False
        self.stats.duplicates += 1
        call.acknowledge(self._ack)
        if found.error is not None:
            call.answer_error(found.error)
        else:
            call.answer(found.body or b"")
        return True

    def _refuse(self, call: Call, error: MeshError) -> None:
        self.stats.errors += 1
        self.stats.last_error = error.message
        call.answer_error(error)

    def _admit(self, call: Call) -> None:
        if len(self._running) >= self.slots:
            self.stats.busy += 1
            call.answer_error(
                MeshError(ErrorKind.OVERLOADED, "all slots are taken", retry_after_s=BUSY_RETRY_S)
            )
            return
        self._running.add(call)
        if call.key is not None:
            self._by_key[call.key] = call
            self._instance.add(call.subject.tenant, call.envelope.request_id, call)
        if self._sweeping is None:
            self._sweeping = self.bus.link.mux.loop.call_later(SWEEP_S, self._sweep)
        if call.frames:
            # The ack must be on the socket before the handler starts: its absence is evidence.
            call.acknowledge(self._ack)
            if not self._starting:
                self.bus.client.after_write(self._begin)
            self._starting.append(call)
        else:
            self._launch(call)

    def _begin(self) -> None:
        starting, self._starting = self._starting, []
        for call in starting:
            self._launch(call)

    def _launch(self, call: Call) -> None:
        if call.over:
            self._end(call)
            return
        call.task = self.bus.link.mux.loop.create_task(self._run(call))

    # The run

    async def _run(self, call: Call) -> None:
        call.begun = True
        if call.stopped_by:
            self._end(call)
            return
        error: MeshError | None = None
        body: bytes | None = b""
        try:
            if Header.BLOB in call.headers:
                call.payload = await self._pull(call)
            made = await self._handled(call)
            body = made if isinstance(made, bytes) else await self._answer_parts(call, made)
            if body is not None and len(body) > self.bus.inline_max:
                await self._answer_large(call, body)
        except MeshError as raised:
            error = raised
        except asyncio.CancelledError:
            if not call.stopped_by:
                call.answer_error(MeshError(ErrorKind.LOST, "the runner stopped the call"))
                raise
            error = MeshError(ErrorKind.LOST, "the call was stopped")
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            raise  # they end the task or the process, which is told of elsewhere
        except BaseException:  # noqa: BLE001 - whatever a handler does (native code panics), its caller gets an answer
            _log.exception("handler of %s failed", self.name)
            error = MeshError(ErrorKind.INTERNAL, "internal error")
        finally:
            if call.intake is not None:
                await call.intake.close()
            self._end(call)
        self._close(call, body, error)

    def _close(self, call: Call, body: bytes | None, error: MeshError | None) -> None:
        now = self.bus.link.mux.loop.time()
        self.stats.processing_ns += int((now - call.started) * 1e9)
        if error is not None:
            self.stats.errors += 1
            self.stats.last_error = error.message
            call.answer_error(error)
        else:
            call.answer(body or b"")
        if call.key is not None:
            self._instance.finished.keep(call.key, call.fingerprint, now, body, error)

    def _end(self, call: Call) -> None:
        self._running.discard(call)
        if call.key is not None:
            self._by_key.pop(call.key, None)
            self._instance.remove(call.subject.tenant, call.envelope.request_id, call)

    async def _handled(self, call: Call) -> bytes | LargeBody:
        """The handler, inside the caller's trace where the call brings one."""
        envelope = call.envelope
        if not envelope.traceparent:
            return await self._handler(call)
        with start_span(
            self.name, SpanKind.SERVER, envelope.traceparent, tracestate=envelope.tracestate
        ):
            return await self._handler(call)

    async def _pull(self, call: Call) -> bytes:
        intake = call.intake = self._intake(call) if self._intake is not None else None
        tap = intake.feed if intake is not None else None
        try:
            parts = await self.bus.blobs.pull_parts(
                call.headers, call.subject.tenant, call.remaining_s, tap
            )
            left = intake.rest(parts) if intake is not None else None
            return b"".join(parts) if left is None else left
        except MeshError as error:
            error.outcome = Outcome.NOT_EXECUTED  # the handler has not seen the call
            raise

    async def _answer_parts(self, call: Call, body: LargeBody) -> bytes | None:
        """Answer with what is being made (None), or make all of what has to be given whole."""
        if not call.claims or body.size <= self.bus.inline_max:
            return await body.collected()
        try:
            await self._answer_large(call, body)
        except MeshError:
            await body.parts.aclose()
            raise
        return None

    async def _answer_large(self, call: Call, body: bytes | LargeBody) -> None:
        if call.claims:
            try:
                claim = await self.bus.blobs.offer(body, call.subject.tenant)
            except MeshError as error:
                error.outcome = Outcome.EXECUTED
                raise
            call.answer(b"", claim)
        elif isinstance(body, bytes) and len(body) > self.bus.max_payload:
            raise MeshError(
                ErrorKind.TOO_LARGE,
                f"the result exceeds {self.bus.max_payload} bytes and the caller takes no frames",
                outcome=Outcome.EXECUTED,
            )

    def _stop(self, call: Call, reason: str) -> None:
        if not call.stopped_by:
            call.stopped_by = reason
            call.interrupt()

    def _sweep(self) -> None:
        now = self.bus.link.mux.loop.time()
        for call in list(self._running):
            if now >= call.deadline:
                if not call.over:
                    call.answer_error(MeshError(ErrorKind.DEADLINE, "the call exceeded its time"))
                self._stop(call, "deadline")
            elif now - call.last_frame >= KEEPALIVE_FRAME_S:
                call.keep_alive(now)
                for follower in call.followers:
                    follower.keep_alive(now)
        again = self._running
        self._sweeping = self.bus.link.mux.loop.call_later(SWEEP_S, self._sweep) if again else None


_NOWHERE = Subject(tenant=subjects.PLATFORM, kind=subjects.Kind.SVC, names=())


def _fingerprint(call: Call) -> int:
    """What a repeat must repeat: the body, and who asks.

    An answer from memory is given before any handler has looked at the caller, so another caller
    who names the same ``Mesh-Req`` must not get it.
    """
    get = call.headers.get
    return hash((call.payload, get(Header.BLOB), get(Header.CONTEXT), get(Header.CREDENTIAL)))


def _budget_s(envelope: RequestEnvelope) -> float:
    if not envelope.timeout_ms:
        return CALL_TIMEOUT_S
    return min(envelope.timeout_ms / 1000, CALL_TIMEOUT_MAX_S)


def serve_operation(
    bus: Bus,
    op: Operation[P, R],
    handler: Callable[[P], Awaitable[R]],
    *,
    slots: int = SLOTS,
) -> Endpoint:
    """An endpoint for a typed platform operation; call ``start`` on it.

    Args:
        bus: connection.
        op: the contract.
        handler: gets the decoded parameters, returns the result.
        slots: operations run at once.
    """
    decoder = msgspec.json.Decoder(op.params)
    encoder = msgspec.json.Encoder()

    async def run(call: Call) -> bytes:
        try:
            params = decoder.decode(call.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(
                ErrorKind.PARAMS, f"parameters of {op.service}.{op.name}: {error}"
            ) from error
        return encoder.encode(await handler(params))

    return Endpoint(
        bus,
        subject=op.subject,
        queue=op.service,
        handler=run,
        slots=slots,
        name=f"{op.name}",
    )
