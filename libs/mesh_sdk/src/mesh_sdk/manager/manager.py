"""The manager of servers, as programs of earlier systems know it.

A deployed server is a definition at the registry, so it outlives gateways and runners, is seen by
every tool of the mesh and by every other manager. Only the operator may define one.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from mcp_proto.contracts import registry
from mcp_proto.contracts.registry import ServerDefinition, ServerPut, ServerRemove
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.config import ConfigError
from mesh_sdk.client.client import Client
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.requests import Arguments
from mesh_sdk.client.results import ToolResult
from mesh_sdk.client.transports.nats import BusSeat, NatsTransport
from mesh_sdk.connect import Found, find
from mesh_sdk.manager.deployment import definition_of, server_id, split_id
from mesh_sdk.manager.health import ServerHealth, health_of, row_of
from mesh_sdk.manager.measured import Measured, ToolFigures
from mesh_sdk.server_views import last_error

__all__ = ["Manager"]

_DEMO = "demo-tenant"
_LOOK_S = 0.1
_PROBE_AFTER_S = 1.0
_FAILURES_MAX = 4
"""Looks in a row that find a failed start: it will not come up while we wait."""


class _Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``Manager({...})`` takes.

    Attributes:
        max_concurrent_operations: calls at once; more wait.
        connection_timeout: longest connect, wait for a place and start of a server, in seconds.
        enable_metrics: keep figures per tool.
        operation_timeout: budget of a call, in seconds.
        keep_servers: servers deployed here stay after ``shutdown``.
        url: broker; "" = found as ``mesh_sdk.connect`` says.
        tenant: in whose name tools are called; "" = as found.
        key: credential of that caller; "" = as found.
    """

    max_concurrent_operations: int = 100
    connection_timeout: float = 30.0
    enable_metrics: bool = False
    operation_timeout: float = 30.0
    keep_servers: bool = False
    url: str = ""
    tenant: str = ""
    key: str = ""


class Manager:
    """Deploys servers and calls their tools.

    Args:
        options: ``max_concurrent_operations``, ``connection_timeout``, ``enable_metrics`` and
            the further members of ``_Options``; each has a default.

    Raises:
        MeshCallError: ``params``, naming the member.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        try:
            self._options = msgspec.convert(dict(options or {}), _Options)
        except msgspec.ValidationError as error:
            raise MeshCallError(ErrorKind.PARAMS, f"Manager: {error}") from None
        if self._options.max_concurrent_operations < 1 or self._options.connection_timeout <= 0:
            raise MeshCallError(
                ErrorKind.PARAMS,
                "Manager: max_concurrent_operations and connection_timeout must be positive",
            )
        self._places = asyncio.Semaphore(self._options.max_concurrent_operations)
        self._measured = Measured() if self._options.enable_metrics else None
        self._bus: Bus | None = None
        self._client: Client | None = None
        self._deployed: dict[str, ServerDefinition] = {}

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    async def initialize(self) -> None:
        """Connect to the mesh as its operator.

        Raises:
            MeshCallError: no operator's credential is at hand, or nobody answers.
        """
        if self._client is not None:
            return
        options = self._options
        try:
            found = find(options.url)
        except ConfigError as error:
            raise MeshCallError(ErrorKind.PARAMS, str(error)) from None
        bus = await self._connected(found)

        async def seat() -> BusSeat:
            return BusSeat(bus, owned=False)

        transport = NatsTransport(
            seat,
            tenant=options.tenant or found.tenant or _DEMO,
            key=options.key or found.key,
        )
        client = Client(transport=transport, timeout_s=options.operation_timeout)
        try:
            await client.open()
        except BaseException:
            await bus.close()
            raise
        self._bus, self._client = bus, client

    async def deploy_server(self, server: Mapping[str, Any]) -> str:
        """Define a server and wait until it serves.

        Args:
            server: ``name``; ``type`` (``custom``, ``docker``, ``kubernetes``, ``prometheus``,
                ``openapi``, ``command``, ``wasm``); ``port`` of a server that listens on this
                machine; ``max_connections`` = calls in flight to it; any member of
                ``ServerDefinition`` (``command``, ``args``, ``url``, ``timeout_s`` …); settings
                of the type. ``replace = True`` takes the place of one of this name.

        Returns:
            Its id, for the other methods.

        Raises:
            MeshCallError: ``params`` for a bad definition; ``upstream`` with the runner's reason
                when it does not come up within ``connection_timeout``: it is then removed again.
        """
        bus, _ = self._ready()
        definition = definition_of(server)
        replace = bool(server.get("replace", False))
        known = self._deployed.get(server_id(definition))
        put = ServerPut(definition=definition, replace=replace)
        await _asked(bus.operation(registry.server_put, put))
        try:
            await self._serving(definition)
        except BaseException:
            if known is None and not replace:
                await asyncio.shield(self._removed(definition.tenant, definition.name))
            raise
        made = server_id(definition)
        self._deployed[made] = definition
        return made

    async def execute_tool(
        self,
        server: str,
        tool: str,
        params: Arguments | None = None,
        *,
        timeout_s: float | None = None,
        idempotency_key: str = "",
    ) -> ToolResult:
        """Call a tool of a server; many at once with ``asyncio.gather``.

        Args:
            server: id or name, of any server of the mesh.
            tool: the server's own name of it.
            params: its arguments.
            timeout_s: budget; None = ``operation_timeout``.
            idempotency_key: as in ``Client.call_tool``.

        Raises:
            MeshCallError: as ``Client.call_tool``; ``overloaded`` when no place among the
                ``max_concurrent_operations`` became free within ``connection_timeout``.
        """
        _, client = self._ready()
        _, name = split_id(server)
        try:
            async with asyncio.timeout(self._options.connection_timeout):
                await self._places.acquire()
        except TimeoutError:
            raise MeshCallError(
                ErrorKind.OVERLOADED,
                f"{self._options.max_concurrent_operations} operations run already",
            ) from None
        began = time.perf_counter()
        failed = True
        try:
            result = await client.call_tool(
                name, tool, params, timeout_s=timeout_s, idempotency_key=idempotency_key
            )
            failed = result.is_error
            return result
        finally:
            self._places.release()
            if self._measured is not None:
                self._measured.note(f"{name}:{tool}", time.perf_counter() - began, failed=failed)

    async def get_server_health(self, server: str) -> ServerHealth:
        """How a server is.

        Raises:
            MeshCallError: ``not_found``: there is none of this id.
        """
        bus, _ = self._ready()
        tenant, name = split_id(server)
        return await _asked(health_of(bus, tenant, name, server))

    async def shutdown_server(self, server: str) -> None:
        """Stop a server and remove its definition; calls that run are ended by its runner.

        Raises:
            MeshCallError: ``not_found``: none of this id was added at run time.
        """
        bus, _ = self._ready()
        tenant, name = split_id(server)
        params = ServerRemove(name=name, tenant=tenant)
        await _asked(bus.operation(registry.server_remove, params))
        self._deployed.pop(server, None)

    def metrics(self) -> dict[str, ToolFigures]:
        """Figures by ``server:tool``; empty unless ``enable_metrics``."""
        return self._measured.figures() if self._measured is not None else {}

    async def shutdown(self) -> None:
        """Shut down the servers deployed here (unless ``keep_servers``) and disconnect."""
        bus, client = self._bus, self._client
        if bus is None or client is None:
            return
        try:
            if not self._options.keep_servers:
                deployed = [split_id(made) for made in self._deployed]
                await asyncio.gather(*(self._removed(*pair) for pair in deployed))
            self._deployed.clear()
        finally:
            self._bus = self._client = None
            await client.close()
            await bus.close()

    # Inside

    def _ready(self) -> tuple[Bus, Client]:
        if self._bus is None or self._client is None:
            raise MeshCallError(
                ErrorKind.LOST,
                "the manager is not initialized: await initialize() first",
                outcome=Outcome.NOT_EXECUTED,
            )
        return self._bus, self._client

    async def _connected(self, found: Found) -> Bus:
        seed = found.seed_file
        if not seed and found.state:
            path = Path(found.state) / "keys" / "operator.nk"
            seed = str(path) if path.is_file() else ""
        if not found.nats or not (seed or found.creds_file):
            raise MeshCallError(
                ErrorKind.UNAUTHENTICATED,
                "a Manager connects to the broker as the operator: run it in the folder of "
                "'mesh up', or give NATS_URL and MESH_NKEY_SEED",
            )
        config = BusConfig(
            urls=(found.nats,),
            nkey_seed_file=seed,
            creds_file=found.creds_file,
            tls_ca_file=found.ca_file,
            connect_timeout_s=self._options.connection_timeout,
        )
        instance = f"manager-{os.getpid()}-{secrets.token_hex(3)}"
        return await _asked(Bus.connect(config, service="operator", instance=instance))

    async def _serving(self, definition: ServerDefinition) -> None:
        """Wait until calls can reach a server.

        Raises:
            MeshCallError: ``upstream``, not executed, with the reason.
        """
        bus, client = self._ready()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._options.connection_timeout
        probe_at = loop.time() + _PROBE_AFTER_S
        why, failures = "no runner has started it yet", 0
        while loop.time() < until and failures < _FAILURES_MAX:
            row = await _asked(row_of(bus, definition.tenant, definition.name))
            if row is not None and row.state == "running" and row.hash:
                try:
                    await client.list_tools(definition.name)
                except MeshCallError as error:
                    why = f"the gateway does not list it yet: {error.message}"
                else:
                    return
            elif loop.time() >= probe_at:
                probe_at = loop.time() + _PROBE_AFTER_S
                trouble = await _asked(last_error(bus, definition.tenant, definition.name))
                why = trouble.words
                failures = failures + 1 if trouble.failed else 0
            await asyncio.sleep(_LOOK_S)
        raise MeshCallError(
            ErrorKind.UPSTREAM,
            f"server {definition.name} does not come up: {why}",
            data={"server": definition.name},
            outcome=Outcome.NOT_EXECUTED,
        )

    async def _removed(self, tenant: str, name: str) -> None:
        bus, _ = self._ready()
        try:
            await bus.operation(registry.server_remove, ServerRemove(name=name, tenant=tenant))
        except MeshError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise MeshCallError.of(error) from None


async def _asked(work: Any) -> Any:
    """Await an operation of the bus; its error as a caller knows it."""
    try:
        return await work
    except MeshError as error:
        raise MeshCallError.of(error) from None
