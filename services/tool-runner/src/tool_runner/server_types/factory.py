"""Makes the server that a definition describes, of whatever type it is."""

from collections.abc import Callable, Mapping

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.server_types import CUSTOM
from mesh_chassis.children import Children
from tool_runner.core.askers import Askers
from tool_runner.server_types.command import CommandServer
from tool_runner.server_types.docker.server import DockerServer
from tool_runner.server_types.kubernetes.server import KubernetesServer
from tool_runner.server_types.openapi.server import OpenApiServer
from tool_runner.server_types.prometheus.server import PrometheusServer
from tool_runner.server_types.synadia import SynadiaServer
from tool_runner.server_types.tool_server import ToolServer
from tool_runner.server_types.wasm import WasmServer
from tool_runner.upstreams import factory as upstreams
from tool_runner.upstreams.factory import Life, NetworkSettings
from tool_runner.upstreams.oauth.access import Kept
from tool_runner.upstreams.stdio import StdioSettings
from tool_runner.upstreams.upstream import Listener
from tool_runner.upstreams.walls import Walls

__all__ = ["MAKERS", "Maker", "make"]

Maker = Callable[[ServerDefinition, NetworkSettings, bool], ToolServer]
"""``maker(definition, network, trusted)``; the definition passed ``server_problem``."""

MAKERS: Mapping[str, Maker] = {
    "docker": DockerServer,
    "kubernetes": KubernetesServer,
    "openapi": OpenApiServer,
    "wasm": WasmServer,
    "prometheus": PrometheusServer,
}
"""Every type but ``custom``, ``command`` and ``synadia``."""


def make(
    definition: ServerDefinition,
    children: Children,
    listener: Listener,
    *,
    stdio: StdioSettings,
    network: NetworkSettings,
    trusted: bool,
    legacy: bool = False,
    askers: Askers | None = None,
    kept: Kept | None = None,
) -> Life:
    """Make it; nothing is started or connected yet. Arguments as ``upstreams.factory.make``."""
    if definition.type == "command":
        walls = Walls(definition, children, stdio.sandbox, trusted=trusted)
        return CommandServer(definition, children, walls, limits=stdio.limits)
    if definition.type == "synadia":
        return SynadiaServer(definition, network, trusted, listener)
    if definition.type != CUSTOM:
        return MAKERS[definition.type](definition, network, trusted)
    return upstreams.make(
        definition,
        children,
        listener,
        stdio=stdio,
        network=network,
        trusted=trusted,
        legacy=legacy,
        askers=askers,
        kept=kept,
    )
