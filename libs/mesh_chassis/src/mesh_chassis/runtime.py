"""The life of a service process: arguments, configuration, bus, start, signals, exit code.

``run`` is all that a service's ``__main__`` calls. Exit codes tell the supervisor what to do:
0 stopped as asked; 75 (``EX_TEMPFAIL``) start me again, the broker connection ended for good or
the loop was hung; 78 (``EX_CONFIG``) do not, a person must mend the configuration; 70
(``EX_SOFTWARE``) a fatal part failed.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

from mcp_proto.errors import MeshError
from mcp_proto.limits import CLOCK_LEEWAY_S
from mesh_chassis import logs, tracing
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.clock import now_ms
from mesh_chassis.config import (
    ConfigError,
    LogConfig,
    OpsConfig,
    ServiceSection,
    TelemetryConfig,
    load,
)
from mesh_chassis.hangup import HangUp
from mesh_chassis.health import Health, Status
from mesh_chassis.metrics import Metrics
from mesh_chassis.presence import Presence
from mesh_chassis.reload import Reloader, ReloadPart
from mesh_chassis.service import Service
from mesh_chassis.tasks import Tasks
from mesh_chassis.watchdog import LoopWatchdog, exit_hung, exit_late

if TYPE_CHECKING:
    from mesh_chassis.ops_http import OpsListener

__all__ = [
    "EXIT_CONFIG",
    "EXIT_OK",
    "EXIT_RESTART",
    "EXIT_SOFTWARE",
    "Build",
    "Sections",
    "run",
    "serve",
]

EXIT_OK = 0
EXIT_SOFTWARE = 70
EXIT_RESTART = 75
EXIT_CONFIG = 78

CANCEL_ROUNDS = 3
CANCEL_S = 1.0
"""Waits for a start that was told to end: three times a second, far below the kill grace."""
GC_ALLOCATIONS = 10_000
GC_GENERATIONS = 20
"""Net allocations between collections of young objects, a few MB of garbage at the most; each older
generation is looked at after twenty of the younger."""

_log = logging.getLogger(__name__)


class Sections(Protocol):
    """The tables that every service's configuration has."""

    @property
    def service(self) -> ServiceSection:
        """Table ``[service]``."""
        ...

    @property
    def bus(self) -> BusConfig:
        """Table ``[bus]``."""
        ...

    @property
    def log(self) -> LogConfig:
        """Table ``[log]``."""
        ...

    @property
    def telemetry(self) -> TelemetryConfig:
        """Table ``[telemetry]``."""
        ...

    @property
    def ops(self) -> OpsConfig:
        """Table ``[ops]``."""
        ...


C = TypeVar("C", bound=Sections)
T = TypeVar("T")

LEAVE_S = 3.0
"""How long tasks and threads may outlive the service, in seconds."""

Build = Callable[[Service, C], Awaitable[None]]
"""Adds endpoints, checks and hooks to the service; the bus is connected, nothing has started."""


def run(
    build: Build[C],
    config_type: type[C],
    name: str,
    *,
    version: str = "",
    arguments: Sequence[str] | None = None,
) -> None:
    """Run a service until it is told to stop; never returns, leaves with an exit code.

    Args:
        build: see ``Build``; may raise ``ConfigError``.
        config_type: frozen Struct with the tables of ``Sections`` and the service's own.
        name: service name, with dashes.
        version: "" = that of the distribution ``mesh-{name}``.
        arguments: instead of ``sys.argv[1:]``.
    """
    options = _options(name, arguments)
    path: Path | None = options.config
    try:
        config = _load(config_type, path)
    except ConfigError as error:
        raise _unusable(name, error) from None
    if options.check_config:
        sys.stdout.write(f"{path or 'environment'}: ok\n")
        raise SystemExit(EXIT_OK)
    serve(build, config, name, version=version, source=path)


def serve(
    build: Build[C], config: C, name: str, *, version: str = "", source: Path | None = None
) -> None:
    """``run`` with a configuration that is there already; never returns either.

    Args:
        build: see ``Build``; may raise ``ConfigError``.
        config: with the tables of ``Sections``.
        name: service name, with dashes.
        version: as of ``run``.
        source: file of ``config``, read again on SIGHUP; None = it cannot be reloaded.
    """
    section = config.service
    try:
        logs.setup_logging(
            config.log.level, service=name, instance=section.instance, file=config.log.file
        )
        tracing.setup_tracing(config.telemetry, service=name, instance=section.instance)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            process = _Process(name, version or _version(name), config, source)
            code = runner.run(process.main(build))
            # Every caller has its answer: what ignores that it was cancelled, or a thread that
            # never returns, must not keep the process.
            last = threading.Timer(LEAVE_S, exit_late, (code,))
            last.daemon = True
            last.start()
        last.cancel()
    except ConfigError as error:
        raise _unusable(name, error) from None
    except OSError as error:
        sys.stderr.write(f"{name}: cannot start: {error}\n")
        raise SystemExit(EXIT_SOFTWARE) from None
    tracing.shutdown_tracing()
    raise SystemExit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop, unless this is an image of a machine, which leaves it out."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _unusable(name: str, error: ConfigError) -> SystemExit:
    # The one line a person needs, without the JSON around it.
    sys.stderr.write(f"{name}: configuration error: {error}\n")
    return SystemExit(EXIT_CONFIG)


def _load(config_type: type[C], path: Path | None) -> C:
    # A Protocol cannot say "and is a Struct"; the services' types are both.
    if not issubclass(config_type, msgspec.Struct):
        raise TypeError("a configuration is a msgspec Struct")
    return load(config_type, path, os.environ)


def _options(name: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=name, description=f"The {name} service of the mesh.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file")
    parser.add_argument(
        "--check-config", action="store_true", help="check the configuration and leave"
    )
    return parser.parse_args(arguments)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(f"mesh-{name}")
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version("mesh-chassis")


class _Process(Generic[C]):
    """One run: what may end it, and the way from start to exit code."""

    def __init__(self, name: str, version: str, config: C, source: Path | None = None) -> None:
        self._name = name
        self._version = version
        self._config = config
        self._source = source
        self._hang_up = HangUp()
        self._reread = asyncio.Event()
        self._ending = asyncio.Event()
        self._forced = asyncio.Event()
        self._code = EXIT_OK

    async def main(self, build: Build[C]) -> int:
        """Connect, build, start, wait, drain, stop."""
        config, section = self._config, self._config.service
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._signalled, one)
        if self._source is not None and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        tasks = Tasks(section.instance, on_fatal=lambda _: self._end(EXIT_SOFTWARE))
        try:
            bus = await self._unless_ending(
                Bus.connect(
                    config.bus,
                    service=self._name,
                    instance=section.instance,
                    on_closed=lambda: self._end(EXIT_RESTART),
                )
            )
        except (MeshError, OSError) as error:
            _log.error("cannot connect to the broker: %s", error)
            return EXIT_RESTART
        if bus is None:
            return self._code
        return await self._live(self._service(bus, tasks), build)

    def _service(self, bus: Bus, tasks: Tasks) -> Service:
        instance = self._config.service.instance
        health = Health(self._name)
        metrics = Metrics(self._name, self._version, instance)
        presence = Presence(bus, tasks, version=self._version)
        health.add("nats", lambda: bus.connected)
        health.add("clock", lambda: _clock_status(bus), required=False)
        metrics.ask("mesh_bus_connected", lambda: float(bus.connected))
        metrics.ask("mesh_tasks", lambda: float(len(tasks)))

        async def reconnected() -> None:
            metrics.add("mesh_bus_reconnects")
            presence.beat_now()

        bus.on_reconnect(reconnected)
        service = Service(
            name=self._name,
            version=self._version,
            instance=instance,
            bus=bus,
            tasks=tasks,
            health=health,
            metrics=metrics,
            presence=presence,
        )
        metrics.ask("mesh_inflight", lambda: float(service.inflight))
        metrics.ask("mesh_busy", lambda: float(service.busy), "slots")
        return service

    async def _live(self, service: Service, build: Build[C]) -> int:
        config = self._config
        watchdog = LoopWatchdog(service.health, hung=lambda: exit_hung(EXIT_RESTART))
        service.metrics.ask("mesh_event_loop_lag_seconds", lambda: watchdog.lag_s)
        service.tasks.spawn(watchdog.run(), name="loop-watchdog", fatal=True)
        listener: OpsListener | None = None
        try:
            if config.ops.port:
                # Most programs of a machine have no network to listen on, and no room for it.
                from mesh_chassis import ops_http  # noqa: PLC0415

                listener = ops_http.OpsListener(config.ops, service.health, service.metrics)
                await listener.start(service.tasks)
            await self._unless_ending(_begin(service, self._reloadable(build), config))
            await self._ending.wait()
            if self._code != EXIT_RESTART:
                await self._drain(service)
        except ConfigError:
            raise
        except (MeshError, OSError) as error:
            _log.error("cannot start: %s", error, extra={"internal": _internal(error)})
            self._end(EXIT_RESTART)
        except Exception:  # noqa: BLE001 - the process ends in order whatever a part raised
            _log.exception("cannot start")
            self._end(EXIT_SOFTWARE)
        finally:
            if listener is not None:
                await listener.stop()
            await service.stop()
        return self._code

    def _reloadable(self, build: Build[C]) -> Build[C]:
        """``build``, and what reads its file again when told to."""
        source = self._source
        if source is None:
            return build

        async def built(service: Service, config: C) -> None:
            await build(service, config)
            service.reload_parts.append(_log_level())
            reloader = Reloader(
                config,
                path=source,
                read=lambda path: _load(type(config), path),
                parts=service.reload_parts,
            )
            # Not one of the service's endpoints: it is no work that others could give it.
            endpoint = reloader.endpoint(service.bus)

            async def begin() -> None:
                await endpoint.start()
                service.tasks.spawn(self._reload(reloader), name="reload", fatal=True)

            async def end() -> None:
                await endpoint.drain(0.0)

            service.on_ready(begin)
            service.on_stop(end)

        return built

    async def _reload(self, reloader: Reloader[C]) -> None:
        """Take the file over after each SIGHUP; one that came too early waits here."""
        while True:
            await self._reread.wait()
            self._reread.clear()
            await reloader.apply()

    def _hung_up(self) -> None:
        if self._hang_up.gone:
            self._signalled(signal.SIGHUP)
            return
        _log.info("reading the configuration again on SIGHUP")
        self._reread.set()

    async def _drain(self, service: Service) -> None:
        section = self._config.service
        drain = asyncio.ensure_future(
            service.drain(accept_s=section.accept_s, drain_s=section.drain_s)
        )
        forced = asyncio.ensure_future(self._forced.wait())
        await asyncio.wait((drain, forced), return_when=asyncio.FIRST_COMPLETED)
        for one in (drain, forced):
            one.cancel()
        await asyncio.wait((drain, forced))
        if not drain.cancelled() and not drain.result():
            _log.warning("calls were still running at the end of the drain")

    async def _unless_ending(self, work: Coroutine[object, object, T]) -> T | None:
        """Result of ``work``, or None when the process was told to stop meanwhile."""
        task = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if task.done():
            return task.result()
        for _ in range(CANCEL_ROUNDS):
            # nats-py may swallow one cancel while it dials.
            task.cancel()
            await asyncio.wait((task,), timeout=CANCEL_S)
            if task.done():
                return None
        _log.error("the start did not end when told to")
        return None

    def _signalled(self, number: signal.Signals) -> None:
        if not self._ending.is_set():
            _log.info("stopping on %s", number.name)
            self._end(EXIT_OK)
            return
        if not self._forced.is_set():
            _log.warning("stopping at once on a second %s", number.name)
            self._code = 128 + number
            self._forced.set()

    def _end(self, code: int) -> None:
        """The first reason to end decides the exit code."""
        if self._ending.is_set():
            return
        if code == EXIT_RESTART:
            _log.critical("leaving to be started again", extra={"code": code})
        self._code = code
        self._ending.set()


def _log_level() -> ReloadPart:
    async def apply(config: msgspec.Struct) -> None:
        level: LogConfig | None = getattr(config, "log", None)
        if level is not None:
            logs.set_level(level.level)

    return ReloadPart(keys=("log.level",), apply=apply)


async def _begin(service: Service, build: Build[C], config: C) -> None:
    await build(service, config)
    await service.start()
    # Modules, configuration and catalogues live as long as the process: out of the collector's
    # sight. What calls leave behind dies by reference count, so young garbage may gather. With
    # the defaults the p99 of HTTP at 64 connections was 21 ms, with these 10 to 17 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, GC_GENERATIONS, GC_GENERATIONS)


def _clock_status(bus: Bus) -> Status:
    """A clock that differs from the broker's by more than the leeway shortens every deadline."""
    off_s = abs(bus.server_now_ms() - now_ms()) / 1000
    return Status.DEGRADED if off_s > CLOCK_LEEWAY_S else Status.HEALTHY


def _internal(error: Exception) -> str:
    return (error.internal or "") if isinstance(error, MeshError) else ""
