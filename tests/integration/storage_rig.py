"""A registry, a gateway and runners with the storage toolsets, and callers of two tenants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.config import LimitsConfig
from gateway.testing import Connect, Running, Surroundings, modern, running_gateway, surrounded
from mcp_proto.contracts.tenant_auth import Grant
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry.config import RegistryConfig
from registry.service import build as build_registry
from tool_runner.config import RunnerSection, StorageConfig, ToolRunnerConfig
from tool_runner.service import build as build_runner

__all__ = ["ACME", "OTHER", "STORING", "Caller", "Events", "StorageMesh", "storage_mesh"]

ACME, OTHER = "acme", "other"
STORING = frozenset(
    (
        "ReadKV",
        "WriteKV",
        "GetArtifacts",
        "PutArtifacts",
        "ListArtifacts",
        "SendEvents",
        "ReadEvents",
        "CallTools",
    )
)
TOOLS = frozenset(("kv_get", "artifacts_put", "events_send"))


class Events:
    """The messages of an open stream, one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self, timeout_s: float = 8.0) -> Any:
        async with asyncio.timeout(timeout_s):
            async for line in self._lines:
                if line.startswith("data: "):
                    return msgspec.json.decode(line[6:])
        return None


class Caller:
    """A principal of one tenant, over HTTP."""

    def __init__(self, client: httpx.AsyncClient, base: str, credential: str) -> None:
        self._client = client
        self._base = base
        self._auth = {"authorization": f"Bearer {credential}"}

    async def ask(
        self, method: str, meta: dict[str, object] | None = None, **params: object
    ) -> Any:
        """The whole JSON-RPC answer."""
        body, headers = modern(method, 1, meta=meta, **params)
        url = f"{self._base}/mcp"
        answer = await self._client.post(url, content=body, headers={**headers, **self._auth})
        return answer.json()

    async def call(self, tool: str, **arguments: object) -> Any:
        """The result object of a tool that worked, or failed as a tool."""
        answer = await self.ask("tools/call", name=tool, arguments=arguments)
        assert "result" in answer, answer
        return answer["result"]

    async def use(self, tool: str, **arguments: object) -> Any:
        """Structured content of a tool that worked."""
        result = await self.call(tool, **arguments)
        assert not result.get("isError"), result
        return result["structuredContent"]

    async def read(self, uri: str) -> Any:
        """Contents of a resource."""
        answer = await self.ask("resources/read", uri=uri)
        assert "result" in answer, answer
        return answer["result"]["contents"][0]

    @asynccontextmanager
    async def stream(
        self, method: str, meta: dict[str, object] | None = None, **params: object
    ) -> AsyncIterator[Events]:
        """A request answered by a stream."""
        body, headers = modern(method, 1, meta=meta, **params)
        async with (
            httpx.AsyncClient(timeout=30) as client,
            client.stream(
                "POST", f"{self._base}/mcp", content=body, headers={**headers, **self._auth}
            ) as response,
        ):
            yield Events(response)

    @asynccontextmanager
    async def watching(self, *uris: str) -> AsyncIterator[Events]:
        """A listen whose acknowledgement has come."""
        wanted = {"resourceSubscriptions": list(uris)}
        async with self.stream("subscriptions/listen", notifications=wanted) as events:
            first = await events.next()
            assert first["params"]["notifications"] == wanted, first
            yield events


class StorageMesh:
    """What a test holds."""

    def __init__(self, around: Surroundings, gateway: Running, connect: Connect) -> None:
        self.around = around
        self.gateway = gateway
        self.connect = connect
        self._client = httpx.AsyncClient(timeout=30)

    def caller(self, tenant: str, *permissions: str, allow: str = "*") -> Caller:
        """A principal of a tenant with these permissions, or all of storage."""
        granted = frozenset(permissions) or STORING
        credential = f"{tenant}-{'-'.join(sorted(granted))}-{allow.replace('*', 'x')}"
        grant = Grant(permissions=granted, allow=(allow,))
        self.around.allow(credential, grant, tenant=tenant, principal=f"{tenant}-user")
        return Caller(self._client, self.gateway.http, credential)

    async def close(self) -> None:
        """End the client."""
        await self._client.aclose()


@asynccontextmanager
async def storage_mesh(
    connect: Connect, directory: Path, *, runners: int = 1, storage: StorageConfig | None = None
) -> AsyncIterator[StorageMesh]:
    """Everything but the callers."""
    async with AsyncExitStack() as stack:
        around = await stack.enter_async_context(surrounded(connect, directory))
        await around.leave_calls()
        registry = RegistryConfig(service=ServiceSection(instance="registry-2"))
        bus = await connect("registry", "registry-2")
        await stack.enter_async_context(in_process(build_registry, registry, bus))
        limits = LimitsConfig(rate_per_second=1e6, burst=1_000_000)
        gateway = await stack.enter_async_context(running_gateway(around, connect, limits=limits))
        for number in range(2, 2 + runners):
            config = ToolRunnerConfig(
                service=ServiceSection(instance=f"runner-{number}", drain_s=4.0, accept_s=0.0),
                runner=RunnerSection(toolsets=("kv", "artifacts", "events", "echo")),
                storage=storage or StorageConfig(),
            )
            runner = await connect("tool-runner", config.service.instance)
            await stack.enter_async_context(in_process(build_runner, config, runner))
        mesh = StorageMesh(around, gateway, connect)
        caller = mesh.caller(ACME)

        async def there() -> bool:
            listed = (await caller.ask("tools/list"))["result"]["tools"]
            return {one["name"] for one in listed} >= TOOLS

        await eventually(there, timeout_s=15.0)
        try:
            yield mesh
        finally:
            with contextlib.suppress(httpx.HTTPError):
                await mesh.close()
