"""A call that waits for a task which asks: its client is asked, and repeats the call with answers.

Only a client that declared everything that is open is asked; for others the task waits for
``tasks/update``, and the call for its time. The state between the rounds is the id of the task.
"""

import msgspec

from mcp_proto.askable import can_be_asked
from mcp_proto.codec import pick
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import CLIENT_CAPABILITIES
from swarm_coordinator.core.state import TaskState
from swarm_coordinator.handlers.ports import Caller

__all__ = ["Asks", "Resumption", "asked_of", "asking_result", "client_of", "resumption_of"]

_encode = msgspec.json.Encoder().encode
_RESPONSES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STATE = msgspec.json.Decoder(str)


class Asks(Exception):  # noqa: N818 - an answer, not a defect
    """The call ends for now with questions to its client.

    Attributes:
        task: that waits for the answers.
        requests: open ones, by key.
    """

    def __init__(self, task: str, requests: dict[str, msgspec.Raw]) -> None:
        """As the class says."""
        super().__init__(f"{task} asks")
        self.task = task
        self.requests = requests


class Resumption(msgspec.Struct, frozen=True):
    """What a repeated call brings: whose questions they were, and the answers by key."""

    task: str
    responses: dict[str, msgspec.Raw]


def client_of(params: msgspec.Raw) -> msgspec.Raw:
    """``ClientCapabilities`` of a call whose client may be asked something; else empty."""
    data = bytes(params)
    if b'"elicitation"' not in data and b'"sampling"' not in data:
        return ABSENT
    meta = pick(params, "_meta").get("_meta")
    found = None if meta is None else pick(meta, CLIENT_CAPABILITIES).get(CLIENT_CAPABILITIES)
    return ABSENT if found is None else found


def asked_of(caller: Caller, task: TaskState) -> dict[str, msgspec.Raw]:
    """What the caller's client can be asked now; empty = nothing, or not all that is open."""
    if not task.requests or not memoryview(caller.client).nbytes:
        return {}
    still = {
        key: one.request for key, one in task.requests.items() if not memoryview(one.answer).nbytes
    }
    askable = all(can_be_asked(caller.client, request) for request in still.values())
    return still if askable else {}


def asking_result(asks: Asks) -> bytes:
    """The result of the call: ``input_required``."""
    requests = b",".join(_encode(key) + b":" + bytes(one) for key, one in asks.requests.items())
    return b'{"resultType":"input_required","requestState":%b,"inputRequests":{%b}}' % (
        _encode(asks.task),
        requests,
    )


def resumption_of(params: msgspec.Raw) -> Resumption | None:
    """What a call repeats; None = it is a first one.

    Raises:
        MeshError: ``params`` when it is malformed.
    """
    if b'"requestState"' not in bytes(params):
        return None
    found = pick(params, "requestState", "inputResponses")
    if "requestState" not in found:
        return None
    try:
        task = _STATE.decode(found["requestState"])
        responses = _RESPONSES.decode(found.get("inputResponses", msgspec.Raw(b"{}")))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARAMS, "requestState or inputResponses is malformed") from None
    return Resumption(task, responses)
