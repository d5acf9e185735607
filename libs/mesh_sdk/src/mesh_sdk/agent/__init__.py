"""Agents: tools, resources and prompts served natively on the bus."""

from mesh_sdk.agent.app import Agent
from mesh_sdk.agent.context import Context, Elicited, Memory, Sampled
from mesh_sdk.agent.errors import ToolError
from mesh_sdk.agent.middleware import Middleware, audit_log, auth_required, rate_limit
from mesh_sdk.agent.offers import Prompt, Resource, Tool
from mesh_sdk.agent.process import Live
from mesh_sdk.agent.results import Audio, Image
from mesh_sdk.agent.topics import Event

__all__ = [
    "Agent",
    "Audio",
    "Context",
    "Elicited",
    "Event",
    "Image",
    "Live",
    "Memory",
    "Middleware",
    "Prompt",
    "Resource",
    "Sampled",
    "Tool",
    "ToolError",
    "audit_log",
    "auth_required",
    "rate_limit",
]
