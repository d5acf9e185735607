"""Pieces of JSON Schema of the swarm's tools: written out, because few clients follow ``$ref``."""

from collections.abc import Mapping

from swarm_coordinator.core import spec

__all__ = [
    "AGENT_CONFIG",
    "AGGREGATE",
    "CAPABILITIES",
    "CONFLICT",
    "COORDINATION",
    "CURSOR",
    "EQUALITY",
    "LIMIT",
    "LIST_DEFAULT",
    "LIST_MAX",
    "RETRY",
    "SHARE",
    "SWARM_ID",
    "VOTE",
    "Schema",
    "answer",
    "array",
    "choice",
    "nullable",
    "obj",
    "text",
    "whole",
]

Schema = Mapping[str, object]

LIST_MAX = 200
LIST_DEFAULT = 50
_ID_CHARS_MAX = 64
_CURSOR_CHARS_MAX = 512
_CAPABILITIES_MAX = 64
_CAPABILITY_CHARS_MAX = 64
_RUNTIMES = ("tool", "function", "command", "llm", "external", "synadia", "a2a", "vm", "container")


def obj(properties: Mapping[str, object], *required: str) -> dict[str, object]:
    """An object with these members; others are accepted, and ``dispatch`` warns of them."""
    schema: dict[str, object] = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    return schema


def answer(properties: Mapping[str, object], *optional: str) -> dict[str, object]:
    """``structuredContent``: these members, all there but the optional ones, and the usual two."""
    members = {
        **properties,
        "warnings": {"type": "array", "items": {"type": "string"}},
        "timestamp": {"type": "integer", "description": "Unix milliseconds of this answer."},
    }
    return obj(members, *(name for name in members if name not in optional))


def array(items: Schema, **more: object) -> dict[str, object]:
    """A list of these."""
    return {"type": "array", "items": items, **more}


def nullable(kind: str, description: str = "") -> dict[str, object]:
    """What may be unknown."""
    schema: dict[str, object] = {"type": [kind, "null"]}
    return {**schema, "description": description} if description else schema


def choice(*values: str) -> dict[str, object]:
    """One of these words."""
    return {"enum": list(values)}


def text(description: str = "", most: int = 0) -> dict[str, object]:
    """A string; ``most`` characters, 0 = as many as fit in a message."""
    schema: dict[str, object] = {"type": "string"}
    if most:
        schema["maxLength"] = most
    return {**schema, "description": description} if description else schema


def whole(least: int | None = None, most: int | None = None, **more: object) -> dict[str, object]:
    """A whole number between these."""
    schema: dict[str, object] = {"type": "integer"}
    if least is not None:
        schema["minimum"] = least
    if most is not None:
        schema["maximum"] = most
    return {**schema, **more}


SWARM_ID = text("Left out = your default swarm: the newest that lives.", _ID_CHARS_MAX)
CURSOR = text("From the last answer, to go on behind it.", _CURSOR_CHARS_MAX)
LIMIT = whole(1, LIST_MAX, default=LIST_DEFAULT)
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
CAPABILITIES = array(
    {"type": "string", "minLength": 1, "maxLength": _CAPABILITY_CHARS_MAX},
    maxItems=_CAPABILITIES_MAX,
)
VOTE = choice("majority", "weighted", "unanimous", "quorum", "threshold")
CONFLICT = choice("expert_priority", "coordinator_decides", "revote", "human", "fail")

_AGGREGATE_NAME = choice(*spec.AGGREGATES)
AGGREGATE: Schema = {
    "oneOf": [
        _AGGREGATE_NAME,
        obj(
            {
                "kind": _AGGREGATE_NAME,
                "pointer": text("JSON pointer into each output."),
                "onConflict": choice("error", "first", "last"),
                "tool": text(),
                "agent": text(),
            },
            "kind",
        ),
    ]
}

_EQUALITY_NAME = choice("json", "text", "numeric", "set", "pointer", "items", "judge")
EQUALITY: Schema = {
    "oneOf": [
        _EQUALITY_NAME,
        obj(
            {
                "kind": _EQUALITY_NAME,
                "absolute": {"type": "number"},
                "relative": {"type": "number"},
                "pointer": text(),
                "keys": array({"type": "string"}),
                "agent": text(),
            },
            "kind",
        ),
    ]
}

RETRY: Schema = {
    "oneOf": [
        choice("exponential_backoff", "none", "immediate", "fixed"),
        obj(
            {
                "maxAttempts": whole(1),
                "initialMs": whole(0),
                "factor": {"type": "number"},
                "maxMs": whole(0),
                "jitter": {"type": "number"},
                "nonRetryable": array({"type": "string"}),
            }
        ),
    ]
}

COORDINATION = obj(
    {
        "consensusThreshold": {**SHARE, "default": 0.7},
        "votingMechanism": VOTE,
        "conflictResolution": CONFLICT,
        "equality": EQUALITY,
        "electorate": {"description": "Rule class → capabilities of which a voter needs one."},
        "quorum": {**SHARE, "default": 0.5},
        "quorumSize": whole(1),
        "weights": choice("equal", "agent", "expertise", "record"),
    }
)

AGENT_CONFIG = obj(
    {
        "model": text(),
        "temperature": {"type": "number"},
        "maxTokens": whole(),
        "timeout": whole(1, description="Seconds for one attempt of a step."),
        "retryAttempts": whole(),
        "capabilities": CAPABILITIES,
        "runtime": choice(*_RUNTIMES),
        "tools": array({"type": "string"}),
        "command": array({"type": "string"}),
        "modelSource": text(),
    }
) | {"additionalProperties": True}  # an agent type may take more
