"""What a worker is told beside its agent's own settings."""

import msgspec

from mcp_proto.agent_runtimes import ModelEntry

__all__ = ["ModelSource"]


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where an agent's model is: the entry, and the token from its file."""

    entry: ModelEntry
    key: str = ""
