"""``Manager`` without asyncio."""

from collections.abc import Mapping
from typing import Any, Self

from mesh_sdk.blocking.loop_thread import LoopThread
from mesh_sdk.client.requests import Arguments
from mesh_sdk.client.results import ToolResult
from mesh_sdk.manager import manager as waiting
from mesh_sdk.manager.health import ServerHealth
from mesh_sdk.manager.measured import ToolFigures

__all__ = ["Manager"]


class Manager:
    """A manager that waits. Arguments and errors: see ``mesh_sdk.Manager``.

    Safe to use from several threads, which is how many tools are called at once here.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._thread = LoopThread("mesh-manager")
        self._manager = waiting.Manager(options)

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def initialize(self) -> None:
        """See ``mesh_sdk.Manager.initialize``."""
        try:
            self._thread.run(self._manager.initialize())
        except BaseException:
            self._thread.stop()
            raise

    def deploy_server(self, server: Mapping[str, Any]) -> str:
        """See ``mesh_sdk.Manager.deploy_server``."""
        return self._thread.run(self._manager.deploy_server(server))

    def execute_tool(
        self, server: str, tool: str, params: Arguments | None = None, **options: Any
    ) -> ToolResult:
        """See ``mesh_sdk.Manager.execute_tool``; ctrl-C cancels the call in the mesh."""
        return self._thread.run(self._manager.execute_tool(server, tool, params, **options))

    def get_server_health(self, server: str) -> ServerHealth:
        """See ``mesh_sdk.Manager.get_server_health``."""
        return self._thread.run(self._manager.get_server_health(server))

    def shutdown_server(self, server: str) -> None:
        """See ``mesh_sdk.Manager.shutdown_server``."""
        self._thread.run(self._manager.shutdown_server(server))

    def metrics(self) -> dict[str, ToolFigures]:
        """See ``mesh_sdk.Manager.metrics``."""
        return self._manager.metrics()

    def shutdown(self) -> None:
        """See ``mesh_sdk.Manager.shutdown``; ends the thread."""
        try:
            self._thread.run(self._manager.shutdown())
        finally:
            self._thread.stop()
