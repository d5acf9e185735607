"""A service of the mesh, as a set of parts with one order of starting and stopping.

``runtime.run`` makes it, hands it to the ``build`` function of the service (the table of contents:
endpoints, watches, loops) and drives it. The order of a stop is that of docs/operations.md,
"Drain": not ready, keep accepting for a moment, close what takes work, finish what runs, answer
the rest, stop, close the bus. Everything is bounded; nothing that was accepted is dropped
in silence.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol, TypeVar

import msgspec

from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.discovery import Discovery
from mesh_chassis.bus.endpoint import Endpoint
from mesh_chassis.bus.instance import InstanceEndpoint
from mesh_chassis.clock import monotonic
from mesh_chassis.health import Check, Health, Status
from mesh_chassis.metrics import Metrics
from mesh_chassis.reload import ReloadPart
from mesh_chassis.tasks import Tasks
from mesh_chassis.watch import Watch

__all__ = ["DRAIN_S", "HOOKS_S", "Hook", "Presenter", "Service"]

DRAIN_S = 25.0
"""Longest wait for running calls; the whole stop stays below the usual kill grace of 30 s."""

ACCEPT_S = 1.0
"""Work is still accepted this long after readiness went away: balancers look once a second."""

HOOKS_S = 3.0
"""Bound of all hooks of one stage of a stop, together."""

HOOK_MIN_S = 0.5
"""What a hook gets even when those before it have used up the time of the stage."""

_log = logging.getLogger(__name__)

Hook = Callable[[], Awaitable[None]]
C = TypeVar("C", bound=msgspec.Struct)


class Presenter(Protocol):
    """What tells others that this process lives (``presence.Presence``)."""

    async def start(self) -> None:
        """Begin heartbeats."""
        ...

    def set_slots(self, slots: int, inflight: Callable[[], int]) -> None:
        """Say at once how much it can do, and where to ask how much it does."""
        ...

    def set_servers(self, servers: Mapping[str, str]) -> None:
        """Say at once what is served."""
        ...

    def set_draining(self) -> None:
        """Say at once that no more work is wanted."""
        ...

    async def stop(self) -> None:
        """Take the own record away."""
        ...


class Service:
    """One process of the mesh.

    Args:
        name: service name (``gateway``); also the NATS service name.
        version: its version.
        instance: unique id of this process.
        bus: connected.
        tasks: parent of everything that runs in the background.
        health: health and readiness.
        metrics: metrics of the process.
        presence: heartbeat; None = not shown to others.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        instance: str,
        bus: Bus,
        tasks: Tasks,
        health: Health,
        metrics: Metrics,
        presence: Presenter | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.instance = instance
        self.bus = bus
        self.tasks = tasks
        self.health = health
        self.metrics = metrics
        self.presence = presence
        self.draining = False
        self._endpoints: list[Endpoint] = []
        self._busy_retired = 0
        self._discovery = Discovery(bus, version=version, endpoints=self._endpoints)
        self._on_start: list[Hook] = []
        self._on_ready: list[Hook] = []
        self._on_drain: list[Hook] = []
        self._on_stop: list[Hook] = []
        self.reload_parts: list[ReloadPart] = []
        self._started = False
        self._stopped = False
        health.unready("starting")

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What is served now."""
        return tuple(self._endpoints)

    @property
    def slots(self) -> int:
        """Calls that run at once, over all endpoints."""
        return sum(endpoint.slots for endpoint in self._endpoints)

    @property
    def inflight(self) -> int:
        """Calls running now, over all endpoints."""
        return sum(endpoint.inflight for endpoint in self._endpoints)

    @property
    def busy(self) -> int:
        """Calls refused for want of a slot since the start, by retired endpoints too."""
        return self._busy_retired + sum(endpoint.stats.busy for endpoint in self._endpoints)

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Serve ``endpoint`` from the start of the service on.

        Raises:
            RuntimeError: the service has started; use ``serve``.
        """
        if self._started:
            raise RuntimeError("the service has started; use serve()")
        self._endpoints.append(endpoint)

    async def serve(self, endpoint: Endpoint) -> None:
        """Start an endpoint now and drain it with the service (e.g. one per upstream)."""
        await endpoint.start()
        self._endpoints.append(endpoint)
        self._tell_capacity()

    async def retire(self, endpoint: Endpoint) -> None:
        """Drain one endpoint and forget it, while the service goes on."""
        self._endpoints.remove(endpoint)
        self._tell_capacity()
        self._busy_retired += endpoint.stats.busy
        await endpoint.drain()

    def _tell_capacity(self) -> None:
        if self.presence is not None:
            self.presence.set_slots(self.slots, lambda: self.inflight)

    def set_servers(self, servers: Mapping[str, str]) -> None:
        """Show in the heartbeat what is served: ``{tenant}.{server}`` → catalogue hash."""
        if self.presence is not None:
            self.presence.set_servers(servers)

    def add_watch(self, watch: Watch, *, bucket: str) -> None:
        """Show in metrics and health how current the cache behind a watch is."""
        self.metrics.ask("mesh_watch_age_seconds", lambda: watch.age_s, bucket)
        self.health.add(
            f"watch {bucket}",
            lambda: Status.HEALTHY if watch.fresh else Status.DEGRADED,
            required=False,
        )

    def add_health_check(self, name: str, check: Check, *, required: bool = True) -> None:
        """Add a part to the health report; see ``health.Check``."""
        self.health.add(name, check, required=required)

    def on_start(self, hook: Hook) -> None:
        """Run before endpoints take work: load caches, open buckets. In order of adding."""
        self._on_start.append(hook)

    def on_ready(self, hook: Hook) -> None:
        """Run once endpoints take work: register with others, open listeners. In order."""
        self._on_ready.append(hook)

    def on_drain(self, hook: Hook) -> None:
        """Run when work shall cease to arrive: close listeners, deregister. In order."""
        self._on_drain.append(hook)

    def on_stop(self, hook: Hook) -> None:
        """Run after the last call: stop children, flush. In reverse order of adding."""
        self._on_stop.append(hook)

    def on_reload(
        self,
        config_type: type[C],
        keys: Collection[str],
        apply: Callable[[C], Awaitable[None]],
        *,
        check: Callable[[C], None] | None = None,
    ) -> None:
        """Take these keys over while the service runs; every other key needs a restart.

        Args:
            config_type: the service's configuration.
            keys: dotted keys; a table stands for all of its keys.
            apply: takes a configuration over. Raising keeps the old one: ``apply`` is then called
                with that, so it must not assume that it had finished.
            check: raises ``ConfigError`` for what cannot be taken over; changes nothing.
        """

        async def run(config: msgspec.Struct) -> None:
            assert isinstance(config, config_type)
            await apply(config)

        def look(config: msgspec.Struct) -> None:
            assert isinstance(config, config_type)
            if check is not None:
                check(config)

        self.reload_parts.append(ReloadPart(keys=tuple(keys), apply=run, check=look))

    async def start(self) -> None:
        """Hooks, endpoints, presence; ready afterwards. Errors of any part end the start."""
        self._started = True
        await InstanceEndpoint.of(self.bus).start()
        for hook in self._on_start:
            await hook()
        for endpoint in self._endpoints:
            await endpoint.start()
        await self._discovery.start()
        for hook in self._on_ready:
            await hook()
        self._tell_capacity()
        if self.presence is not None:
            await self.presence.start()
        self.health.ready_again("starting")
        _log.info("%s %s is ready", self.name, self.instance, extra={"version": self.version})

    async def drain(self, *, accept_s: float = ACCEPT_S, drain_s: float = DRAIN_S) -> bool:
        """Stop taking work and finish what runs. Cancelling it is safe; ``stop`` must follow.

        Args:
            accept_s: how long work is still accepted after readiness is gone, in seconds.
            drain_s: bound of the whole drain, in seconds.

        Returns:
            True when every running call ended by itself.
        """
        ends = monotonic() + drain_s
        self.draining = True
        self.health.unready("draining")
        if self.presence is not None:
            self.presence.set_draining()
        _log.info("draining", extra={"endpoints": len(self._endpoints)})
        try:
            await asyncio.sleep(min(accept_s, drain_s))
            await _run_hooks("drain", self._on_drain, max(0.0, ends - monotonic()))
            left = max(0.0, ends - monotonic())
            # An endpoint answers what outlasts its time itself, which takes it a moment more.
            return await self._drain_endpoints(left, left + HOOKS_S)
        except asyncio.CancelledError:
            # Stopping at once: no waiting, but every caller still gets an answer.
            await self._drain_endpoints(0.0, HOOKS_S)
            raise

    async def _drain_endpoints(self, timeout_s: float, bound_s: float) -> bool:
        if not self._endpoints:
            return True
        drains = [asyncio.ensure_future(one.drain(timeout_s)) for one in self._endpoints]
        try:
            done, late = await asyncio.wait(drains, timeout=bound_s)
        except asyncio.CancelledError:
            await _end(drains)
            raise
        await _end(late)
        for one in done:
            if (error := one.exception()) is not None:
                _log.error("an endpoint failed to drain", exc_info=error)
        return not late

    async def stop(self) -> None:
        """Discovery, stop hooks, presence, tasks, bus: in this order, each bounded, once."""
        if self._stopped:
            return
        self._stopped = True
        self.health.unready("stopped")
        if self.bus.connected:
            await _run_hooks("discovery", [self._discovery.stop], HOOKS_S)
        await _run_hooks("stop", list(reversed(self._on_stop)), HOOKS_S)
        if self.presence is not None:
            await _run_hooks("presence", [self.presence.stop], HOOKS_S)
        await self.tasks.close(HOOKS_S)
        await _run_hooks("bus", [self.bus.close], HOOKS_S)
        _log.info("stopped")


async def _end(drains: Collection[asyncio.Future[None]]) -> None:
    for one in drains:
        one.cancel()
    if drains:
        await asyncio.wait(drains, timeout=HOOKS_S)


async def _run_hooks(stage: str, hooks: list[Hook], bound_s: float) -> None:
    """Run all hooks; a failing one never keeps the next from running."""
    ends = monotonic() + bound_s
    for hook in hooks:
        try:
            async with asyncio.timeout(max(HOOK_MIN_S, ends - monotonic())):
                await hook()
        except TimeoutError:
            _log.error("a %s hook did not end in time", stage)
        except Exception:  # noqa: BLE001 - the other hooks must run, whatever this one did
            _log.exception("a %s hook failed", stage)
