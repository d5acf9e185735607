"""The agent host's table of contents."""

from mesh_agents.config import AgentHostConfig, check_config
from mesh_agents.host.hosting import Hosting
from mesh_agents.host.kinds import Kinds
from mesh_agents.types import TYPES
from mesh_chassis.service import Service

__all__ = ["NAME", "build"]

NAME = "agent-host"


async def build(service: Service, config: AgentHostConfig) -> None:
    """Add every part to ``service``.

    Raises:
        ConfigError: what is allowed to run cannot.
    """
    check_config(config)
    hosting = Hosting(service, config, Kinds(config, TYPES))
    for endpoint in hosting.endpoints():
        service.add_endpoint(endpoint)
    service.on_start(hosting.open)
    service.on_drain(hosting.drain)
    service.on_stop(hosting.close)
    metrics = service.metrics
    metrics.ask("mesh_child_processes", lambda: float(hosting.children))
    metrics.ask("mesh_host_agents", lambda: float(len(hosting)))
    metrics.ask("mesh_host_attempts", lambda: float(hosting.residence.busy))
    metrics.ask("mesh_host_results_waiting", lambda: float(hosting.residence.waiting))
