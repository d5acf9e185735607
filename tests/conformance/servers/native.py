"""The fixture that lives on the bus: no upstream process, no adapter, the modern dialect itself.

The forerunner of an agent on the SDK: one process with an endpoint per subject, its catalogue
registered like any other server's. ``python -m tests.conformance.servers.native --config FILE``
with the tables of every service and ``[fixture]``.
"""

import functools
from typing import Any

import msgspec
from tests.conformance.servers import behaviour, content
from tests.conformance.servers.content import Json

from mcp_proto import subjects
from mcp_proto.codec import encode_response
from mcp_proto.contracts.registry import Catalog, CatalogTool
from mcp_proto.contracts.watching import Updated, Verdict, read_asked
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import PLATFORM, QUEUE
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.bus.endpoint import Call as BusCall
from mesh_chassis.bus.endpoint import Endpoint
from mesh_chassis.config import LogConfig, OpsConfig, ServiceSection, TelemetryConfig
from mesh_chassis.presence import Presence
from mesh_chassis.registration import Registration
from mesh_chassis.runtime import run
from mesh_chassis.service import Service

NAME = "native"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_META = "io.modelcontextprotocol/"
_NEEDS = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
_encode = msgspec.json.encode
_CAPABILITIES: Json = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "completions": {},
    "logging": {},
}


class FixtureSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[fixture]``: server name, and whether its tools carry it as a prefix."""

    server: str = "native"
    prefixed: bool = True


class NativeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    service: ServiceSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    fixture: FixtureSection = FixtureSection()


class NativeCall:
    """A ``Call`` on a bus call."""

    modern = True
    refusal = behaviour.MissingCapabilityError

    def __init__(self, fixture: "NativeFixture", call: BusCall, params: Json) -> None:
        self._fixture = fixture
        self._call = call
        self._meta: Json = dict(params.get("_meta") or {})
        self.arguments: Json = dict(params.get("arguments") or {})
        self.capabilities: Json = dict(self._meta.get(f"{_META}clientCapabilities") or {})
        target = str(params.get("name", params.get("uri", "")))
        self._retry = behaviour.Retry(target, params)

    async def _notify(self, method: str, params: Json) -> None:
        await self._call.emit(_encode({"jsonrpc": "2.0", "method": method, "params": params}))

    async def progress(self, done: float, total: float) -> None:
        token = self._meta.get("progressToken")
        if token is not None:
            told = {"progressToken": token, "progress": done, "total": total}
            await self._notify("notifications/progress", told)

    async def log(self, words: str) -> None:
        level = self._meta.get(f"{_META}logLevel")
        if level in LEVELS and LEVELS.index(level) <= LEVELS.index("info"):
            params = {"level": "info", "logger": "fixture", "data": words}
            await self._notify("notifications/message", params)

    async def ask(self, requests: dict[str, Json], *, stateful: bool = False) -> dict[str, Json]:
        for request in requests.values():
            needed = _NEEDS[request["method"]]
            if needed not in self.capabilities:
                raise behaviour.MissingCapabilityError(needed)
        return self._retry.take(requests, stateful=stateful)

    async def changed(self, what: str) -> None:
        await self._fixture.change(what)

    async def close_stream(self) -> None:
        """The bus has no streams that could be closed in mid-call."""


class NativeFixture:
    """What is served, and how it changes."""

    def __init__(self, service: Service, config: FixtureSection) -> None:
        self._service = service
        self._config = config
        self._extra = {"tools": False, "prompts": False}
        self._version = 0
        self._subscribers: dict[str, set[str]] = {}
        self.registration = Registration(service.bus, functools.partial(_announce, service))

    def catalog(self) -> Catalog:
        """What is offered now."""
        tools = [*content.TOOLS, *([content.DYNAMIC_TOOL] if self._extra["tools"] else [])]
        prompts = [*content.PROMPTS, *([content.DYNAMIC_PROMPT] if self._extra["prompts"] else [])]
        return Catalog(
            tenant=PLATFORM,
            server=self._config.server,
            prefixed=self._config.prefixed,
            tools=tuple(
                CatalogTool(name=tool["name"], definition=msgspec.Raw(_encode(tool)))
                for tool in tools
            ),
            resources=tuple(msgspec.Raw(_encode(one)) for one in content.RESOURCES),
            resource_templates=tuple(msgspec.Raw(_encode(one)) for one in content.TEMPLATES),
            prompts=tuple(msgspec.Raw(_encode(one)) for one in prompts),
            capabilities=msgspec.Raw(_encode(_CAPABILITIES)),
            server_info=msgspec.Raw(_encode({"name": "native-fixture", "version": "1.0"})),
            instructions="The fixture on the bus.",
        )

    async def change(self, what: str) -> None:
        """Change something and tell whom it concerns."""
        if what != "resource":
            self._extra[what] = not self._extra[what]
            self.registration.offer(self.catalog())
            return
        self._version += 1
        if self._subscribers.get(content.UPDATED_URI):
            subject = subjects.event(PLATFORM, "updated", self._config.server)
            event = _encode(Updated(uri=content.UPDATED_URI))
            self._service.bus.client.send(subject, "", event, b"")

    async def handle(self, call: BusCall) -> bytes:
        """Any request of MCP.

        Raises:
            MeshError: as MCP wants it.
        """
        message = msgspec.json.decode(call.payload)
        params: Json = message.get("params") or {}
        serve = {
            "tools/call": self._tool,
            "prompts/get": self._prompt,
            "resources/read": self._read,
            "completion/complete": self._complete,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }.get(message["method"])
        if serve is None:
            raise MeshError(ErrorKind.METHOD, f"no method {message['method']}")
        try:
            result = await serve(call, params)
        except behaviour.InputRequiredError as wanted:
            result = wanted.result
        except behaviour.MissingCapabilityError as missing:
            data = {"requiredCapabilities": {missing.name: {}}}
            raise MeshError(ErrorKind.CAPABILITY, str(missing), data=data) from None
        except behaviour.WrongStateError as wrong:
            raise MeshError(ErrorKind.PARAMS, str(wrong)) from None
        return encode_response(message["id"], _encode({"resultType": "complete", **result}))

    async def _tool(self, call: BusCall, params: Json) -> Json:
        result = await behaviour.run(params["name"], NativeCall(self, call, params))
        if result is None:
            raise MeshError(ErrorKind.NOT_FOUND, f"unknown tool: {params['name']}")
        return result

    async def _prompt(self, call: BusCall, params: Json) -> Json:
        messages = await behaviour.ask_prompt(params["name"], NativeCall(self, call, params))
        if messages is None:
            raise MeshError(ErrorKind.NOT_FOUND, f"unknown prompt: {params['name']}")
        return {"messages": messages}

    async def _read(self, call: BusCall, params: Json) -> Json:
        found = content.resource(params["uri"], self._version)
        if found is None:
            data = {"uri": params["uri"]}
            raise MeshError(ErrorKind.NOT_FOUND, "Resource not found", data=data)
        return {"contents": [found], "ttlMs": 60_000, "cacheScope": "public"}

    async def _complete(self, call: BusCall, params: Json) -> Json:
        argument: Json = params["argument"]
        known = content.COMPLETIONS.get(argument["name"], [])
        values = [one for one in known if one.startswith(argument["value"])]
        return {"completion": {"values": values, "total": len(values), "hasMore": False}}

    async def _subscribe(self, call: BusCall, params: Json) -> Json:
        asked = read_asked(_encode(params), "")
        for uri in asked.uris:
            self._subscribers.setdefault(uri, set()).add(asked.subscriber)
        return msgspec.to_builtins(Verdict())

    async def _unsubscribe(self, call: BusCall, params: Json) -> Json:
        asked = read_asked(_encode(params), "")
        for uri in asked.uris:
            self._subscribers.get(uri, set()).discard(asked.subscriber)
        return {}


def _announce(service: Service, servers: dict[str, str]) -> None:
    if isinstance(service.presence, Presence):
        service.presence.set_servers(servers)


async def build(service: Service, config: NativeConfig) -> None:
    """Add the endpoints and the registration."""
    fixture = NativeFixture(service, config.fixture)
    server = config.fixture.server
    for subject in (
        subjects.call(subjects.ANY, server, subjects.ANY),
        subjects.rpc(subjects.ANY, server, subjects.REST),
    ):
        service.add_endpoint(
            Endpoint(service.bus, subject=subject, queue=QUEUE, handler=fixture.handle)
        )

    async def begin() -> None:
        fixture.registration.offer(fixture.catalog())
        service.tasks.spawn(fixture.registration.run(), name="registration", fatal=True)

    async def again() -> None:
        fixture.registration.repeat()

    service.on_ready(begin)
    service.bus.on_reconnect(again)


def main(arguments: Any = None) -> None:
    """Entry of the process."""
    run(build, NativeConfig, NAME, version="1.0", arguments=arguments)


if __name__ == "__main__":
    main()
