"""Core tasks of 2025-11-25 for an old client, on top of what the dispatcher says in the new form.

``tasks/result`` waits at this edge by asking for the task again and again, each time held back by
the gateway until something has changed; so it survives the gateway that made the task, and works
on the stdio edge, which has no gateway of its own. What a task asks for goes to the client as real
requests while it waits here.
"""

from collections.abc import Callable

import msgspec

from gateway.core import core_tasks as words
from gateway.core.answers import AnsweredError
from gateway.core.requests import ModernRequest, text_member
from gateway.core.sealed_state import ABANDON
from gateway.edges.inputs import Client, Dispatch, Inputs
from gateway.identity import Caller
from gateway.questions import Questions
from gateway.tasks import LIST_METHOD
from mcp_proto.convert.results import to_legacy_result
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.members import pick, splice
from mcp_proto.request_meta import meta_of
from mcp_proto.versions import Revision

__all__ = ["CoreTasks"]

WAIT_MS = 20_000
"""Longest time one question about a task is held back; below the budget of a request."""

Notices = Callable[[bytes], None]
Created = Callable[[ModernRequest, Caller, words.Seen], None]
_NOTHING = b'{"resultType":"complete"}'


class CoreTasks:
    """Answers requests of 2025-11-25 that are about tasks.

    Args:
        dispatch: of the backend.
        questions: where answers of clients arrive; None = clients cannot be asked here.
        wait_s: how long a client may take for one answer, in seconds.
    """

    def __init__(self, dispatch: Dispatch, questions: Questions | None, *, wait_s: float) -> None:
        self._dispatch = dispatch
        self._inputs = (
            Inputs(self._answer, questions, wait_s=wait_s) if questions is not None else None
        )

    async def serve(
        self,
        request: ModernRequest,
        caller: Caller,
        revision: Revision,
        on_notice: Notices | None,
        client: Client | None,
        on_created: Created | None = None,
    ) -> bytes:
        """Answer a request for which ``core_tasks.wants_task`` is true.

        Args:
            request: of the client, with the envelope that its edge put on.
            caller: checked.
            revision: of the session.
            on_notice: gets notifications of the request.
            client: whom to ask what the task asks; None = it cannot be asked.
            on_created: called with a task that was made.

        Returns:
            The result in the old form.

        Raises:
            MeshError: for the edge to render.
        """
        method, params = request.method, bytes(request.params)
        if method == "tools/call":
            asked = self._as(request, method, words.call_params(params))
            result = await self._dispatch(asked, caller, on_notice)
            if b'"taskId"' in result and b'"task"' in result:
                seen = words.read(result)
                if on_created is not None:
                    on_created(asked, caller, seen)
                return words.created(seen)
            # The tool's policy forbids tasks: an ordinary result, as for any other client.
            return to_legacy_result(method, result, revision)
        if method == "tasks/list":
            asked = self._as(request, LIST_METHOD, words.request_params(params))
            return words.listed(await self._dispatch(asked, caller, on_notice))
        task_id = text_member(params, "taskId")
        if method == "tasks/get":
            return words.core_task(await self._get(request, caller))
        if method == "tasks/cancel":
            return await self._cancel(request, caller)
        return await self._result(request, caller, revision, on_notice, client, task_id)

    async def _get(
        self, request: ModernRequest, caller: Caller, wait_ms: int = 0, since: str = ""
    ) -> words.Seen:
        params = words.request_params(_of_task(request), wait_ms, since)
        return words.read(
            await self._dispatch(self._as(request, "tasks/get", params), caller, None)
        )

    async def _cancel(self, request: ModernRequest, caller: Caller) -> bytes:
        seen = await self._get(request, caller)
        if seen.terminal:
            raise MeshError(ErrorKind.PARAMS, f"the task is {seen.status} already")
        params = words.request_params(_of_task(request))
        await self._dispatch(self._as(request, "tasks/cancel", params), caller, None)
        return words.core_task(await self._get(request, caller))

    async def _result(
        self,
        request: ModernRequest,
        caller: Caller,
        revision: Revision,
        on_notice: Notices | None,
        client: Client | None,
        task_id: str,
    ) -> bytes:
        found = await self._awaited(request, caller, on_notice)
        if self._inputs is not None:
            found = await self._inputs.complete(found, request, caller, on_notice, client)
        result = to_legacy_result("tools/call", found, revision)
        return words.related(result, task_id)

    async def _answer(
        self, repeat: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        """What ``Inputs`` takes for the repeat of a call: answers go to the task, then we wait."""
        if ABANDON.encode() in bytes(repeat.params):
            return _NOTHING  # the task waits on; its client may come back for it
        answers = pick(repeat.params, "inputResponses").get("inputResponses")
        if answers is not None:
            params = splice(_of_task(repeat), {"inputResponses": bytes(answers)})
            asked = self._as(repeat, "tasks/update", words.request_params(params))
            await self._dispatch(asked, caller, None)
        return await self._awaited(repeat, caller, on_notice)

    async def _awaited(
        self, request: ModernRequest, caller: Caller, on_notice: Notices | None
    ) -> bytes:
        """The result of the task, or what it asks for."""
        since = ""
        pace = words.Pace(request.params)
        while True:
            seen = await self._get(request, caller, WAIT_MS, since)
            since = seen.last_updated_at
            notice = pace.notice(seen)
            if notice is not None and on_notice is not None:
                on_notice(notice)
            if seen.status == "completed":
                return bytes(seen.result)
            if seen.error is not None:
                raise AnsweredError(seen.error)
            if seen.terminal:
                raise MeshError(
                    ErrorKind.LOST, f"the task was {seen.status}", outcome=Outcome.UNKNOWN
                )
            if seen.input_requests and self._inputs is not None:
                return words.asking(seen)

    @staticmethod
    def _as(request: ModernRequest, method: str, params: bytes) -> ModernRequest:
        return msgspec.structs.replace(
            request, method=method, params=params, meta=meta_of(params), target=""
        )


def _of_task(request: ModernRequest) -> bytes:
    """Params that name the task and nothing else, with the envelope."""
    found = pick(request.params, "taskId", "_meta")
    return b'{"taskId":%b,"_meta":%b}' % (bytes(found["taskId"]), bytes(found["_meta"]))
