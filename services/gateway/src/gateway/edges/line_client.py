"""The peer of a byte stream as somebody who can be asked, on the same line its calls come on."""

from gateway.core.core_tasks import Seen
from gateway.core.requests import ModernRequest
from gateway.edges.core_tasks import CoreTasks
from gateway.edges.inputs import GONE, Client, Dispatch, Inputs
from gateway.edges.task_watch import StatusNotices
from gateway.handlers import Notices
from gateway.identity import Caller
from gateway.questions import Questions, progress_of
from mcp_proto.jsonrpc import ErrorResponse, Notification, Response
from mcp_proto.versions import Revision

__all__ = ["LineInputs"]

_OWNER = "line"


class LineInputs:
    """Questions of one connection.

    Args:
        dispatch: of the backend.
        send: writes a message that must arrive.
        wait_s: how long the peer may take for one answer, in seconds.
    """

    def __init__(self, dispatch: Dispatch, send: Notices, *, wait_s: float) -> None:
        self._send = send
        self._questions = Questions()
        self._inputs = Inputs(dispatch, self._questions, wait_s=wait_s)
        self._core = CoreTasks(dispatch, self._questions, wait_s=wait_s)
        self._status = StatusNotices(dispatch)
        self._gone = False

    async def serve_task(
        self, request: ModernRequest, caller: Caller, on_notice: Notices, revision: Revision
    ) -> bytes:
        """Answer a request about core tasks; see ``CoreTasks.serve``."""

        def created(made: ModernRequest, owner: Caller, seen: Seen) -> None:
            self._status.follow(_OWNER, made, owner, seen, on_notice)

        client = self._client(revision)
        return await self._core.serve(request, caller, revision, on_notice, client, created)

    def _client(self, revision: Revision) -> Client | None:
        # Whoever has ended its side cannot answer; nothing to send a question to.
        return None if self._gone else Client(_OWNER, revision, self._send)

    async def complete(
        self,
        result: bytes,
        request: ModernRequest,
        caller: Caller,
        on_notice: Notices,
        revision: Revision,
    ) -> bytes:
        """The result of a call once its server asks for nothing more; see ``Inputs.complete``."""
        client = self._client(revision)
        return await self._inputs.complete(result, request, caller, on_notice, client)

    def take(self, message: Response | ErrorResponse | Notification) -> None:
        """An answer of the peer, or a notice of progress; what was not asked is dropped."""
        if isinstance(message, Notification):
            self._questions.progress(_OWNER, progress_of(message))
        else:
            self._questions.take(_OWNER, message)

    def gone(self) -> None:
        """The peer sends nothing more: what it was asked is answered in its place."""
        self._gone = True
        self._status.close()
        self._questions.fail(_OWNER, GONE)
