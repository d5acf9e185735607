"""What steps ask of the mesh: tools, in the name of whoever submitted the task.

The work item brings a signed context of the submitter, so a step may do what its submitter may.
When a step ends, what it still asks for is cancelled at the mesh.
"""

from collections.abc import Callable

import msgspec

from mcp_proto import subjects
from mcp_proto.codec import encode, encode_request, pick, splice
from mcp_proto.contracts.swarm import WorkItem
from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.endpoints import EndpointEnvelope
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.jsonrpc import ABSENT
from mesh_chassis.bus.connection import Bus
from mesh_sdk.swarm.steps import StepFailedError

__all__ = ["Gateway", "Heard"]

Heard = Callable[[float, float | None, str], None]
"""Takes how far a tool is: progress, total (None = unknown) and a message; must not block."""

METHODS = frozenset({"tools/call", "tools/list"})
"""What a step may ask for."""

_FINAL = frozenset(
    {
        ErrorKind.PARAMS,
        ErrorKind.DENIED,
        ErrorKind.NOT_FOUND,
        ErrorKind.UNAUTHENTICATED,
        ErrorKind.CAPABILITY,
        ErrorKind.METHOD,
        ErrorKind.REQUEST,
        ErrorKind.TOO_LARGE,
    }
)
"""Refusals that a second attempt meets again."""

_PLAIN = EnvelopeStamp()
_ASKING = EnvelopeStamp(capabilities=b'{"elicitation":{"form":{},"url":{}},"sampling":{}}')


class _Answer(msgspec.Struct, frozen=True):
    result: msgspec.Raw = ABSENT
    error: ErrorObject | None = None


class _Progress(msgspec.Struct, frozen=True):
    progress: float
    total: float | None = None
    message: str | None = None


class _Notice(msgspec.Struct, frozen=True):
    method: str
    params: msgspec.Raw = ABSENT


_ANSWER = msgspec.json.Decoder(_Answer)
_NOTICE = msgspec.json.Decoder(_Notice)
_PROGRESS = msgspec.json.Decoder(_Progress)


class Gateway:
    """The mesh as steps see it.

    Args:
        bus: of the host.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def request(
        self,
        tenant: str,
        item: WorkItem,
        method: str,
        params: msgspec.Raw,
        *,
        timeout_s: float,
        questions: bool = False,
        progress: Heard | None = None,
    ) -> msgspec.Raw:
        """One MCP request; cancelled, it is cancelled at the mesh.

        Args:
            tenant: of the swarm.
            item: of the step that asks.
            method: one of ``METHODS``.
            params: its params.
            timeout_s: seconds.
            questions: a tool may ask back.
            progress: takes what the tool tells of its progress; None = not wanted.

        Raises:
            StepFailedError: type ``tool``.
        """
        stamped = (_ASKING if questions else _PLAIN).stamp(params)
        try:
            if method not in METHODS:
                raise MeshError(ErrorKind.METHOD, f"a step cannot ask for {method}")
            return await self._keyed(tenant, item, method, stamped, timeout_s, progress)
        except MeshError as error:
            raise StepFailedError(
                error.message,
                type="tool",
                retryable=error.kind not in _FINAL,
                outcome=error.outcome.value,
            ) from error

    async def _keyed(
        self,
        tenant: str,
        item: WorkItem,
        method: str,
        params: bytes,
        timeout_s: float,
        progress: Heard | None,
    ) -> msgspec.Raw:
        """With the step's idempotency key where it must not run twice."""
        key = item.idempotency
        if item.idempotent or not key or method != "tools/call":
            return await self._request(tenant, item, method, params, timeout_s, progress)
        meta = splice(bytes(pick(params, "_meta")["_meta"]), {IDEMPOTENCY_KEY: encode(key)})
        try:
            keyed = splice(params, {"_meta": meta})
            return await self._request(tenant, item, method, keyed, timeout_s, progress)
        except MeshError as error:
            if error.kind is not ErrorKind.PARAMS or error.data.get("member") != IDEMPOTENCY_KEY:
                raise
        # A server that keeps no records of keys; it has not begun.
        return await self._request(tenant, item, method, params, timeout_s, progress)

    async def _request(
        self,
        tenant: str,
        item: WorkItem,
        method: str,
        params: bytes,
        timeout_s: float,
        progress: Heard | None,
    ) -> msgspec.Raw:
        bus = self._bus
        request_id = bus.new_request_id()
        if progress is not None:
            meta = splice(bytes(pick(params, "_meta")["_meta"]), {_TOKEN: encode(request_id)})
            params = splice(params, {"_meta": meta})
        body = await bus.call(
            subjects.gateway(tenant, method),
            encode_request(method, request_id, params),
            envelope=EndpointEnvelope(
                method=method, request_id=request_id, context=item.context, endpoint=""
            ),
            timeout_s=timeout_s,
            tenant=tenant,
            on_frame=None if progress is None else _hearing(progress),
        )
        try:
            answer = _ANSWER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MeshError(ErrorKind.UPSTREAM, "the answer cannot be read") from None
        if answer.error is not None:
            raise MeshError.from_object(answer.error)
        return answer.result


_TOKEN = "progressToken"  # noqa: S105 - a member name


def _hearing(heard: Heard) -> Callable[[bytes], None]:
    def take(notice: bytes) -> None:
        try:
            told = _NOTICE.decode(notice)
            if told.method != "notifications/progress":
                return
            said = _PROGRESS.decode(told.params)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # a step does not fail for what is only told
        heard(said.progress, said.total, said.message or "")

    return take
