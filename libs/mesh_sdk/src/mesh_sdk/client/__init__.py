"""Clients of a mesh: ``Client`` and what its methods give and take."""

from mesh_sdk.client.client import Client
from mesh_sdk.client.errors import ErrorKind, MeshCallError, Outcome
from mesh_sdk.client.inputs import ElicitAnswer, Elicitation, Sampling
from mesh_sdk.client.listening import Listening
from mesh_sdk.client.results import (
    Completion,
    ListChanged,
    LogMessage,
    Progress,
    PromptInfo,
    PromptResult,
    ResourceContents,
    ResourceInfo,
    ResourceUpdated,
    ToolInfo,
    ToolResult,
)
from mesh_sdk.client.settings import ClientSettings
from mesh_sdk.client.streaming import ToolStream
from mesh_sdk.client.tasks import Task, TaskStatus
from mesh_sdk.client.tools import Call

__all__ = [
    "Call",
    "Client",
    "ClientSettings",
    "Completion",
    "ElicitAnswer",
    "Elicitation",
    "ErrorKind",
    "ListChanged",
    "Listening",
    "LogMessage",
    "MeshCallError",
    "Outcome",
    "Progress",
    "PromptInfo",
    "PromptResult",
    "ResourceContents",
    "ResourceInfo",
    "ResourceUpdated",
    "Sampling",
    "Task",
    "TaskStatus",
    "ToolInfo",
    "ToolResult",
    "ToolStream",
]
