"""An MCP server from an OCI image: a stdio server whose process is in a container."""

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import MeshError, Outcome
from mesh_chassis.children import Children
from tool_runner.core.askers import Askers
from tool_runner.upstreams.container_pipes import ContainerPipes
from tool_runner.upstreams.containers import LOST, Container
from tool_runner.upstreams.stdio import StdioSettings, StdioUpstream
from tool_runner.upstreams.upstream import Listener

__all__ = ["ContainerUpstream"]


class ContainerUpstream(StdioUpstream):
    """``Upstream`` over a container; see ``StdioUpstream``.

    Args:
        definition: has an ``image``.
        children: not used for it.
        listener: hears of changed lists.
        settings: bounds.
        trusted: the definition is the operator's own.
        legacy: the era is known to be legacy.
        askers: what is known of the server's habit to ask back, over all its lives.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        children: Children,
        listener: Listener,
        *,
        settings: StdioSettings,
        trusted: bool,
        legacy: bool = False,
        askers: Askers | None = None,
    ) -> None:
        super().__init__(
            definition,
            children,
            listener,
            settings=settings,
            trusted=trusted,
            legacy=legacy,
            askers=askers,
        )
        self._container = Container(definition, settings.containers, trusted=trusted)

    async def close(self) -> None:
        """See ``Upstream``."""
        try:
            await super().close()
        finally:
            await self._container.close()

    async def _spawn(self) -> None:
        container = self._running = self._container
        container.exited.add_done_callback(lambda status: self._exited(status.result()))
        pipes = self._pipes = ContainerPipes(
            self._definition.name,
            on_line=self.session.receive,
            on_too_long=self.session.receive_too_long,
            on_end=self._output_closed,
        )
        await container.start(pipes)

    def _too_slow(self) -> MeshError:
        if self._container.made:
            return super()._too_slow()
        return self._error(
            f"had no container within {self._start_timeout_s:.3g} s: "
            "its image may still be on its way, or the Docker engine hangs",
            Outcome.NOT_EXECUTED,
        )

    def _kill(self, grace_s: float = 0.0) -> None:
        self._container.kill(grace_s=grace_s)

    def _exited(self, status: int) -> None:
        if status == LOST:
            self._end("lost its container: the Docker engine is gone or gave it up")
            if self._pipes is not None:
                self._pipes.close()
        else:
            super()._exited(status)
