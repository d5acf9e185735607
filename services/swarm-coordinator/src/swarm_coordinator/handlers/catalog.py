"""Everything the coordinator offers: the catalogue entry of server ``swarm``."""

import msgspec

from mcp_proto.contracts.registry import Catalog
from mcp_proto.contracts.tasks import policies_of
from mcp_proto.names import SWARM_SERVER, SWARM_TOOLS
from mcp_proto.subjects import PLATFORM
from swarm_coordinator.handlers import agent_tools, memory, resources, swarm_tools, task_tools
from swarm_coordinator.handlers.toolset import Tool

__all__ = ["INSTRUCTIONS", "TASK_TOOLS", "TOOLS", "catalog"]

TOOLS: tuple[Tool, ...] = (
    *swarm_tools.TOOLS,
    *agent_tools.TOOLS,
    *task_tools.TOOLS,
    *memory.TOOLS,
)
"""In listing order."""

TASK_TOOLS = frozenset(("task_orchestrate", "agent_task"))
"""Tools that can run as an MCP task."""

INSTRUCTIONS = (
    "Swarms of agents: swarm_init starts one and makes it your default, agent_types says what "
    "agents there are, agent_spawn starts one, task_orchestrate gives the swarm a task and answers "
    "with its id at once, task_status and task_result follow it. Numbers are measured; null means "
    "not known."
)

_NAMES: frozenset[str] = frozenset(tool.spec.name for tool in TOOLS)
if _NAMES != SWARM_TOOLS:
    raise RuntimeError("the tools of the swarm are not those whose names are reserved")


def catalog(version: str) -> Catalog:
    """The catalogue entry, without its hash.

    Args:
        version: of the program.
    """
    policies = {tool.spec.name: "optional" for tool in TOOLS if tool.spec.name in TASK_TOOLS}
    return Catalog(
        tenant=PLATFORM,
        server=SWARM_SERVER,
        prefixed=False,
        tools=tuple(tool.spec.catalog_tool() for tool in TOOLS),
        resources=tuple(msgspec.Raw(msgspec.json.encode(one)) for one in resources.RESOURCES),
        resource_templates=tuple(
            msgspec.Raw(msgspec.json.encode(one)) for one in resources.TEMPLATES
        ),
        resource_permission=resources.PERMISSION,
        capabilities=msgspec.Raw(b'{"tools":{},"resources":{"subscribe":true}}'),
        server_info=msgspec.Raw(msgspec.json.encode({"name": "mesh-swarm", "version": version})),
        instructions=INSTRUCTIONS,
        tasks=policies_of("never", policies),
    )
