"""The tools about memory as they are listed."""

from mcp_proto.limits import CURSOR_CHARS_MAX
from mcp_proto.tool_spec import ToolSpec
from swarm_coordinator.handlers.schemas import (
    CURSOR,
    LIMIT,
    SWARM_ID,
    answer,
    array,
    nullable,
    obj,
    text,
    whole,
)
from swarm_coordinator.store.memory import KEY_CHARS_MAX, NAMESPACE_CHARS_MAX, TTL_MAX_S

__all__ = ["MEMORY_DELETE", "MEMORY_LIST", "MEMORY_RETRIEVE", "MEMORY_STORE", "NAMESPACE"]

NAMESPACE = "default"
"""Where a value goes that names none."""

_KEY = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_CHARS_MAX,
    "description": "Any text.",
}
_NAMESPACE = {
    "type": "string",
    "minLength": 1,
    "maxLength": NAMESPACE_CHARS_MAX,
    "default": NAMESPACE,
    "description": "A room of its own for keys.",
}
_PLACE = {"key": _KEY, "namespace": _NAMESPACE, "swarmId": SWARM_ID}
_ECHO = {"key": text(), "namespace": text(), "swarmId": text()}

MEMORY_STORE = ToolSpec(
    name="memory_store",
    title="Remember a value",
    description="Keeps a JSON value of up to 1 MiB in the memory of the swarm, for all its agents "
    "and for you, until it is overwritten, deleted, expired or the swarm is destroyed. "
    "expectedRevision makes the write conditional: 0 = the key must not exist, else the revision "
    "that was read; otherwise the answer is the error resource/conflict with the stored revision.",
    input_schema=obj(
        {
            **_PLACE,
            "value": {"description": "Any JSON value."},
            "ttl": whole(
                1,
                TTL_MAX_S,
                description="Seconds until it is gone. Left out = the swarm's memoryTtl.",
            ),
            "expectedRevision": whole(0),
        },
        "key",
        "value",
    ),
    output_schema=answer(
        {
            "success": {"type": "boolean"},
            **_ECHO,
            "revision": whole(),
            "expiresAt": nullable("string", "ISO 8601; null = never."),
            "size": whole(description="Bytes of JSON."),
        }
    ),
    destructive=True,
    idempotent=True,
)

MEMORY_RETRIEVE = ToolSpec(
    name="memory_retrieve",
    title="Recall a value",
    description="The value of a key in the memory of the swarm, exactly as it was stored. found "
    "is false where there is none (any more).",
    input_schema=obj(_PLACE, "key"),
    output_schema=answer(
        {
            "found": {"type": "boolean"},
            **_ECHO,
            "value": {"description": "null where nothing was found."},
            "revision": nullable("integer"),
            "updatedAt": nullable("string", "ISO 8601."),
            "ttlRemaining": nullable("number", "Seconds; null = it does not expire."),
        }
    ),
    read_only=True,
    idempotent=True,
)

MEMORY_LIST = ToolSpec(
    name="memory_list",
    title="List what a swarm remembers",
    description="Keys of one namespace in the memory of the swarm, in order, by prefix.",
    input_schema=obj(
        {
            "namespace": _NAMESPACE,
            "prefix": text(most=KEY_CHARS_MAX),
            "limit": LIMIT,
            "cursor": {**CURSOR, "maxLength": CURSOR_CHARS_MAX},
            "swarmId": SWARM_ID,
        }
    ),
    output_schema=answer(
        {
            "keys": array({"type": "string"}),
            "count": whole(),
            "namespace": text(),
            "swarmId": text(),
            "cursor": text("To go on; left out at the end."),
        },
        "cursor",
    ),
    read_only=True,
    idempotent=True,
)

MEMORY_DELETE = ToolSpec(
    name="memory_delete",
    title="Forget a value",
    description="Removes a key from the memory of the swarm; deleted is false where there was "
    "none.",
    input_schema=obj(_PLACE, "key"),
    output_schema=answer({"deleted": {"type": "boolean"}, **_ECHO}),
    destructive=True,
    idempotent=True,
)
