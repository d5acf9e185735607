"""``Manager``: deploy servers, call their tools, ask for their health, shut them down."""

from mesh_sdk.manager.deployment import definition_of
from mesh_sdk.manager.health import ServerHealth
from mesh_sdk.manager.manager import Manager
from mesh_sdk.manager.measured import ToolFigures

__all__ = ["Manager", "ServerHealth", "ToolFigures", "definition_of"]
