"""Calls with an idempotency key: one execution per key, and the same answer for every repeat.

The record is created before the execution (compare-and-set decides between two that come at once)
and updated before the answer goes out. The execution belongs to the runner, not to the caller: a
connection that breaks must not stop what the repeat will ask for. Calls without a key never come
here.

A call that asks for input has no final answer yet. Its record is open and holds the question of
the moment: who repeats the call gets that, who brings the answers goes on, once.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from mcp_proto.asked import Asked
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mesh_chassis.bucket import Conflict, Entry
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.tasks import Tasks, TasksFullError
from mesh_chassis.watch import Watch
from tool_runner.config import IdempotencyConfig
from tool_runner.core import idempotency as rules
from tool_runner.core.idempotency import Kept, State
from tool_runner.handlers import Run
from tool_runner.keyed_records import KeyedRecords, with_error
from tool_runner.tasks.owners import Owners

__all__ = ["Idempotency"]

LOOK_EVERY_S = 2.0
"""How often whoever waits asks whether the runner of the first call is still there."""
ROUNDS_MAX = 100
STOP_S = 2.0

_KEPT = msgspec.json.Decoder(Kept)
_encode = msgspec.json.Encoder().encode
_PAD = " " * 640
"""Room for an error of ours; what grows is refused when the bucket is full."""
_log = logging.getLogger(__name__)


class _Failure(msgspec.Struct, frozen=True):
    """An error of the first call, to be raised to its caller."""

    error: MeshError


class _Way(msgspec.Struct, frozen=True):
    """How a call goes, once the record says that it is its turn.

    Attributes:
        run: the execution; takes the tag of the record.
        held: whether a refused answer leaves the call waiting, so that another may come.
    """

    run: Run
    held: Callable[[], bool]


class Idempotency:
    """Records of one runner. Make it with ``open``.

    Args:
        records: bucket ``mesh_idempotency``.
        bus: connection.
        owners: tells which runners are gone.
        tasks: parent of the executions.
    """

    def __init__(self, records: KeyedRecords, bus: Bus, owners: Owners, tasks: Tasks) -> None:
        self._records = records
        self._bus = bus
        self._owners = owners
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[object]] = {}

    @classmethod
    async def open(
        cls,
        bus: Bus,
        owners: Owners,
        tasks: Tasks,
        config: IdempotencyConfig,
    ) -> "Idempotency":
        """Count what is in the bucket.

        Raises:
            MeshError: the registry has not made it yet, or the broker cannot be asked.
        """
        records = await KeyedRecords.open(bus, config)
        return cls(records, bus, owners, tasks)

    @property
    def watch(self) -> Watch:
        """The watch that counts the records."""
        return self._records.watch

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._records.bucket

    async def once(
        self, call: Call, asked: Asked, caller: CallerContext | None, run: Run
    ) -> bytes | ErrorObject:
        """Execute a call unless one with its key was executed before.

        Args:
            call: to be answered.
            asked: what it asks for.
            caller: checked; None for an unsigned call where those are allowed.
            run: the execution.

        Raises:
            MeshError: ``params`` when the key is malformed or was used for another call,
                ``deadline`` when the first call does not end in time, ``overloaded`` when the
                tenant has too many keys, and what ``run`` raises.
        """
        key = rules.key_of(asked.params)
        if key is None:
            return await run("")
        principal = caller.sub if caller is not None else ""
        tenant, server = call.subject.tenant, call.subject.names[0]
        name = rules.record_name(tenant, principal, server, asked.name, key)
        digest = rules.arguments_digest(asked.arguments)
        from_round = rules.round_of(asked.params)
        way = _Way(run, _always)
        for _ in range(ROUNDS_MAX):
            answer = await self._execute(name, digest, way)
            if answer is not None:
                return answer
            entry = await self._records.entry(name)
            if entry is None:
                continue
            kept = _KEPT.decode(entry.value)
            if kept.digest != digest or kept.state is State.TASK:
                raise rules.misused()
            # A call that is parked goes on where it is parked; here it would begin anew.
            goes_on = None if kept.owner else from_round
            answer = await self._again(call, name, entry, kept, goes_on, way)
            if answer is not None:
                return answer
        raise _contended()

    async def resume(
        self,
        call: Call,
        params: msgspec.Raw,
        whose: tuple[str, str],
        tag: str,
        way: tuple[Run, Callable[[], bool]],
    ) -> bytes | ErrorObject:
        """Go on with a parked call that has a key, unless that has happened already.

        Args:
            call: brings answers.
            params: of the repeated request.
            whose: tenant and principal of the caller.
            tag: of the record.
            way: goes on; and says whether the call is parked under that state still.

        Raises:
            MeshError: as ``once``.
        """
        name = rules.named(*whose, tag)
        from_round = rules.round_of(params)
        for _ in range(ROUNDS_MAX):
            entry = await self._records.entry(name)
            if entry is None:
                return await way[0](tag)  # its window is over; the call still waits
            kept = _KEPT.decode(entry.value)
            answer = await self._again(call, name, entry, kept, from_round, _Way(*way))
            if answer is not None:
                return answer
        raise _contended()

    def parked_ended(
        self, tenant: str, principal: str, tag: str, answer: bytes | ErrorObject | str
    ) -> None:
        """A parked call ended while nobody was there to take its answer.

        Args:
            tenant: whose call it was.
            principal: who made it.
            tag: of its record.
            answer: its answer; text = why it is not known.
        """
        error = rules.unheld(answer) if isinstance(answer, str) else answer
        try:
            self._tasks.spawn(
                self._conclude(rules.named(tenant, principal, tag), error), name="keyed-call-end"
            )
        except TasksFullError:
            return  # this runner stops; its boot tells the repeat

    async def claim_for_task(self, name: str, digest: str, task_id: str) -> str | None:
        """Use a key for a new durable task.

        Returns:
            None = it is ours now; else the id of the task that has it already.

        Raises:
            MeshError: ``params`` when it was used for another call.
        """
        kept = Kept(state=State.TASK, digest=digest, task_id=task_id)
        for _ in range(ROUNDS_MAX):
            try:
                await self._records.create(name, _encode(kept))
            except Conflict:
                entry = await self._records.entry(name)
                if entry is None:
                    continue
                found = _KEPT.decode(entry.value)
                if found.digest != digest or found.state is not State.TASK:
                    raise rules.misused() from None
                return found.task_id
            else:
                return None
        raise _contended()

    async def free(self, name: str) -> None:
        """Give a key back whose task was not made."""
        await self._records.free(name)

    async def close(self) -> None:
        """This runner stops: of what still runs nobody knows how it ends."""
        await self._records.close()
        running = list(self._running.values())
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running, timeout=STOP_S)

    # The first call

    async def _claim(self, name: str, digest: str, over: int = 0) -> int:
        """Write that it runs here; 0 = somebody was first.

        Raises:
            MeshError: ``overloaded``: the tenant has too many keys, or the bucket is full.
        """
        value = _encode(
            Kept(
                state=State.RUNNING,
                digest=digest,
                owner=self._bus.instance,
                boot=self._bus.boot,
                pad=_PAD,
            )
        )
        try:
            if over:
                return await self._records.update(name, value, over)
            return await self._records.create(name, value)
        except Conflict:
            return 0

    async def _execute(
        self, name: str, digest: str, way: _Way, entry: Entry | None = None
    ) -> bytes | ErrorObject | None:
        """Execute a call if the record can be claimed; None = it cannot, look again.

        The caller may leave at any moment; who has claimed executes all the same.

        Args:
            name: of the record.
            digest: of the arguments.
            way: the execution.
            entry: the open question it goes on from; None = it is a first call.
        """
        try:
            task = self._tasks.spawn(self._first(name, digest, way, entry), name="keyed-call")
        except TasksFullError:
            raise MeshError(ErrorKind.OVERLOADED, "the runner stops", retry_after_s=0.5) from None
        answer = await asyncio.shield(task)
        if isinstance(answer, _Failure):
            raise answer.error
        return answer

    async def _first(
        self, name: str, digest: str, way: _Way, entry: Entry | None
    ) -> bytes | ErrorObject | _Failure | None:
        # Nothing is raised: the caller may be gone, and then nobody would fetch it.
        try:
            revision = await self._claim(name, digest, entry.revision if entry is not None else 0)
        except MeshError as error:
            return _Failure(error)
        if not revision:
            return None
        before = _KEPT.decode(entry.value) if entry is not None else None
        task = asyncio.current_task()
        assert task is not None
        self._running[name] = task
        try:
            return await self._run(name, digest, revision, way, before)
        finally:
            if self._running.get(name) is task:
                del self._running[name]

    async def _run(
        self, name: str, digest: str, revision: int, way: _Way, before: Kept | None
    ) -> bytes | ErrorObject | _Failure:
        bare = Kept(state=State.DONE, digest=digest)

        async def keep_error(error: ErrorObject) -> None:
            if rules.outcome_of(error) is Outcome.NOT_EXECUTED and (before is None or way.held()):
                # Nothing has happened: the repeat is a first call again, or the question is open.
                await self._records.write(name, revision, before)
            else:
                await self._records.write(name, revision, with_error(bare, error))

        try:
            answer = await way.run(rules.tag_of(name))
        except MeshError as error:
            await keep_error(error.to_object())
            return _Failure(error)
        except asyncio.CancelledError:
            await keep_error(rules.lost(self._bus.instance))
            raise
        if isinstance(answer, ErrorObject):
            await keep_error(answer)
        else:
            await self._records.keep(name, revision, bare, answer)
        return answer

    async def _conclude(self, name: str, answer: bytes | ErrorObject) -> None:
        """Write the end of a parked call of ours over its open question."""
        for _ in range(ROUNDS_MAX):
            running = self._running.get(name)
            if running is not None:
                await asyncio.wait((running,))  # it writes the question now
            try:
                entry = await self._records.latest(name)
            except MeshError as error:
                _log.error("the end of a keyed call was not kept: %s", error.message)
                return
            kept = None if entry is None else _KEPT.decode(entry.value)
            if entry is None or kept is None or kept.state is not State.OPEN:
                return
            if (kept.owner, kept.boot) != (self._bus.instance, self._bus.boot):
                return
            bare = Kept(state=State.DONE, digest=kept.digest)
            if isinstance(answer, ErrorObject):
                await self._records.write(name, entry.revision, with_error(bare, answer))
            else:
                await self._records.keep(name, entry.revision, bare, answer)
            return

    # Repeats

    async def _again(
        self,
        call: Call,
        name: str,
        entry: Entry,
        kept: Kept,
        from_round: str | None,
        way: _Way,
    ) -> bytes | ErrorObject | None:
        """The answer to a call whose record is there; None = the record has changed, look again.

        Args:
            call: to be answered.
            name: of the record.
            entry: the record.
            kept: the same, decoded.
            from_round: the question it brings answers to; None = it brings none for here.
            way: how it goes on.
        """
        if kept.state is State.RUNNING:
            await self._wait(name, kept, entry.revision, call.remaining_s)
            return None
        if kept.state is State.OPEN:
            if from_round is not None and from_round == kept.round:
                return await self._execute(name, kept.digest, way, entry)
            if kept.owner and await self._abandoned(name, kept, entry.revision, call.remaining_s):
                return None
        return await self._records.answer(name, kept)

    async def _abandoned(self, name: str, kept: Kept, revision: int, timeout_s: float) -> bool:
        """Whether the runner that parks the call is gone; then the record says so."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s - _ANSWER_S
        while not await self._owners.dead(kept.owner, kept.boot):
            if not self._owners.doubtful(kept.owner, kept.boot) or loop.time() >= until:
                return False
            await asyncio.sleep(min(LOOK_EVERY_S, max(0.0, until - loop.time())))
        await self._records.write(name, revision, with_error(
            Kept(state=State.DONE, digest=kept.digest),
            rules.unheld(f"the runner {kept.owner} was lost"),
        ))  # fmt: skip
        return True

    async def _wait(self, name: str, kept: Kept, revision: int, timeout_s: float) -> None:
        """Wait until the record says something else."""
        moved = asyncio.Event()

        def on_entry(_key: str, _value: bytes | None, at: int) -> None:
            if at != revision:
                moved.set()

        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s - _ANSWER_S
        watch = await self._records.follow(name, on_entry)
        try:
            while not moved.is_set():
                left = until - loop.time()
                if left <= 0:
                    raise MeshError(
                        ErrorKind.DEADLINE, "the first call with this idempotency key still runs"
                    )
                try:
                    async with asyncio.timeout(min(left, LOOK_EVERY_S)):
                        await moved.wait()
                except TimeoutError:
                    if await self._owners.dead(kept.owner, kept.boot):
                        bare = Kept(state=State.DONE, digest=kept.digest)
                        failed = with_error(bare, rules.lost(kept.owner))
                        await self._records.write(name, revision, failed)
                        return
        finally:
            await watch.stop()


def _contended() -> MeshError:
    return MeshError(ErrorKind.OVERLOADED, "the idempotency key is contended", retry_after_s=0.5)


def _always() -> bool:
    return True


_ANSWER_S = 0.05
"""Kept of the caller's time for the answer itself."""
