"""Multi-round-trip requests (modern): a result that asks, in place of a server's own request."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.paging import Result

__all__ = ["InputRequest", "InputRequiredResult"]


class InputRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question: ``elicitation/create``, ``sampling/createMessage`` or ``roots/list``."""

    method: str
    params: msgspec.Raw = ABSENT


class InputRequiredResult(Result, frozen=True, kw_only=True):
    """The call goes on once it is repeated with answers under the same keys.

    ``result_type`` is ``paging.INPUT_REQUIRED``. At least one of the two other members is
    present; ``request_state`` goes back unchanged.
    """

    input_requests: dict[str, InputRequest] | None = None
    request_state: str | None = None
