"""``sampling/createMessage``: a server asks the client's model. Relayed, never answered here."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import WithMeta

__all__ = [
    "CreateMessageParams",
    "CreateMessageResult",
    "ModelHint",
    "ModelPreferences",
    "SamplingMessage",
    "ToolChoice",
]


class ModelHint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Part of a model name."""

    name: str | None = None


class ModelPreferences(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """What matters to the server; priorities from 0 to 1."""

    hints: tuple[ModelHint, ...] | None = None
    cost_priority: float | None = None
    speed_priority: float | None = None
    intelligence_priority: float | None = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``mode``: ``auto``, ``required`` or ``none``. Since 2025-11-25."""

    mode: str | None = None


class SamplingMessage(WithMeta, frozen=True, kw_only=True):
    """One message; ``content`` is a block or, since 2025-11-25, an array of them."""

    role: str
    content: msgspec.Raw


class CreateMessageParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``sampling/createMessage``; ``include_context`` is deprecated."""

    messages: tuple[SamplingMessage, ...]
    max_tokens: int
    model_preferences: ModelPreferences | None = None
    system_prompt: str | None = None
    include_context: str | None = None
    temperature: float | None = None
    stop_sequences: tuple[str, ...] | None = None
    metadata: msgspec.Raw = ABSENT
    tools: tuple[msgspec.Raw, ...] | None = None
    tool_choice: ToolChoice | None = None
    task: msgspec.Raw = ABSENT


class CreateMessageResult(WithMeta, frozen=True, kw_only=True):
    """The client's answer; ``content`` as in ``SamplingMessage``."""

    role: str
    content: msgspec.Raw
    model: str
    stop_reason: str | None = None
