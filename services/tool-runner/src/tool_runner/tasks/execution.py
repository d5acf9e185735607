"""One call that a task makes: over the bus as a gateway would make it, until it has an end.

The record is written by one execution at a time, each write on top of the last; when somebody else
has written meanwhile (a cancel, or another runner that took this one for dead), that stands and
what the call brings is dropped.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto import subjects
from mcp_proto.codec import encode_request, splice
from mcp_proto.contracts.tasks import TaskHeld, TaskRecord
from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.inputs import capabilities_of
from mcp_proto.jsonrpc import ABSENT
from mesh_chassis.bus.connection import Bus
from tool_runner.core import tasks as life
from tool_runner.tasks.store import Conflict, TaskStore

__all__ = ["Execution", "ServerError", "WaitsError", "abandon"]

NOTE_EVERY_S = 1.0
"""Progress is written at most this often."""
WRITE_AGAIN_S = 1.0
ROUNDS_MAX = 100
"""Results of one call that are no final ones and ask nothing."""
AGAIN_MAX_S = 2.0
GRACE_S = 5.0
"""Beyond the time of the call: its end must still be written."""
_TOOLS_CALL = "tools/call"
_log = logging.getLogger(__name__)


class _TaskEnvelope(RequestEnvelope, frozen=True, kw_only=True):
    """Headers that name the task: its call may take longer than an ordinary one."""

    task: str = ""

    def to_headers(self) -> dict[str, str]:
        headers = RequestEnvelope.to_headers(self)
        headers[Header.TASK] = self.task
        return headers


class _Parked(msgspec.Struct, frozen=True):
    instance: str = ""


class _Meta(msgspec.Struct, frozen=True):
    parked: _Parked = msgspec.field(name="mesh/parked", default=_Parked())


class _Result(msgspec.Struct, frozen=True, rename="camel"):
    """What of a result decides how a task goes on."""

    result_type: str = "complete"
    is_error: bool = False
    input_requests: dict[str, msgspec.Raw] = {}
    request_state: msgspec.Raw = ABSENT
    task_id: str = ""
    meta: _Meta | None = msgspec.field(name="_meta", default=None)


class _Answer(msgspec.Struct, frozen=True):
    result: msgspec.Raw = ABSENT
    error: ErrorObject | None = None


_RESULT = msgspec.json.Decoder(_Result)
_ANSWER = msgspec.json.Decoder(_Answer)

Follow = Callable[["Execution", str, "dict[str, msgspec.Raw]"], Awaitable[bytes]]
"""(execution, id of the server's own task, answers for it) → the call's result, once it ended."""


class Execution:
    """A running call of a task.

    Args:
        bus: to call with.
        store: where the record is.
        record: as it was written last, owned by this runner.
        revision: of that write.
        context: signed context of the submitter.
        follow: what to do when the server makes a task of its own of the call.
    """

    def __init__(
        self,
        bus: Bus,
        store: TaskStore,
        record: TaskRecord,
        revision: int,
        *,
        context: str,
        follow: Follow,
    ) -> None:
        self.bus = bus
        self.record = record
        self.context = context
        self.settling = False
        """Whether it writes its last state itself."""
        self.ended = False
        """Whether the last state is written, by us or by somebody else."""
        self.params = b"{}"
        """Of the call; they say what its submitter declared."""
        self._store = store
        self._revision = revision
        self._follow = follow
        self._writing = asyncio.Lock()
        self._noting: asyncio.Task[None] | None = None
        self._said = ""
        self._overtaken = False

    # The call

    async def begin(self, params: bytes, budget_s: float) -> None:
        """The first call.

        Args:
            params: from ``core.tasks.call_params``.
            budget_s: longest time the call may take.
        """
        await self._run(params, self._call(params, "", budget_s), budget_s)

    async def resume(self, held: TaskHeld, budget_s: float) -> None:
        """Go on with the answers that a task waited for."""
        if held.upstream_task:
            first = self._follow(self, held.upstream_task, held.responses)
        else:
            first = self._call(life.resumed_params(held), held.instance, budget_s)
        await self._run(bytes(held.params), first, budget_s)

    async def _run(self, params: bytes, first: Awaitable[bytes], budget_s: float) -> None:
        self.params = params
        try:
            async with asyncio.timeout(budget_s + GRACE_S):
                await self._converse(await first, budget_s)
        except ServerError as error:
            await self.fail(error.answer)
        except WaitsError:
            pass
        except MeshError as error:
            await self.fail(error.to_object())
        except TimeoutError:
            await self.fail(MeshError(ErrorKind.DEADLINE, "the task exceeded its time").to_object())
        except Exception:  # noqa: BLE001 - whatever fails, the task has an end
            _log.exception("a task failed", extra={"task": self.record.id})
            await self.fail(MeshError(ErrorKind.INTERNAL, "internal error").to_object())
        finally:
            await self._end_notes()

    async def _converse(self, result: bytes, budget_s: float) -> None:
        """From one result to the next until one is final, or input is asked for."""
        for again in range(ROUNDS_MAX):
            try:
                seen = _RESULT.decode(result)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise self._unusable() from None
            if seen.result_type == "complete":
                await self._complete(result, is_error=seen.is_error)
                return
            if seen.result_type == "task" and seen.task_id:
                await self._note_upstream(seen.task_id)
                result = await self._follow(self, seen.task_id, {})
                continue
            if seen.result_type != "input_required":
                break
            parked = seen.meta.parked.instance if seen.meta is not None else ""
            if seen.input_requests:
                await self._ask_submitter(seen, parked)
                return
            # State alone: the server asks nothing and only wants to be called again.
            await asyncio.sleep(min(0.05 * 2**again, AGAIN_MAX_S))
            members = {"requestState": bytes(seen.request_state)}
            result = await self._call(splice(self.params, members), parked, budget_s)
        raise self._unusable()

    async def _ask_submitter(self, seen: _Result, parked: str) -> None:
        try:
            await self.wait(seen.input_requests, seen.request_state, instance=parked)
        except MeshError:
            if parked:
                await abandon(self.bus, self.record.tenant, parked, seen.request_state)
            raise

    async def _call(self, params: bytes, instance: str, budget_s: float) -> bytes:
        record = self.record
        if instance:
            subject = subjects.instance(record.tenant, instance, "answer")
        else:
            subject = subjects.call(record.tenant, record.server, record.tool)
        return await self.ask(subject, _TOOLS_CALL, params, budget_s, name=record.tool)

    async def ask(
        self, subject: str, method: str, params: bytes, budget_s: float, *, name: str
    ) -> bytes:
        """One request to the server; its result.

        Raises:
            MeshError: how the bus or the runner of the server failed.
            ServerError: the server's own error.
        """
        record = self.record
        request_id = self.bus.new_request_id()
        body = await self.bus.call(
            subject,
            encode_request(method, request_id, params),
            envelope=_TaskEnvelope(
                method=method,
                name=name,
                request_id=request_id,
                context=self.context,
                task=record.id,
            ),
            timeout_s=budget_s,
            tenant=record.tenant,
            on_frame=lambda notice: self.note(life.progress_text(notice)),
        )
        try:
            answer = _ANSWER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._unusable() from None
        if answer.error is not None:
            raise ServerError(answer.error)
        if not memoryview(answer.result).nbytes:
            raise self._unusable()
        return bytes(answer.result)

    def _unusable(self) -> MeshError:
        return MeshError(
            ErrorKind.UPSTREAM,
            f"server {self.record.server} gave an unusable answer",
            data={"upstream": self.record.server},
            outcome=Outcome.EXECUTED,
        )

    # What is written

    async def wait(
        self,
        requests: dict[str, msgspec.Raw],
        state: msgspec.Raw,
        *,
        instance: str = "",
        upstream_task: str = "",
    ) -> None:
        """The call asks for input: the task waits for it, and nobody owns it meanwhile.

        Raises:
            MeshError: ``too_large``, ``overloaded``, ``upstream``; ``capability`` when the
                submitter did not declare that it can be asked this.
        """
        now = self.bus.server_now_ms()
        await self._settle(
            life.waiting(
                self.record,
                params=self.params,
                requests=requests,
                state=state,
                instance=instance,
                declared=capabilities_of(msgspec.Raw(self.params)),
                upstream_task=upstream_task,
                now_ms=now,
            )
        )

    async def _complete(self, result: bytes, *, is_error: bool) -> None:
        now = self.bus.server_now_ms()
        try:
            parts = await self._store.keep_result(self.record, result, now)
        except MeshError as error:
            error.outcome = Outcome.EXECUTED
            raise
        await self._settle(
            life.completed(self.record, result, parts=parts, is_error=is_error, now_ms=now)
        )
        if self._overtaken and parts:
            await self._store.drop_result(self.record, parts)

    async def fail(self, error: ErrorObject) -> None:
        """The call ended with an error."""
        await self._settle(life.failed(self.record, error, self.bus.server_now_ms()))

    async def give_up(self, why: str) -> None:
        """This runner stops: what the call does is not known any more."""
        await self._settle(life.lost(self.record, why, self.bus.server_now_ms()))

    async def _settle(self, record: TaskRecord) -> None:
        """Write the state in which this execution ends, for as long as that has a meaning."""
        async with self._writing:
            if self.ended:
                return
            self.settling = True
            unkept: TaskRecord | None = None
            while True:
                now = self.bus.server_now_ms()
                try:
                    self._revision = await self._store.update(record, self._revision, now)
                except Conflict:
                    if await self._still_ours(record):
                        continue
                    self._overtaken = True
                except MeshError as error:
                    _log.warning("a task's end: %s", error.message, extra={"task": record.id})
                    if error.kind is ErrorKind.TOO_LARGE and record is not unkept:
                        # Written again it would be as large, and the task would never end.
                        record = unkept = life.failed(self.record, _unkept(), now)
                        continue
                    if error.kind is ErrorKind.OVERLOADED and record is not unkept:
                        record = unkept = life.unkept(self.record, now)
                        continue
                    if now < self.record.expires_ms:
                        await asyncio.sleep(WRITE_AGAIN_S)
                        continue
                else:
                    self.record = record
                self.ended = True
                return

    async def _note_upstream(self, task_id: str) -> None:
        """Say in the record whose task is followed: the record is the right to ask about it.

        The submitter's signed context is good for minutes, such a task may take hours.
        """
        async with self._writing:
            now = self.bus.server_now_ms()
            record = msgspec.structs.replace(self.record, upstream=task_id, updated_ms=now)
            try:
                self._revision = await self._store.update(record, self._revision, now)
            except Conflict:
                return  # ended meanwhile; whoever ended it stops this execution
            except MeshError as error:
                error.outcome = Outcome.UNKNOWN  # the server has begun
                raise
            self.record = record

    async def _still_ours(self, record: TaskRecord) -> bool:
        """Whether a conflict was with an earlier write of our own whose receipt was lost."""
        try:
            stored = await self._store.read(record.tenant, record.principal, record.id)
        except MeshError:
            await asyncio.sleep(WRITE_AGAIN_S)
            return True
        own = self.record
        if stored is None or stored.revision == self._revision:
            return False
        known = stored.record
        if known.status != "working" or (known.owner, known.boot) != (own.owner, own.boot):
            return False
        self._revision = stored.revision
        return True

    # Progress

    def note(self, said: str) -> None:
        """What the call is doing now; "" = nothing is known."""
        if not said or said == self._said:
            return
        self._said = said
        if self._noting is None or self._noting.done():
            self._noting = asyncio.get_running_loop().create_task(self._write_notes())

    async def _write_notes(self) -> None:
        while self._said != self.record.message and not self.ended:
            async with self._writing:
                now = self.bus.server_now_ms()
                record = life.noted(self.record, self._said, now)
                try:
                    self._revision = await self._store.update(record, self._revision, now)
                except Conflict:
                    return
                except MeshError as error:
                    _log.info("progress was not written: %s", error.message)
                    return
                self.record = record
            await asyncio.sleep(NOTE_EVERY_S)

    async def _end_notes(self) -> None:
        if self._noting is not None:
            # Under the lock it is not within a write, whose revision would be lost.
            async with self._writing:
                self._noting.cancel()
            await asyncio.gather(self._noting, return_exceptions=True)


async def abandon(bus: Bus, tenant: str, instance: str, state: msgspec.Raw) -> None:
    """Tell a runner that nobody will answer the call that it parks; it would wait for the task."""
    try:
        park_id = msgspec.json.decode(state, type=str)
        await bus.publish(
            subjects.instance(tenant, instance, "cancel"), b"", headers={Header.REQUEST: park_id}
        )
    except (MeshError, msgspec.DecodeError):
        return  # it ends with the time of the task


def _unkept() -> ErrorObject:
    return MeshError(
        ErrorKind.TOO_LARGE,
        "the task ended with more than its record can keep",
        outcome=Outcome.UNKNOWN,
    ).to_object()


class ServerError(Exception):
    """The server's own error, as it gave it."""

    def __init__(self, answer: ErrorObject) -> None:
        super().__init__(answer.message)
        self.answer = answer


class WaitsError(Exception):
    """The task waits for input now; this execution of it has ended."""
