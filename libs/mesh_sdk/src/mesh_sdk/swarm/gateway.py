"""What steps ask of the mesh: tools, in the name of whoever submitted the task.

The work item brings a signed context of the submitter, so a step may do what its submitter may.
When a step ends, what it still asks for is cancelled at the mesh.
"""

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

__all__ = ["Gateway"]

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


_ANSWER = msgspec.json.Decoder(_Answer)


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
    ) -> msgspec.Raw:
        """One MCP request; cancelled, it is cancelled at the mesh.

        Args:
            tenant: of the swarm.
            item: of the step that asks.
            method: one of ``METHODS``.
            params: its params.
            timeout_s: seconds.
            questions: a tool may ask back.

        Raises:
            StepFailedError: type ``tool``.
        """
        stamped = (_ASKING if questions else _PLAIN).stamp(params)
        try:
            if method not in METHODS:
                raise MeshError(ErrorKind.METHOD, f"a step cannot ask for {method}")
            return await self._keyed(tenant, item, method, stamped, timeout_s)
        except MeshError as error:
            raise StepFailedError(
                error.message,
                type="tool",
                retryable=error.kind not in _FINAL,
                outcome=error.outcome.value,
            ) from error

    async def _keyed(
        self, tenant: str, item: WorkItem, method: str, params: bytes, timeout_s: float
    ) -> msgspec.Raw:
        """With the step's idempotency key where it must not run twice."""
        key = item.idempotency
        if item.idempotent or not key or method != "tools/call":
            return await self._request(tenant, item, method, params, timeout_s)
        meta = splice(bytes(pick(params, "_meta")["_meta"]), {IDEMPOTENCY_KEY: encode(key)})
        try:
            keyed = splice(params, {"_meta": meta})
            return await self._request(tenant, item, method, keyed, timeout_s)
        except MeshError as error:
            if error.kind is not ErrorKind.PARAMS or error.data.get("member") != IDEMPOTENCY_KEY:
                raise
        # A server that keeps no records of keys; it has not begun.
        return await self._request(tenant, item, method, params, timeout_s)

    async def _request(
        self, tenant: str, item: WorkItem, method: str, params: bytes, timeout_s: float
    ) -> msgspec.Raw:
        bus = self._bus
        request_id = bus.new_request_id()
        body = await bus.call(
            subjects.gateway(tenant, method),
            encode_request(method, request_id, params),
            envelope=EndpointEnvelope(
                method=method, request_id=request_id, context=item.context, endpoint=""
            ),
            timeout_s=timeout_s,
            tenant=tenant,
        )
        try:
            answer = _ANSWER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MeshError(ErrorKind.UPSTREAM, "the answer cannot be read") from None
        if answer.error is not None:
            raise MeshError.from_object(answer.error)
        return answer.result
