"""The tools of machines as they are listed."""

from collections.abc import Mapping

from mcp_proto.contracts.vm_spawner import ISOLATIONS
from mcp_proto.tool_spec import ToolSpec
from vm_spawner.handlers.admission import PERMISSION

__all__ = ["SPECS"]

Schema = Mapping[str, object]
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": ["number", "null"]}
_ID: Schema = {"type": "string", "description": "Id of the machine.", "maxLength": 64}
_ISOLATION: Schema = {"type": "string", "enum": list(ISOLATIONS)}
_MACHINE: Schema = {
    "type": "object",
    "properties": {
        "vmId": _ID,
        "status": {"type": "string", "description": "spawning, ready, draining, stopped …"},
        "state": _TEXT,
        "agent": _TEXT,
        "driver": _TEXT,
        "isolation": {"type": "string", "description": "The class that it got."},
        "limits": {"type": "string", "description": "What the host enforces."},
        "reason": {"type": ["string", "null"], "description": "Why it failed or ended."},
        "code": {"type": ["string", "null"]},
        "phase": {"type": ["string", "null"], "description": "Step that failed."},
        "host": _TEXT,
        "draining": {"type": "boolean", "description": "Its host ends soon, and it too."},
        "createdAt": {"type": ["string", "null"]},
        "readyAt": {"type": ["string", "null"]},
        "estimatedReadyTime": {"type": ["string", "null"]},
        "resources": {
            "type": "object",
            "properties": {
                "allocated": {"type": "boolean", "description": "The limits are enforced."},
                "cpu": {"type": "number"},
                "memory": {"type": "string"},
                "gpuDevice": {"type": "null"},
            },
        },
        "initialisationMetrics": {
            "type": "object",
            "properties": {"spawnTime": _NUMBER, "modelLoadTime": {"type": "null"}},
        },
        "timings": {"type": "object", "additionalProperties": _NUMBER},
        "usage": {"type": "object", "additionalProperties": _NUMBER},
    },
    "required": ["vmId", "status", "state"],
}


def _obj(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


SPECS: tuple[ToolSpec, ...] = (
    ToolSpec(
        name="vm_spawn",
        title="Start a machine",
        description="Starts a machine (sandbox, container or micro-VM) in which an agent runs that "
        "nobody needs to trust: no network but the mesh, no file of the host. Answers at once with "
        "its id; vm_status says when it is ready. What cannot be had (isolation, limits, a GPU) is "
        "refused with the reason and never given in part.",
        input_schema=_obj(
            {
                "agent": {
                    "type": "string",
                    "description": "Server name that the agent inside serves. Default: its id.",
                    "maxLength": 40,
                },
                "program": {"type": "string", "description": "A program of the host's file."},
                "image": {"type": "string", "description": "An image of the host's file."},
                "isolation": {
                    "description": "Class at least, or {min, driver}.",
                    "oneOf": [_ISOLATION, _obj({"min": _ISOLATION, "driver": _TEXT})],
                },
                "resources": _obj(
                    {
                        "cpuLimit": {"type": "string", "examples": ["2000m"], "maxLength": 32},
                        "memoryLimit": {"type": "string", "examples": ["4Gi"], "maxLength": 32},
                        "gpuAccess": {"type": "boolean"},
                    }
                ),
                "ttl": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "Longest life in seconds.",
                },
                "config": {
                    "type": "object",
                    "description": "For the program inside; never a secret.",
                },
            }
        ),
        output_schema=_MACHINE,
        permission=PERMISSION,
    ),
    ToolSpec(
        name="vm_list",
        title="List machines",
        description="Machines of the tenant, newest first.",
        input_schema=_obj(
            {
                "includeEnded": {"type": "boolean"},
                "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
            }
        ),
        output_schema=_obj(
            {
                "machines": {"type": "array", "items": _MACHINE},
                "count": {"type": "integer"},
                "more": {"type": "boolean"},
            },
            "machines",
        ),
        permission=PERMISSION,
        read_only=True,
        idempotent=True,
    ),
    ToolSpec(
        name="vm_status",
        title="Look at a machine",
        description="State of a machine, what it takes now, how long each step of its start took, "
        "and why it failed if it did. Numbers are measured; null means not known.",
        input_schema=_obj({"vmId": _ID}, "vmId"),
        output_schema=_MACHINE,
        permission=PERMISSION,
        read_only=True,
        idempotent=True,
    ),
    ToolSpec(
        name="vm_stop",
        title="Stop a machine",
        description="Lets the agent inside finish, then ends the machine; answers when it has "
        "ended. Nothing of it is left on the host.",
        input_schema=_obj(
            {
                "vmId": _ID,
                "grace": {"type": "number", "minimum": 0, "description": "Seconds to finish."},
            },
            "vmId",
        ),
        output_schema=_MACHINE,
        permission=PERMISSION,
        destructive=True,
        idempotent=True,
    ),
    ToolSpec(
        name="vm_logs",
        title="Read a machine's console",
        description="The last lines that a machine printed, at most 16 KiB.",
        input_schema=_obj(
            {"vmId": _ID, "lines": {"type": "integer", "minimum": 1, "maximum": 1000}}, "vmId"
        ),
        output_schema=_obj(
            {
                "vmId": _ID,
                "lines": {"type": "array", "items": _TEXT},
                "dropped": {"type": "integer", "description": "Bytes over the rate limit."},
                "live": {"type": "boolean"},
            },
            "lines",
        ),
        permission=PERMISSION,
        read_only=True,
        idempotent=True,
    ),
)
