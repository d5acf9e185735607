"""Servers of 2025-11-25 with core tasks: the mesh drives them, so that any client can call.

A tool that runs as a task only is called as one, its result is waited for and is the answer to the
call: clients without tasks can use it, and a client that wants a task gets a durable one of the
mesh, which outlives gateway and connection. So ids of such servers never leave the runner.
"""

from collections.abc import Awaitable, Callable, Iterable

import msgspec

from mcp_proto.codec import encode, pick, remove, splice
from mcp_proto.contracts.registry import CatalogTool
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.types.meta import RELATED_TASK
from tool_runner.upstreams.upstream import Offer, Request

__all__ = ["CoreTaskTools"]

CANCEL_S = 2.0
_TOOLS_CALL = "tools/call"

Ask = Callable[[Request], Awaitable[bytes | ErrorObject]]


class _Execution(msgspec.Struct, frozen=True, rename="camel"):
    task_support: str = ""


class _Tool(msgspec.Struct, frozen=True):
    execution: _Execution = _Execution()


class _Capabilities(msgspec.Struct, frozen=True):
    tasks: dict[str, msgspec.Raw] | None = None


class _Task(msgspec.Struct, frozen=True, rename="camel"):
    task_id: str


class _Created(msgspec.Struct, frozen=True):
    task: _Task


_TOOL = msgspec.json.Decoder(_Tool)
_CAPABILITIES = msgspec.json.Decoder(_Capabilities)
_CREATED = msgspec.json.Decoder(_Created)


class CoreTaskTools:
    """Tools of one server that it runs as tasks only.

    Args:
        required: their names.
    """

    def __init__(self, required: frozenset[str]) -> None:
        self._required = required

    @classmethod
    def of(cls, offer: Offer) -> "CoreTaskTools | None":
        """What a server says of its tools; None = it has no core tasks."""
        try:
            if _CAPABILITIES.decode(offer.capabilities).tasks is None:
                return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return cls(frozenset(_required(offer.tools)))

    async def call(self, ask: Ask, request: Request) -> bytes | ErrorObject:
        """A request to such a server; a tool that needs a task gets one.

        Args:
            ask: sends a request to the server.
            request: of the caller; its own ``task`` member means nothing here.

        Raises:
            MeshError: what ``ask`` raises; ``upstream`` for an answer that is no task.
        """
        if request.method != _TOOLS_CALL:
            return await ask(request)
        params = remove(request.params, "task")
        name = pick(params, "name").get("name")
        if name is None or msgspec.json.decode(name, type=str) not in self._required:
            return await ask(_with(request, _TOOLS_CALL, params))
        created = await ask(_with(request, _TOOLS_CALL, splice(params, {"task": b"{}"})))
        if isinstance(created, ErrorObject):
            return created
        try:
            task = _CREATED.decode(created).task
        except (msgspec.DecodeError, UnicodeDecodeError):
            if created.startswith(COMPLETE_HEAD) and b'"content"' in created:
                return created  # it had the result at once
            raise MeshError(
                ErrorKind.UPSTREAM, "the server made no task of the call", outcome=Outcome.EXECUTED
            ) from None
        about = b'{"taskId":%b}' % encode(task.task_id)
        try:
            answer = await ask(_with(request, "tasks/result", about))
        except BaseException:
            await _cancel(ask, request, about)
            raise
        return answer if isinstance(answer, ErrorObject) else _unrelated(answer)


def _required(tools: Iterable[CatalogTool]) -> Iterable[str]:
    for tool in tools:
        try:
            if _TOOL.decode(tool.definition).execution.task_support == "required":
                yield tool.name
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


def _with(request: Request, method: str, params: bytes) -> Request:
    if method != request.method:
        # What the caller declared and its progress token stay: the server may ask in mid-call.
        meta = pick(request.params, "_meta").get("_meta")
        if meta is not None:
            params = splice(params, {"_meta": bytes(meta)})
    return msgspec.structs.replace(request, method=method, params=msgspec.Raw(params))


async def _cancel(ask: Ask, request: Request, about: bytes) -> None:
    """Nobody waits for the task any more; the server may be gone as well."""
    own = msgspec.structs.replace(
        request,
        method="tasks/cancel",
        params=msgspec.Raw(about),
        timeout_s=CANCEL_S,
        notify=None,
        asks=None,
    )
    try:
        await ask(own)
    except MeshError:
        return


def _unrelated(answer: bytes) -> bytes:
    """The result without the server's own id of its task."""
    meta = pick(answer, "_meta").get("_meta")
    if meta is None:
        return answer
    kept = remove(meta, RELATED_TASK)
    return remove(answer, "_meta") if kept == b"{}" else splice(answer, {"_meta": kept})
