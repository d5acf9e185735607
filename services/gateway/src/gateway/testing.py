"""What surrounds a gateway, scripted: servers, catalogue, credentials. For tests only.

Real broker, real buckets, real frames; scripted are the answers. So a test decides when a server
is slow, silent or gone, and when a key is revoked, without starting three more services.
"""

import asyncio
import base64
import contextlib
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from gateway import service as gateway_service
from gateway.config import GatewayConfig, HttpConfig, KeysConfig, SecurityConfig, TcpConfig
from mcp_proto import buckets, catalogs, subjects
from mcp_proto.codec import encode_response
from mcp_proto.contracts import tenant_auth
from mcp_proto.contracts.registry import Catalog, CatalogTool
from mcp_proto.contracts.tenant_auth import Authenticate, Grant, Identity, KeyRecord
from mcp_proto.contracts.virtuals import VirtualRecord, VirtualServer
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.header_values import encode_value
from mcp_proto.methods import routing_member
from mcp_proto.subjects import QUEUE, ROOT
from mcp_proto.types.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION
from mcp_proto.versions import MODERN
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint, serve_operation
from mesh_chassis.bus.instance import InstanceEndpoint
from mesh_chassis.callerctx import KEK_BYTES, new_signing_key
from mesh_chassis.clock import now_ms
from mesh_chassis.config import ServiceSection
from mesh_chassis.sealing import new_sealing_key
from mesh_chassis.service import Service
from mesh_chassis.testing.in_process import in_process

__all__ = [
    "ADMIN",
    "DEMO_TENANT",
    "ENVELOPE",
    "JSON_HEADERS",
    "LineClient",
    "Running",
    "Script",
    "Surroundings",
    "modern",
    "running_gateway",
    "surrounded",
    "text_result",
    "tool",
]

Connect = Callable[..., Awaitable[Bus]]

ENVELOPE: dict[str, object] = {PROTOCOL_VERSION: MODERN.value, CLIENT_CAPABILITIES: {}}
JSON_HEADERS = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
}

DEMO_TENANT = "demo-tenant"
ADMIN = Grant(permissions=frozenset({"CallTools", "ReadKV", "WriteKV", "Manage"}), allow=("*",))

Script = Callable[[Call, dict[str, msgspec.Raw]], Awaitable[bytes]]
"""(call, params) → result object; ``MeshError`` becomes an error."""


def tool(name: str, *, permission: str = "", **members: object) -> CatalogTool:
    """A catalogue entry of a tool."""
    definition = {"name": name, "inputSchema": {"type": "object"}, **members}
    return CatalogTool(
        name=name, definition=msgspec.Raw(msgspec.json.encode(definition)), permission=permission
    )


def text_result(text: str, **structured: object) -> bytes:
    """A tool result as the bus carries it."""
    body: dict[str, object] = {
        "resultType": "complete",
        "content": [{"type": "text", "text": text}],
        "isError": False,
    }
    if structured:
        body["structuredContent"] = structured
    return msgspec.json.encode(body)


def modern(
    method: str,
    request_id: int | str = 1,
    *,
    meta: dict[str, object] | None = None,
    **params: object,
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a modern request over HTTP."""
    body = {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": method,
        "params": {**params, "_meta": {**ENVELOPE, **(meta or {})}},
    }
    headers = {
        **JSON_HEADERS,
        "mcp-protocol-version": MODERN.value,
        "mcp-method": method,
    }
    member = routing_member(method)
    if member is not None:
        headers["mcp-name"] = encode_value(str(params[member]))
    return msgspec.json.encode(body), headers


class LineClient:
    """A peer of the TCP edge that writes what it is told, valid or not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        """Connect to the edge on loopback."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**25))

    def send(self, message: object) -> None:
        """Write one message as a line; bytes go as they are."""
        data = message if isinstance(message, bytes) else msgspec.json.encode(message)
        self.writer.write(data + b"\n")

    async def receive(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """The next line."""
        async with asyncio.timeout(timeout_s):
            line = await self.reader.readline()
        if not line:
            raise EOFError
        return msgspec.json.decode(line)

    async def answer(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """The next line that answers a request; notifications in between are skipped."""
        while "id" not in (message := await self.receive(timeout_s)):
            pass
        return message

    async def ask(self, method: str, request_id: int | str = 1, params: object = None) -> Any:
        """One request and the next line, whatever it answers."""
        body = {"jsonrpc": "2.0", "id": request_id, "method": method}
        self.send(body if params is None else {**body, "params": params})
        return await self.receive()

    def reset(self) -> None:
        """Vanish without a word: the edge sees a reset, not the end of a half-closed stream."""
        own: socket.socket = self.writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the socket."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Surroundings:
    """Registry, tenant-auth and a runner, as far as a gateway can tell.

    Attributes:
        scripts: ``server:tool`` or ``server:method`` → what it does; ``runner-1:answer`` takes
            the repeats of parked calls.
        identities: credential → identity; "" is the demo principal.
        seen: every call that reached a server.
        asked: how often tenant-auth was asked.
    """

    def __init__(self, *, registry: Bus, auth: Bus, runner: Bus, directory: Path) -> None:
        self._registry = registry
        self._auth = auth
        self._runner = self.runner = runner
        self.kek_file = directory / "kek"
        self.scripts: dict[str, Script] = {}
        self.identities: dict[str, Identity] = {
            "": Identity(
                tenant=DEMO_TENANT,
                principal="user-demo-123",
                roles=("Admin",),
                grant=ADMIN,
                credential_id="demo",
            )
        }
        self.seen: list[Call] = []
        self.asked = 0
        self._endpoints: list[Endpoint] = []
        self.catalog: KV
        self.virtuals: KV
        self.config: KV

    async def start(self) -> None:
        """Make the buckets, a signing key, and serve."""
        kek = os.urandom(KEK_BYTES)
        self.kek_file.touch(mode=0o600)
        self.kek_file.write_text(base64.b64encode(kek).decode())
        for bucket in buckets.OF_PLATFORM:
            await KV.ensure(self._registry, bucket)
        self.catalog = KV.bind(self._registry, buckets.CATALOG)
        self.virtuals = KV.bind(self._registry, buckets.VIRTUALS)
        self.config = KV.bind(self._auth, buckets.CONFIG)
        keys = KV.bind(self._auth, buckets.KEYS)
        key = new_signing_key(kek, created_ms=now_ms(), use_from_ms=0)
        await keys.put(f"sign.{key.kid}", msgspec.json.encode(key))
        seal = new_sealing_key(kek, "k0000000001", created_ms=now_ms(), use_from_ms=0)
        await keys.put(f"seal.{seal.kid}", msgspec.json.encode(seal))
        self._endpoints = [
            serve_operation(self._auth, tenant_auth.authenticate, self._authenticate),
            *(
                Endpoint(
                    self._runner,
                    subject=f"{ROOT}.*.{kind}.>",
                    queue=QUEUE,
                    handler=self._serve,
                    slots=1_000,
                    name=kind,
                )
                for kind in ("call", "rpc")
            ),
            Endpoint(
                self._runner,
                subject=subjects.instance(subjects.ANY, self._runner.instance, "answer"),
                handler=self._serve,
                name="answer",
            ),
        ]
        for endpoint in self._endpoints:
            await endpoint.start()

    async def leave_calls(self) -> None:
        """Take no calls of servers any more: a real runner does."""
        own, self._endpoints = self._endpoints, self._endpoints[:1]
        for endpoint in own[1:]:
            await endpoint.drain(1.0)

    async def stop(self) -> None:
        """Serve no more."""
        for endpoint in self._endpoints:
            await endpoint.drain(1.0)

    async def put_server(
        self, server: str, *tools: CatalogTool, tenant: str = "_", **members: object
    ) -> None:
        """Write a catalogue as the registry does."""
        made = Catalog(tenant=tenant, server=server, tools=tools, **members)  # type: ignore[arg-type]
        made = msgspec.structs.replace(made, hash=catalogs.catalog_hash(made))
        stored = catalogs.encode_catalog(made)
        for key, part in stored.parts:
            await self.catalog.put(key, part)
        await self.catalog.put(stored.key, stored.head)

    async def put_virtual(self, definition: VirtualServer) -> None:
        """Write a virtual server as the registry does."""
        key = buckets.key(definition.tenant, definition.name)
        record = VirtualRecord(definition=definition)
        await self.virtuals.put(key, msgspec.json.encode(record))

    async def remove_virtual(self, name: str, *, tenant: str = "_") -> None:
        """Remove a virtual server."""
        await self.virtuals.purge(buckets.key(tenant, name))

    async def remove_server(self, server: str, *, tenant: str = "_") -> None:
        """Forget a catalogue."""
        await self.catalog.purge(catalogs.catalog_key(tenant, server))

    def park(self, park_id: str, *, tenant: str = DEMO_TENANT) -> asyncio.Event:
        """Hold a call under ``park_id`` as a runner does; the event is set once it is abandoned."""
        parked = _Parked()
        InstanceEndpoint.of(self._runner).add(tenant, park_id, parked)
        return parked.abandoned

    def allow(self, credential: str, grant: Grant = ADMIN, **members: object) -> None:
        """Make a credential good."""
        known: dict[str, object] = {
            "tenant": DEMO_TENANT,
            "principal": f"owner-of-{credential}",
            "roles": ("User",),
            "credential_id": f"key:{credential}",
        }
        self.identities[credential] = Identity(grant=grant, **{**known, **members})  # type: ignore[arg-type]

    async def revoke(self, credential: str) -> None:
        """Revoke a key as tenant-auth does: the record first, answers after it."""
        identity = self.identities.pop(credential)
        record = KeyRecord(
            id=credential,
            tenant=identity.tenant,
            principal=identity.principal,
            mac="",
            pepper="",
            revoked_ms=now_ms(),
        )
        await self.config.put(buckets.key("key", credential), msgspec.json.encode(record))

    async def _authenticate(self, params: Authenticate) -> Identity:
        self.asked += 1
        identity = self.identities.get(params.credential)
        if identity is None:
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the credential is not known")
        if params.tenant not in {"", identity.tenant}:
            raise MeshError(
                ErrorKind.DENIED, "not a tenant of this credential", data={"missing": params.tenant}
            )
        return identity

    async def _serve(self, call: Call) -> bytes:
        self.seen.append(call)
        message = msgspec.json.decode(call.payload, type=_Message)
        script = self.scripts.get(f"{call.subject.names[0]}:{_target(call)}")
        if script is None:
            raise MeshError(ErrorKind.PARAMS, "no script for this call")
        return encode_response(message.id, await script(call, message.params))

    async def called(self, count: int, *, timeout_s: float = 5.0) -> None:
        """Wait until so many calls have reached a server."""
        async with asyncio.timeout(timeout_s):
            while len(self.seen) < count:  # noqa: ASYNC110 - polls a list in a test
                await asyncio.sleep(0.005)


class _Parked:
    """A parked call, as far as its cancel goes."""

    def __init__(self) -> None:
        self.abandoned = asyncio.Event()

    def cancel_by_caller(self) -> None:
        self.abandoned.set()


class _Message(msgspec.Struct):
    id: str | int
    params: dict[str, msgspec.Raw] = {}


def _target(call: Call) -> str:
    if call.subject.kind.value in {"call", "inst"}:
        return call.subject.names[1]
    return call.subject.method


class Running:
    """A gateway in this process, with real sockets."""

    def __init__(self, service: Service, edges: gateway_service.Edges) -> None:
        self.service = service
        self.edges = edges

    @property
    def http(self) -> str:
        """Base URL of the HTTP edge."""
        return f"http://127.0.0.1:{self.edges.http_port}"

    @property
    def tcp(self) -> int:
        """Port of the TCP edge."""
        return self.edges.tcp_port


@asynccontextmanager
async def surrounded(connect: Connect, directory: Path) -> AsyncGenerator[Surroundings]:
    """The surroundings on a broker of their own; ``connect`` is the fixture ``connect_bus``."""
    parts = Surroundings(
        registry=await connect("registry", "registry-1"),
        auth=await connect("tenant-auth", "tenant-auth-1"),
        runner=await connect("tool-runner", "runner-1"),
        directory=directory,
    )
    await parts.start()
    try:
        yield parts
    finally:
        await parts.stop()


@asynccontextmanager
async def running_gateway(
    around: Surroundings, connect: Connect, instance: str = "gateway-1", **tables: object
) -> AsyncGenerator[Running]:
    """A gateway in development mode on free ports; ``tables`` replace configuration tables."""
    made: dict[str, object] = {
        "service": ServiceSection(instance=instance, drain_s=4.0),
        "http": HttpConfig(port=0),
        "tcp": TcpConfig(port=0),
        "security": SecurityConfig(development=True),
        "keys": KeysConfig(kek_file=str(around.kek_file)),
    }
    config = GatewayConfig(**{**made, **tables})  # type: ignore[arg-type]
    edges: list[gateway_service.Edges] = []

    async def build(service: Service, config: GatewayConfig) -> None:
        edges.append(await gateway_service.build_edges(service, config))

    bus = await connect("gateway", instance)
    async with in_process(build, config, bus) as service:
        yield Running(service, edges[0])
