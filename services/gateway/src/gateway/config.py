"""Configuration of the gateway: one strict Struct, every limit with its default and unit."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.core.search_tools import ToolsMode
from mcp_proto import limits
from mcp_proto.agent_protocol import AgentName
from mcp_proto.endpoints import is_endpoint, metrics_path_problem
from mcp_proto.session import IDLE_MS
from mesh_chassis.addresses import is_loopback
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.config import (
    ConfigError,
    LogConfig,
    OpsConfig,
    ServiceSection,
    TelemetryConfig,
)
from mesh_chassis.secret_references import REFERENCE

__all__ = [
    "ExposedAgent",
    "GatewayConfig",
    "HttpConfig",
    "KeysConfig",
    "LimitsConfig",
    "ListsConfig",
    "MetricsConfig",
    "SecurityConfig",
    "ServerConfig",
    "SynadiaConfig",
    "TcpConfig",
    "VerifierConfig",
    "check_config",
    "is_loopback",
]

_FOREIGN = re.compile(r"[^a-z0-9-]")

Port = Annotated[int, Meta(ge=-1, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[http]``.

    Attributes:
        host: address to listen on.
        port: 0 = any free port, -1 = no HTTP edge.
        allowed_hosts: names accepted in ``Host`` (``name`` or ``name:port``), beside ``host`` and,
            on a loopback listener, the loopback names.
        allowed_origins: origins accepted in ``Origin``, beside the gateway's own.
        cors_origins: origins of browser clients; accepted, and answered with CORS headers.
        tls_cert_file: PEM certificate chain; "" = plain HTTP.
        tls_key_file: its PEM key.
    """

    host: str = "127.0.0.1"
    port: Port = 3000
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    tls_cert_file: str = ""
    tls_key_file: str = ""


class TcpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[tcp]``: newline-delimited JSON-RPC; ``port`` as in ``[http]``.

    ``endpoint`` is what this listener serves: "" = everything, ``u/<server>``, ``v/<virtual>``.
    """

    host: str = "127.0.0.1"
    port: Port = 9500
    tls_cert_file: str = ""
    tls_key_file: str = ""
    reuse_port: bool = False
    """Several gateways of one machine share the port (rolling restart without a gap)."""
    endpoint: str = ""


class SecurityConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[security]``.

    Attributes:
        development: a caller without credential is the demo principal; only with loopback
            listeners, else the gateway does not start.
        auth_required: ask for a credential in development too.
    """

    development: bool = False
    auth_required: bool = False

    @property
    def open_to_demo(self) -> bool:
        """Whether a caller without credential gets the demo identity."""
        return self.development and not self.auth_required


class KeysConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[keys]``.

    Attributes:
        kek_file: file that opens the sealed signing keys of ``mesh_keys``; tenant-auth has the
            same.
    """

    kek_file: str = ""


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[limits]``; per connection unless said otherwise.

    Attributes:
        rate_per_second: requests per second.
        burst: requests at once before the rate counts.
        inflight: requests running.
        inflight_edge: requests running on one edge.
        connections: connections of one edge.
        connections_per_source: of them from one address.
        principal_share: part of ``connections`` that one principal may have open at once; an event
            stream is a connection. One connection is never refused.
        tenant_share: the same of one tenant.
        call_timeout_s: budget of ``tools/call`` when the caller names none.
        call_timeout_max_s: largest budget a caller may ask for.
        list_timeout_s: budget of other requests that reach a server.
        input_s: answer of a legacy client to what a server asks it in mid-call; below the time
            that a runner holds such a call.
        header_s: HTTP header block complete after.
        body_s: HTTP body complete after.
        first_byte_s: TCP: first byte after connect.
        line_s: TCP: a started line complete after.
        idle_s: TCP connection without traffic or calls, HTTP connection between requests.
        session_idle_s: session of an old HTTP client without requests or open stream; the same
            at every gateway. Below 60 s an open stream alone does not keep it.
        bus_slots: requests running that came over ``gw`` subjects, for the process.
    """

    rate_per_second: Annotated[float, Meta(gt=0)] = 100.0
    burst: Count = 100
    inflight: Count = 64
    inflight_edge: Count = 2_000
    connections: Count = 2_000
    connections_per_source: Count = 64
    principal_share: Share = 0.5
    tenant_share: Share = 0.75
    call_timeout_s: Seconds = limits.CALL_TIMEOUT_S
    call_timeout_max_s: Seconds = limits.CALL_TIMEOUT_MAX_S
    list_timeout_s: Seconds = limits.LIST_TIMEOUT_S
    input_s: Annotated[float, Meta(gt=0, le=580)] = limits.INPUT_S
    header_s: Seconds = 5.0
    body_s: Seconds = 30.0
    first_byte_s: Seconds = 10.0
    line_s: Seconds = 30.0
    idle_s: Seconds = 300.0
    session_idle_s: Annotated[float, Meta(ge=1)] = IDLE_MS / 1000
    bus_slots: Count = 1_024


class ListsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[lists]``.

    Attributes:
        page_size: entries per page.
        ttl_ms: how long clients may keep a list without asking; 0 = ask each time.
        tools: ``full`` = every tool is listed; ``search`` = only ``tools_search``,
            ``tools_describe`` and ``tools_call``; ``both``. Virtual servers choose for themselves,
            and an endpoint of one server lists all it has.
    """

    page_size: Annotated[int, Meta(ge=1, le=2_000)] = 500
    ttl_ms: Annotated[int, Meta(ge=0)] = 0
    tools: ToolsMode = ToolsMode.FULL


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[metrics]``: Prometheus metrics on the HTTP edge.

    Attributes:
        enabled: False = the path answers 404; ``[ops]`` is not meant.
        path: where they are.
    """

    enabled: bool = True
    path: str = "/metrics"


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[server]``: what clients see as ``serverInfo`` and first instructions."""

    name: str = "mcp-mesh"
    version: str = ""
    instructions: str = ""


class VerifierConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[verifier]``: an external HTTP verifier of every request that goes to a server.

    Attributes:
        url: ``http`` or ``https`` address that questions are posted to; "" = no verifier.
        api_key: sent as bearer token: ``env:NAME`` or ``file:PATH``; "" = none.
        timeout_s: longest wait for a decision, the connection included.
        on_timeout: what holds while the verifier is silent (too late, out of reach, failing):
            ``deny`` or ``allow``. An answer that is no decision always denies.
        cache_s: how long a decision holds for the same caller and target; 0 = ask each time.
        cache_entries: decisions remembered.
        send_arguments: send the arguments of tools and prompts, and decide for each anew.
        tls_ca_file: PEM authorities trusted instead of the system's; "" = the system's.
    """

    url: str = ""
    api_key: Annotated[str, Meta(pattern=REFERENCE)] = ""
    timeout_s: Annotated[float, Meta(gt=0, le=30)] = 2.0
    on_timeout: Literal["deny", "allow"] = "deny"
    cache_s: Annotated[float, Meta(ge=0, le=3_600)] = 5.0
    cache_entries: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    send_arguments: bool = False
    tls_ca_file: str = ""


class ExposedAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``[[synadia.expose]]``: a tool that callers of that protocol prompt as an agent.

    Attributes:
        server: server of the tool.
        tool: the server's own name of it.
        argument: argument of the tool that the prompt becomes; it has the type string.
        arguments: further arguments, the same for every prompt.
        result: JSON pointer to what of the structured result is the answer; "" = the content.
        tenant: whose agent it is: third token of its subjects, ``owner`` of the protocol.
        agent: second token; "" = ``server`` in lowercase, every other character a hyphen.
        session: last token; "" = ``tool`` in lowercase, every other character a hyphen.
        description: what callers read; "" = the names.
        credential: in whose name a prompt calls that carries no credential of its own:
            ``env:NAME`` or ``file:PATH``; "" = the demo principal, where there is one.
        timeout_s: budget of a prompt; 0 = that of any call.
    """

    server: str
    tool: str
    argument: str = "prompt"
    arguments: dict[str, str | int | float | bool] = {}
    result: Annotated[str, Meta(pattern=r"\A(/[^\0]*)?\Z")] = ""
    tenant: str
    agent: str = ""
    session: str = ""
    description: str = ""
    credential: Annotated[str, Meta(pattern=REFERENCE)] = ""
    timeout_s: Annotated[float, Meta(ge=0)] = 0.0

    @property
    def name(self) -> AgentName:
        """The agent of the protocol."""
        return AgentName(
            self.agent or _FOREIGN.sub("-", self.server.lower()),
            self.tenant,
            self.session or _FOREIGN.sub("-", self.tool.lower()),
        )


class SynadiaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[synadia]``: the edge for callers of the Synadia Agent Protocol.

    Attributes:
        expose: tools that can be prompted; () = no such edge.
        heartbeat_s: how often each agent says that it lives.
        slots: prompts running at once, for the process.
    """

    expose: tuple[ExposedAgent, ...] = ()
    heartbeat_s: Annotated[int, Meta(ge=1, le=3_600)] = 30
    slots: Count = 256


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    service: ServiceSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    http: HttpConfig = HttpConfig()
    tcp: TcpConfig = TcpConfig()
    security: SecurityConfig = SecurityConfig()
    keys: KeysConfig = KeysConfig()
    limits: LimitsConfig = LimitsConfig()
    lists: ListsConfig = ListsConfig()
    server: ServerConfig = ServerConfig()
    metrics: MetricsConfig = MetricsConfig()
    verifier: VerifierConfig = VerifierConfig()
    synadia: SynadiaConfig = SynadiaConfig()


def check_config(config: GatewayConfig, source: str = "") -> None:
    """Refuse combinations that would be unsafe or cannot work.

    Raises:
        ConfigError: naming the key.
    """
    for table, section in (("http", config.http), ("tcp", config.tcp)):
        if config.security.development and section.port >= 0 and not is_loopback(section.host):
            raise ConfigError(
                source,
                f"{table}.host",
                f"development mode serves callers without a credential and may only listen on "
                f"loopback, not on {section.host}; set security.development = false",
            )
        if bool(section.tls_cert_file) != bool(section.tls_key_file):
            raise ConfigError(source, f"{table}.tls_cert_file", "certificate and key go together")
    if not is_endpoint(config.tcp.endpoint):
        raise ConfigError(source, "tcp.endpoint", "must be u/<server> or v/<virtual server>")
    if "*" in config.http.cors_origins:
        raise ConfigError(source, "http.cors_origins", "name each origin; * is not allowed")
    problem = metrics_path_problem(config.metrics.path)
    if problem is not None:
        raise ConfigError(source, "metrics.path", problem)
    if not config.keys.kek_file:
        raise ConfigError(source, "keys.kek_file", "missing; callers' contexts cannot be signed")
    if config.limits.call_timeout_s > config.limits.call_timeout_max_s:
        raise ConfigError(
            source, "limits.call_timeout_s", "must not exceed limits.call_timeout_max_s"
        )
    _check_verifier(config.verifier, source)
    _check_exposed(config.synadia, source)


def _check_exposed(config: SynadiaConfig, source: str) -> None:
    seen: set[AgentName] = set()
    for index, exposed in enumerate(config.expose):
        key = f"synadia.expose[{index}]"
        problem = exposed.name.problem()
        if problem is None and exposed.name in seen:
            problem = "another one has the same agent, tenant and session; name a session"
        if problem is not None:
            raise ConfigError(source, key, problem)
        seen.add(exposed.name)


def _check_verifier(config: VerifierConfig, source: str) -> None:
    """A verifier that is half set up is one that does not verify."""
    if not config.url:
        if config != VerifierConfig():
            raise ConfigError(source, "verifier.url", "missing; nothing would be verified")
        return
    try:
        parts = urlsplit(config.url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        private = "@" in parts.netloc
    except ValueError:
        usable = private = False
    if not usable:
        raise ConfigError(source, "verifier.url", "must be an address http://… or https://…")
    if private:
        raise ConfigError(source, "verifier.url", "must not hold a password; use verifier.api_key")
