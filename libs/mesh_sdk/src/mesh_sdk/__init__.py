"""Agents and clients of a mesh, in a few lines of Python."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh_sdk.agent import (
        Agent,
        Audio,
        Context,
        Elicited,
        Event,
        Image,
        Prompt,
        Resource,
        Sampled,
        Tool,
        ToolError,
        audit_log,
        auth_required,
        rate_limit,
    )
    from mesh_sdk.client import (
        Call,
        Client,
        ClientSettings,
        ElicitAnswer,
        Elicitation,
        LogMessage,
        MeshCallError,
        Progress,
        ResourceUpdated,
        Sampling,
        Task,
        ToolResult,
    )
    from mesh_sdk.manager import Manager
    from mesh_sdk.quick_start import quick_start_client, quick_start_server

__all__ = [
    "Agent",
    "Audio",
    "Call",
    "Client",
    "ClientSettings",
    "Context",
    "ElicitAnswer",
    "Elicitation",
    "Elicited",
    "Event",
    "Image",
    "LogMessage",
    "Manager",
    "MeshCallError",
    "Progress",
    "Prompt",
    "Resource",
    "ResourceUpdated",
    "Sampled",
    "Sampling",
    "Task",
    "Tool",
    "ToolError",
    "ToolResult",
    "audit_log",
    "auth_required",
    "quick_start_client",
    "quick_start_server",
    "rate_limit",
]

_AGENT = (
    "Agent", "Audio", "Context", "Elicited", "Event", "Image", "Prompt", "Resource", "Sampled",
    "Tool", "ToolError", "audit_log", "auth_required", "rate_limit",
)  # fmt: skip
_CLIENT = (
    "Call", "Client", "ClientSettings", "ElicitAnswer", "Elicitation", "LogMessage",
    "MeshCallError", "Progress", "ResourceUpdated", "Sampling", "Task", "ToolResult",
)  # fmt: skip
_PLACES: dict[str, str] = {
    **dict.fromkeys(_AGENT, "mesh_sdk.agent"),
    **dict.fromkeys(_CLIENT, "mesh_sdk.client"),
    **dict.fromkeys(("quick_start_client", "quick_start_server"), "mesh_sdk.quick_start"),
    "Manager": "mesh_sdk.manager",
}


def __getattr__(name: str) -> object:
    # A client needs nothing of an agent, the command line nothing of either: each is loaded when
    # it is asked for.
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'mesh_sdk' has no attribute {name!r}")
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value
