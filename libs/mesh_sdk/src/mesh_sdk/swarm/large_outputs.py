"""Outputs that no edge could give out whole become artifacts, and a link stands in their place.

The artifact is stored in the name of whoever submitted the task, under the tenant's quota, and
stays until it is deleted: other steps and the submitter read it by its URI, in ranges if they like.
"""

import msgspec

from mcp_proto.contracts.swarm import StepError, WorkItem, WorkResult
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.limits import STEP_OUTPUT_BYTES_MAX
from mesh_sdk.swarm.gateway import Gateway
from mesh_sdk.swarm.steps import StepFailedError

__all__ = ["deliverable"]

STORE_S = 60.0
UTF8_MAX = 4
"""Bytes of a character."""
JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"


class _Stored(msgspec.Struct, frozen=True):
    uri: str
    size: int


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    structured_content: _Stored | None = None
    is_error: bool = False
    content: msgspec.Raw = ABSENT


_ANSWER = msgspec.json.Decoder(_Answer)


async def deliverable(
    gateway: Gateway, tenant: str, item: WorkItem, result: WorkResult
) -> WorkResult:
    """The result of an attempt as the owner of the swarm takes it.

    Args:
        gateway: stores, as a tool call of the step.
        tenant: of the swarm.
        item: the attempt.
        result: as its body gave it.

    Returns:
        The same, or with a ``resource_link`` in the place of a large output, or the error that it
        could not be stored.
    """
    if result.status != "ok":
        return result
    structured = memoryview(result.structured).nbytes
    size = structured + len(result.text)
    if size > STEP_OUTPUT_BYTES_MAX // UTF8_MAX:
        size = structured + len(result.text.encode())
    if size <= STEP_OUTPUT_BYTES_MAX:
        return result
    body = bytes(result.structured).decode() if structured else result.text
    media_type = JSON_TYPE if structured else TEXT_TYPE
    key = f"swarm/{item.item}"
    try:
        stored = await _stored(gateway, tenant, item, key, body, media_type)
    except StepFailedError as error:
        message = f"the output has {size} bytes; above {STEP_OUTPUT_BYTES_MAX} it is stored as an"
        why = StepError(
            type="limit",
            message=f"{message} artifact, and that failed: {error.message}",
            retryable=error.retryable,
        )
        return msgspec.structs.replace(
            result, status="error", structured=ABSENT, text="", ballot=None, error=why
        )
    link = {
        "type": "resource_link",
        "uri": stored.uri,
        "name": key,
        "mimeType": media_type,
        "size": stored.size,
    }
    return msgspec.structs.replace(
        result,
        structured=msgspec.Raw(msgspec.json.encode(link)),
        text="",
        artifacts=(*result.artifacts, stored.uri),
    )


async def _stored(
    gateway: Gateway, tenant: str, item: WorkItem, key: str, body: str, media_type: str
) -> _Stored:
    arguments = {"key": key, "content": body, "contentType": media_type}
    params = msgspec.json.encode({"name": "artifacts_put", "arguments": arguments})
    raw = await gateway.request(tenant, item, "tools/call", msgspec.Raw(params), timeout_s=STORE_S)
    try:
        answer = _ANSWER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StepFailedError(f"the answer cannot be read: {error}", type="tool") from error
    if answer.is_error or answer.structured_content is None:
        said = bytes(answer.content).decode(errors="replace")[:300]
        raise StepFailedError(said or "no answer", type="tool", retryable=False)
    return answer.structured_content
