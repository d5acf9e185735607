"""The set of wanted servers, from configuration and ``mesh_servers``, and a keeper for each."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from mcp_proto import buckets, subjects
from mcp_proto.contracts.registry import Catalog, InstanceRecord, ServerDefinition
from mcp_proto.contracts.tasks import policy_problem
from mcp_proto.contracts.tool_runner import Login, LoginAnswer, ServerView
from mcp_proto.contracts.watching import Updated
from mcp_proto.errors import MeshError
from mcp_proto.ids import is_server_name, is_tenant_id
from mcp_proto.server_types import CUSTOM, server_problem
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.children import Children
from mesh_chassis.registration import Registration
from mesh_chassis.tasks import Tasks
from tool_runner.store import DefinitionWatch, PlacementStore
from tool_runner.supervisor.hosted import HostedServer, HostSettings, ServerState
from tool_runner.supervisor.keeper import Keeper, Served, Surroundings
from tool_runner.supervisor.logins import login
from tool_runner.supervisor.probes import Probes
from tool_runner.supervisor.settings import operators_own
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.secrets import foreign_secret

__all__ = ["Supervisor", "definition_problem"]

Pair = tuple[str, str]

_log = logging.getLogger(__name__)
_KEYS_S = 2.0


def definition_problem(definition: ServerDefinition, reserved: Iterable[str]) -> str | None:
    """Why a definition cannot be run, as public text; None when it can."""
    if not is_server_name(definition.name):
        return f"{definition.name!r} is no server name"
    if definition.name in reserved:
        return f"the name {definition.name} belongs to a native toolset"
    if definition.tenant != PLATFORM and not is_tenant_id(definition.tenant):
        return f"{definition.tenant!r} is no tenant"
    problem = server_problem(definition)
    if problem is not None:
        return problem
    if definition.concurrency < 1 or definition.timeout_s <= 0:
        return "concurrency and timeout_s must be positive"
    return policy_problem(definition.task, definition.task_tools)


class Supervisor:
    """Starts, moves and stops upstream servers.

    Args:
        bus: connected.
        configured: ``[[mcp_servers]]``.
        reserved: names of native toolsets.
        children: child processes of this runner.
        settings: how servers are hosted.
        serve: begins to take calls for a hosted server.
        registration: tells the registry.
        servers_max: servers held at once.
        on_restart: called with a server's name whenever its child is started again.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        configured: Iterable[ServerDefinition],
        reserved: Iterable[str],
        children: Children,
        settings: HostSettings,
        serve: Callable[[HostedServer], Awaitable[Served]],
        registration: Registration,
        servers_max: int,
        on_restart: Callable[[str], None],
    ) -> None:
        self._bus = bus
        self._configured = {(one.tenant, one.name): one for one in configured}
        self._reserved = frozenset(reserved)
        self._children = children
        self._settings = msgspec.structs.replace(settings, trusted=self._trusted)
        self._serve = serve
        self._registration = registration
        self._servers_max = servers_max
        self._on_restart = on_restart
        self._definitions = DefinitionWatch(self._nudge)
        self._store: PlacementStore | None = None
        self._around: Surroundings | None = None
        self._keepers: dict[Pair, tuple[Keeper, asyncio.Task[None]]] = {}
        self._nudged = asyncio.Event()
        self._draining = False
        self._problems: dict[Pair, str] = {}
        self._tasks = Tasks("supervisor")

    @property
    def held(self) -> int:
        """Servers this runner holds."""
        return sum(keeper.holds for keeper, _ in self._keepers.values())

    @property
    def quarantined(self) -> bool:
        """Whether any server is no longer tried."""
        hosted = (keeper.hosted for keeper, _ in self._keepers.values())
        return any(one is not None and one.state is ServerState.QUARANTINED for one in hosted)

    def views(self, *, log_lines: int = 0) -> list[ServerView]:
        """Every wanted server that cannot run or is held here."""
        views = [
            ServerView(tenant=tenant, server=name, state="refused", reason=problem)
            for (tenant, name), problem in self._problems.items()
        ]
        for (tenant, name), (keeper, _) in self._keepers.items():
            hosted = keeper.hosted
            if hosted is not None:
                views.append(
                    ServerView(
                        tenant=tenant,
                        server=name,
                        state=hosted.state.value,
                        reason=hosted.reason,
                        pid=hosted.pid,
                        restarts=hosted.restarts,
                        inflight=hosted.inflight,
                        breaker=hosted.breaker_state,
                        log=tuple(hosted.log_tail(log_lines)) if log_lines else (),
                    )
                )
        return views

    async def login(self, asked: Login) -> LoginAnswer:
        """A person's part of a server's OAuth, if the server is held here."""
        keeper, _ = self._keepers.get((asked.tenant, asked.server), (None, None))
        if keeper is None or keeper.hosted is None or not keeper.holds:
            return LoginAnswer(held=False)
        return await login(keeper.hosted, self._settings, asked.location)

    def configure(self, configured: Iterable[ServerDefinition], network: NetworkSettings) -> None:
        """Run these of the file from now on; a server that is defined as before is left alone.

        Does not wait for what is started or ended.

        Args:
            configured: ``[[mcp_servers]]``.
            network: when it is another one, servers that are no children begin a new life.
        """
        self._configured = {(one.tenant, one.name): one for one in configured}
        if network != self._settings.network:
            self._settings = msgspec.structs.replace(self._settings, network=network)
            for keeper, _ in self._keepers.values():
                if keeper.hosted is not None and not _is_child(keeper.definition):
                    # Calls that run finish in the old life.
                    keeper.hosted.settings = self._settings
                    keeper.hosted.restart(keeper.definition)
        self._nudge()

    async def start(self) -> None:
        """Begin; does not wait for the buckets, native tools need none of them."""
        self._tasks.spawn(self._run(), name="supervise")

    async def drain(self, *, handover: bool) -> None:
        """Give every server up, all at once, to other runners where there are any."""
        self._draining = True
        others = handover and self.held > 0 and await self._others()
        await asyncio.gather(
            *(keeper.leave(handover=others) for keeper, _ in self._keepers.values())
        )
        running = [task for _, task in self._keepers.values() if not task.done()]
        if running:
            await asyncio.wait(running, timeout=_LEAVE_S)

    async def close(self) -> None:
        """Stop everything that is left, and every child."""
        self._draining = True
        await self._tasks.close()
        for keeper, _ in self._keepers.values():
            await keeper.close()
        await self._definitions.stop()
        if self._store is not None:
            await self._store.close()
        await self._children.close()

    async def _run(self) -> None:
        self._store = await PlacementStore.open(self._bus)
        self._around = self._surroundings(self._store)
        self._tasks.spawn(self._definitions.start(self._bus), name="definitions")
        while True:
            self._nudged.clear()
            self._reconcile()
            await self._nudged.wait()

    def _surroundings(self, store: PlacementStore) -> Surroundings:
        def host(
            definition: ServerDefinition, on_catalog: Callable[[Catalog], None]
        ) -> HostedServer:
            return HostedServer(
                definition,
                self._children,
                self._settings,
                on_catalog,
                self._on_restart,
                functools.partial(_tell, self._bus, definition.tenant, definition.name),
            )

        return Surroundings(
            bus=self._bus,
            store=store,
            probes=Probes(self._bus),
            host=host,
            serve=self._serve,
            held=lambda: self.held,
            claiming=asyncio.Lock(),
            room=lambda: not self._draining and self.held < self._servers_max,
            offer=self._registration.offer,
            forget=self._registration.forget,
        )

    def _nudge(self) -> None:
        self._nudged.set()

    def _wanted(self) -> dict[Pair, ServerDefinition]:
        """Definitions to run. One added at run time is the same for all runners, so it wins."""
        wanted = {
            pair: msgspec.structs.replace(
                one, generation=one.generation + self._definitions.restarts.get(pair, 0)
            )
            for pair, one in self._configured.items()
        }
        # What was found somewhere never stands in for what this runner was told to run.
        wanted |= {
            pair: one
            for pair, one in self._definitions.definitions.items()
            if not (one.origin and pair in self._configured)
        }
        self._problems = {}
        for pair, definition in list(wanted.items()):
            problem = definition_problem(definition, self._reserved) or foreign_secret(
                definition,
                trusted=self._trusted(definition),
                tenant_secrets=self._settings.network.tenant_secrets,
            )
            if problem is not None:
                self._problems[pair] = problem
                _log.error("server not run: %s", problem, extra={"server": pair[1]})
            if problem is not None or not definition.enabled:
                del wanted[pair]
        return wanted

    def _trusted(self, definition: ServerDefinition) -> bool:
        """Whether the operator wrote it: it is shared, or stands in this runner's own file."""
        pair = (definition.tenant, definition.name)
        added = pair in self._definitions.definitions
        return operators_own(definition) or (pair in self._configured and not added)

    def _reconcile(self) -> None:
        if self._draining or self._around is None:
            return
        wanted = self._wanted()
        for pair in [pair for pair in self._keepers if pair not in wanted]:
            # In the background: its calls may take a while to finish. A keeper that wants the
            # same server again waits for this one's record to go.
            self._tasks.spawn(self._retire(pair, *self._keepers.pop(pair)), name="retire")
        for pair, definition in wanted.items():
            known = self._keepers.get(pair)
            if known is None:
                keeper = Keeper(definition, self._around)
                task = self._tasks.spawn(keeper.run(), name="keeper")
                self._keepers[pair] = (keeper, task)
            elif known[0].definition != definition:
                known[0].change(definition)

    async def _retire(self, pair: Pair, keeper: Keeper, task: asyncio.Task[None]) -> None:
        """A server that is no longer wanted: end it here, and forget its catalogue."""
        held = keeper.holds
        await keeper.leave(handover=False)
        done, _ = await asyncio.wait([task], timeout=_RETIRE_S)
        if not done:
            task.cancel()
            await asyncio.wait([task])
        await keeper.close()
        if held and pair not in self._keepers:
            await self._registration.remove(*pair)

    async def _others(self) -> bool:
        """Whether another runner lives that could take over; one that drains itself cannot."""
        instances = KV.bind(self._bus, buckets.INSTANCES)
        own = buckets.key(self._bus.service, self._bus.instance)
        try:
            async with asyncio.timeout(_KEYS_S):
                for key in await instances.keys(f"{self._bus.service}."):
                    entry = await instances.get(key) if key != own else None
                    if entry is not None and not _drains(entry.value):
                        return True
        except (MeshError, TimeoutError):
            # Not known. Waiting for a successor in vain costs less than calls that find nobody.
            return self._bus.connected
        return False


async def _tell(bus: Bus, tenant: str, server: str, event: Updated) -> None:
    """Tell every gateway of a resource."""
    await bus.publish(subjects.event(tenant, "updated", server), msgspec.json.encode(event))


def _is_child(definition: ServerDefinition) -> bool:
    """Whether it is a process of the runner, which no setting of the network concerns."""
    return definition.type == CUSTOM and definition.transport == "stdio"


def _drains(record: bytes) -> bool:
    try:
        return msgspec.json.decode(record, type=InstanceRecord).draining
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


_LEAVE_S = 22.0
_RETIRE_S = 25.0
