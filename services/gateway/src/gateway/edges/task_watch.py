"""Changes of tasks for a listener: each is asked for again, held back until something has changed.

So it is the same at every edge, the stdio edge included, and holds for tasks that a server keeps
itself (those are polled, at the pace they ask for). A listener hears the newest state, not every
one in between (MCP, tasks extension, "Task Status Notifications").
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import msgspec

from gateway.core.core_tasks import Pace, Seen, core_task, read, request_params
from gateway.core.requests import ModernRequest
from gateway.edges.inputs import Dispatch
from gateway.identity import Caller
from mcp_proto.codec import encode, encode_notification
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick
from mcp_proto.request_meta import meta_of

__all__ = ["TASKS_MAX", "StatusNotices", "TaskWatch"]

TASKS_MAX = 64
"""Tasks of one listener; each costs a held request."""
OWNERS_MAX = 1_000
"""Sessions whose tasks are followed here at once; more get no notices, which are optional."""
WAIT_MS = 20_000
PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0
AGAIN_S = 1.0

Told = Callable[[bytes, Seen], None]
"""Takes a task as ``tasks/get`` says it, as bytes and read; must not block."""


class TaskWatch:
    """Tasks of one listener. Aim, start, close.

    Args:
        dispatch: of the backend.
        request: of the listener: its envelope says who declares what.
        caller: checked.
        told: called with each new state.
    """

    def __init__(
        self, dispatch: Dispatch, request: ModernRequest, caller: Caller, told: Told
    ) -> None:
        self._dispatch = dispatch
        self._request = request
        self._caller = caller
        self._told = told
        self._aimed: dict[str, str] = {}
        self._following: set[asyncio.Task[None]] = set()

    async def aim(self, task_ids: Iterable[str]) -> tuple[str, ...]:
        """Take tasks on that the caller may know.

        Returns:
            Their ids; unknown ones and those over ``TASKS_MAX`` are left out.

        Raises:
            MeshError: ``capability`` when the listener does not declare tasks; no answer.
        """
        for task_id in list(dict.fromkeys(task_ids))[:TASKS_MAX]:
            try:
                seen = read(await self._get(task_id))
            except MeshError as error:
                if error.kind in {ErrorKind.PARAMS, ErrorKind.NOT_FOUND}:
                    continue
                raise
            self._aimed[task_id] = seen.last_updated_at
        return tuple(self._aimed)

    def start(self) -> None:
        """Tell changes from now on."""
        loop = asyncio.get_running_loop()
        for task_id, since in self._aimed.items():
            task = loop.create_task(self._follow(task_id, since), name="task-watch")
            self._following.add(task)
            task.add_done_callback(self._following.discard)
        self._aimed.clear()

    def follow(self, task_id: str, since: str) -> bool:
        """Tell changes of one more task from now on; False: there are ``TASKS_MAX`` already."""
        if len(self._following) >= TASKS_MAX:
            return False
        self._aimed[task_id] = since
        self.start()
        return True

    def close(self) -> None:
        """Tell nothing more."""
        for task in tuple(self._following):
            task.cancel()

    async def _follow(self, task_id: str, since: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            try:
                answer = await self._get(task_id, since)
            except MeshError as error:
                if error.kind in {ErrorKind.PARAMS, ErrorKind.NOT_FOUND}:
                    return  # expired
                await asyncio.sleep(AGAIN_S)
                continue
            seen = read(answer)
            if seen.last_updated_at != since:
                since = seen.last_updated_at
                with contextlib.suppress(MeshError):
                    self._told(answer, seen)
            if seen.terminal:
                return
            pause_s = min(max((seen.poll_interval_ms or 0) / 1000, PAUSE_MIN_S), PAUSE_MAX_S)
            await asyncio.sleep(max(0.0, pause_s - (loop.time() - asked)))

    async def _get(self, task_id: str, since: str = "") -> bytes:
        meta = pick(self._request.params, "_meta").get("_meta", msgspec.Raw(b"{}"))
        params = b'{"taskId":%b,"_meta":%b}' % (encode(task_id), bytes(meta))
        if since:
            params = request_params(params, WAIT_MS, since, declare=False)
        asked = msgspec.structs.replace(
            self._request, method="tasks/get", params=params, meta=meta_of(params), target=""
        )
        return await self._dispatch(asked, self._caller, None)


class StatusNotices:
    """``notifications/tasks/status`` for clients of 2025-11-25: of the tasks made here for them.

    A progress token of the call that made a task holds as long as the task, so its progress is told
    as well.

    Args:
        dispatch: of the backend.
    """

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._watches: dict[str, TaskWatch] = {}
        self._paces: dict[str, dict[str, Pace]] = {}

    def follow(
        self,
        owner: str,
        request: ModernRequest,
        caller: Caller,
        seen: Seen,
        send: Callable[[bytes], object],
    ) -> None:
        """Tell the changes of a task that was just made.

        Args:
            owner: connection or session.
            request: that made it, with the declared extension.
            caller: checked.
            seen: the task.
            send: takes a notification; must not block.
        """
        watch = self._watches.get(owner)
        if watch is None:
            if len(self._watches) >= OWNERS_MAX:
                return

            paces = self._paces.setdefault(owner, {})

            def told(_task: bytes, now: Seen) -> None:
                send(encode_notification("notifications/tasks/status", core_task(now)))
                pace = paces.pop(now.task_id, None) if now.terminal else paces.get(now.task_id)
                notice = None if pace is None else pace.notice(now)
                if notice is not None:
                    send(notice)

            watch = self._watches[owner] = TaskWatch(self._dispatch, request, caller, told)
        pace = Pace(request.params)
        if watch.follow(seen.task_id, seen.last_updated_at) and pace.wanted:
            self._paces[owner][seen.task_id] = pace

    def drop(self, owner: str) -> None:
        """Nobody can be told any more."""
        watch = self._watches.pop(owner, None)
        self._paces.pop(owner, None)
        if watch is not None:
            watch.close()

    def close(self) -> None:
        """Tell nobody any more."""
        for owner in tuple(self._watches):
            self.drop(owner)
