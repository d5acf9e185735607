"""What a tool of the swarm is: how it is listed, and the function behind it.

A handler gets arguments that fit the listed schema and gives an ``Answer``; refusals are raised as
``core.refusals.Refusal``. ``dispatch`` checks, adds what every answer carries and makes the
``tools/call`` result, so a handler holds nothing but what its tool does.
"""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from mcp_proto.tool_spec import ToolSpec
from swarm_coordinator.core.records import SwarmRecord
from swarm_coordinator.handlers.ports import Caller, Owner, Swarms

__all__ = ["Answer", "AnywhereHandler", "FailedTask", "OwnerHandler", "Repeated", "Tool"]


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``structuredContent`` of a tool; what is not known is None and is said as ``null``.

    Attributes:
        warnings: what was asked for and not obeyed; ``dispatch`` adds unknown arguments.
        timestamp: Unix ms of the answer, put in by ``dispatch``.
    """

    warnings: tuple[str, ...] = ()
    timestamp: int = 0


class FailedTask(Exception):  # noqa: N818 - an answer, not a defect
    """A task that was waited for, or asked about, ended without a result.

    Attributes:
        error: ``structuredContent.error``.
    """

    def __init__(self, error: Mapping[str, object]) -> None:
        """As the class says."""
        super().__init__(str(error.get("message", "")))
        self.error = error


class Repeated(Exception):  # noqa: N818 - an answer, not a defect
    """What the call asks for was made before under its idempotency key.

    Attributes:
        swarm: whose owner answers the call, with ``Tool.on_owner``.
    """

    def __init__(self, swarm: SwarmRecord) -> None:
        """As the class says."""
        super().__init__(swarm.swarm)
        self.swarm = swarm


OwnerHandler = Callable[[Owner, Caller, msgspec.Raw], Awaitable[Answer]]
"""``handler(owner, caller, arguments)``: arguments are a JSON object that fits the schema.

Raises ``Refusal`` (an ``isError`` result) or ``MeshError``.
"""
AnywhereHandler = Callable[[Swarms, Caller, msgspec.Raw], Awaitable[Answer]]
"""The same for a tool that means no swarm that exists."""


class Tool(msgspec.Struct, frozen=True):
    """A tool and what it does: ``on_owner``, or ``anywhere``; a tool that makes something has both.

    With both, ``on_owner`` answers what ``anywhere`` found to be ``Repeated``.
    ``warns``: it names unknown arguments in its answer itself.
    """

    spec: ToolSpec
    on_owner: OwnerHandler | None = None
    anywhere: AnywhereHandler | None = None
    warns: bool = False
