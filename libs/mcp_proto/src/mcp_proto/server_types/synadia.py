"""``settings`` of servers of type ``synadia``: agents of the Synadia Agent Protocol."""

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.subjects import PLATFORM

__all__ = ["SynadiaSettings", "synadia_problem"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")

Pattern = Annotated[str, Meta(min_length=1, max_length=400)]


class SynadiaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which agents become tools, and how long they may be silent.

    Attributes:
        owner: only agents of this owner; "" = of any. A tenant's own server has those of its
            tenant. With one owner a tool is named ``agent_session``, else
            ``agent_owner_session``.
        include: patterns (``*``, ``?``) of ``agent.owner.session``; one must match.
        exclude: likewise; none may match.
        quiet_s: an agent that says nothing for so long, in seconds, is given up.
        answer_bytes_max: longest answer, text and attachments together.
    """

    owner: str = ""
    include: Annotated[tuple[Pattern, ...], Meta(max_length=64)] = ("*",)
    exclude: Annotated[tuple[Pattern, ...], Meta(max_length=64)] = ()
    quiet_s: Annotated[float, Meta(gt=0, le=600)] = 60.0
    answer_bytes_max: Annotated[int, Meta(ge=1, le=8 * 1024 * 1024)] = 1024 * 1024


def synadia_problem(definition: ServerDefinition, settings: SynadiaSettings) -> str | None:
    """What does not fit together, as public text."""
    if settings.owner and _TOKEN.fullmatch(settings.owner) is None:
        return "owner is one token of a subject"
    own = definition.tenant != PLATFORM
    if own and settings.owner not in {"", definition.tenant}:
        return f"owner must be {definition.tenant}: a tenant's own server reaches its own agents"
    return None
