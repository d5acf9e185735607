"""Contract between replicas of the coordinator: calls forwarded to the owner of a swarm."""

from typing import Literal

import msgspec

from mcp_proto.jsonrpc import ABSENT

__all__ = ["OwnerCall", "TaskReached"]


class OwnerCall(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A tool call or resource read that another replica received, for the owner to answer.

    Attributes:
        kind: ``tool``, ``read`` (resource), ``task-create``, ``task-update``, ``task-cancel``
            (``contracts.tasks``), ``task-resume`` (a repeated call with answers: ``TaskUpdate``)
            or ``ping``.
        name: tool, or URI.
        principal: who asks, checked by the replica that received it.
        context: the caller's ``Mesh-Ctx``.
        body: params of the call as they came; ``ABSENT`` = none.
        request: ``Mesh-Req`` of the call.
        timeout_ms: what is left for it.
        progress: wanted: frames with ``TaskReached`` come before the answer.
        client: ``ClientCapabilities`` of who waits, if it can be asked something; else ``ABSENT``.
    """

    kind: Literal[
        "tool", "read", "task-create", "task-update", "task-cancel", "task-resume", "ping"
    ]
    name: str = ""
    principal: str = ""
    context: str = ""
    body: msgspec.Raw = ABSENT
    request: str = ""
    timeout_ms: int = 0
    progress: bool = False
    client: msgspec.Raw = ABSENT


class TaskReached(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How far a task is: steps that ended and the told shares of those that run, of ``total``.

    ``total`` None = not known yet; ``message`` is public text.
    """

    progress: float
    total: float | None = None
    message: str = ""
