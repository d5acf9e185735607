"""The runner's table of contents: native toolsets, upstream servers, and what keeps them known."""

from mcp_proto import subjects
from mcp_proto.subjects import PLATFORM, QUEUE
from mesh_chassis.bus.endpoint import Endpoint
from mesh_chassis.callerctx import ContextVerifier
from mesh_chassis.config import ConfigError
from mesh_chassis.keyring import KeyRing
from mesh_chassis.presence import Presence
from mesh_chassis.service import Service

from tool_runner.config import ToolRunnerConfig
from tool_runner.drivers.jetstream import JetStreamStorage
from tool_runner.handlers import Admission, NativeHandlers
from tool_runner.registration import Registration
from tool_runner.toolsets import echo, kv
from tool_runner.toolsets.toolset import Toolset

__all__ = ["NAME", "build"]

NAME = "tool-runner"


async def build(service: Service, config: ToolRunnerConfig) -> None:
    """Add every part to ``service``.

    Raises:
        ConfigError: a toolset or server that cannot be.
        MeshError: the signing keys cannot be read.
    """
    bus = service.bus
    admission = await _admission(service, config)
    toolsets = _toolsets(service, config)
    native = NativeHandlers(toolsets, admission)
    presence = service.presence
    announce = presence.set_servers if isinstance(presence, Presence) else lambda _: None
    registration = Registration(bus, announce)

    for toolset in toolsets:
        for subject in _subjects(PLATFORM, toolset.server):
            service.add_endpoint(
                Endpoint(
                    bus,
                    subject=subject,
                    queue=QUEUE,
                    handler=native.call,
                    slots=config.limits.native_slots,
                    name=subject.split(".")[3] + "-" + toolset.server,
                )
            )

    async def begin() -> None:
        for toolset in toolsets:
            registration.offer(toolset.catalog(service.version))
        service.tasks.spawn(registration.run(), name="registration", fatal=True)

    async def again() -> None:
        registration.repeat()

    service.on_ready(begin)
    bus.on_reconnect(again)


async def _admission(service: Service, config: ToolRunnerConfig) -> Admission:
    if config.runner.allow_unsigned:
        try:
            ring = await KeyRing.open(service.bus, timeout_s=_KEYS_OPTIONAL_S)
        except Exception:  # noqa: BLE001
            return Admission(None, allow_unsigned=True)
    else:
        ring = await KeyRing.open(service.bus)
    service.on_stop(ring.close)
    return Admission(ContextVerifier(ring), allow_unsigned=config.runner.allow_unsigned)


_KEYS_OPTIONAL_S = 1.0


def _toolsets(service: Service, config: ToolRunnerConfig) -> tuple[Toolset, ...]:
    storage = JetStreamStorage(
        service.bus, bytes_max=config.limits.kv_bytes, replicas=config.limits.kv_replicas
    )
    known = {"kv": lambda: kv.toolset(storage), "echo": echo.toolset}
    unknown = [name for name in config.runner.toolsets if name not in known]
    if unknown:
        raise ConfigError(
            "", "runner.toolsets", f"unknown toolset {unknown[0]} (known: {', '.join(known)})"
        )
    return tuple(known[name]() for name in config.runner.toolsets)


def _subjects(tenant: str, server: str) -> tuple[str, str]:
    """Subjects on which a server takes calls: every tenant's for a shared one."""
    token = "*" if tenant == PLATFORM else tenant
    return subjects.call(token, server, "*"), subjects.rpc(token, server, ">")
