"""``[lists]`` of ``mesh.toml``: given to every gateway."""

from typing import Literal

import msgspec

__all__ = ["ListsTable"]


class ListsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[lists]``: what clients get for ``tools/list`` at ``/mcp``.

    Attributes:
        tools: ``full`` = every tool; ``search`` = ``tools_search``, ``tools_describe`` and
            ``tools_call`` only; ``both``.
    """

    tools: Literal["full", "search", "both"] = "full"
