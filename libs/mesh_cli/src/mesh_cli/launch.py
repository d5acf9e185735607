"""One run of ``mesh up``: choose ports, start, prove, watch, drain.

The order of start is broker, registry and tenant-auth, runners, gateways; nobody waits for the
next one to be ready, because every service waits by itself for what it needs. The drain runs the
other way round, so that a caller's last request still finds a runner and the runner still finds
the broker.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mesh_chassis.addresses import is_loopback
from mesh_chassis.hangup import HangUp
from mesh_cli import plan, ports, terminal
from mesh_cli.credential import first_credential
from mesh_cli.failure import Exit, Failure
from mesh_cli.fleet import Fleet
from mesh_cli.options import Target
from mesh_cli.platform import operator_bus
from mesh_cli.proof import Edge, Proof, prove
from mesh_cli.reload_requests import ReloadDesk
from mesh_cli.reloading import Reloading
from mesh_cli.screen import Facts, render
from mesh_cli.state import RunLock, StateDir
from mesh_cli.user_file import SAMPLE_SERVER, TOKEN_VARIABLE, MeshFile, UserFile
from mesh_sdk.server_views import last_error

__all__ = ["Options", "run"]

_Future = asyncio.Future[Any]


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
        watch: reload whenever the user's file changes.
    """

    state: Path
    gateways: int = 1
    runners: int = 1
    http_port: int = ports.USUAL
    tcp_port: int = ports.USUAL
    nats_port: int = ports.USUAL
    sample: bool = True
    as_json: bool = False
    watch: bool = False


async def run(user: UserFile, options: Options, read: Callable[[], UserFile]) -> int:
    """Run a mesh until it is told to stop.

    Args:
        user: the file that it starts with.
        options: see there.
        read: reads the user's file again, for a reload.

    Returns:
        0 after an ordered stop, 130 after a forced one.

    Raises:
        Failure: it could not start, or a service refuses its configuration.
    """
    _check_hosts(user.content)
    state = StateDir(options.state)
    state.create()
    lock = RunLock(state)
    lock.take()
    try:
        chosen, moved = _choose_ports(user.content, options)
        fleet = Fleet(
            state,
            user.content,
            _servers(user.content, sample=options.sample),
            ports=chosen,
            runners=options.runners,
            say=terminal.note,
        )
        force, reload = asyncio.Event(), asyncio.Event()
        with _signals(fleet.stop, force, reload):
            fleet.prepare()
            reloading = Reloading(
                fleet, read, lambda content: _servers(content, sample=options.sample)
            )
            desk = ReloadDesk(
                state,
                reloading,
                asked=reload,
                watched=Path(user.path) if options.watch and user.path else None,
                say=terminal.note,
            )
            return await _supervise(fleet, force, _Report(fleet, user, options, moved), desk)
    finally:
        lock.release()


class _Report:
    """Proves that the mesh works and says so."""

    def __init__(
        self, fleet: Fleet, user: UserFile, options: Options, moved: Sequence[str]
    ) -> None:
        self._fleet = fleet
        self._as_json = options.as_json
        self._remarks = tuple(moved)
        if user.unused:
            self._remarks += (f"not used by this version: {', '.join(user.unused)}",)
        if fleet.without_swarms:
            self._remarks += (
                "swarms do not run: mesh-swarm-coordinator and mesh-agents are not both installed",
            )
        if fleet.without_machines:
            self._remarks += ("machines do not run: mesh-vm-spawner is not installed",)
        security = user.content.security
        if security.auth_token and not security.auth_enabled:
            self._remarks += (
                f"security.auth_token (or {TOKEN_VARIABLE}) is set, so auth_enabled counts as true",
            )
        # Only the sample server is promised; one that the user configured may be broken.
        self._promised = () if user.content.mcp_servers else (SAMPLE_SERVER,)

    async def run(self) -> None:
        """Make first calls until they succeed, then print the screen and ``ready``."""
        fleet = self._fleet
        credential = ""
        if not plan.development(fleet.content):
            credential = str(await first_credential(fleet.state, fleet.ports.nats))
        names = [server.name for server in fleet.servers if server.enabled]
        proof = await prove(
            [
                Edge(instance=instance.name, http=instance.http, tcp=instance.tcp)
                for instance in fleet.instances
                if instance.http
            ],
            names,
            required=[name for name in names if name in self._promised],
            token=_read(credential) if credential else "",
            failed=self._failed,
            say=terminal.note,
        )
        fleet.ready = True
        fleet.write_record()
        self._show(proof, credential)
        terminal.line("ready")

    async def _failed(self, names: Sequence[str]) -> set[str]:
        """Which of the servers have failed to start, in the words of their runners."""
        fleet = self._fleet
        goal = Target(urls=(fleet.record().nats,), nkey=str(fleet.state.seed("operator")))
        owners = {server.name: server.tenant for server in fleet.servers}
        try:
            async with operator_bus(goal) as bus:
                return {
                    name for name in names if (await last_error(bus, owners[name], name)).failed
                }
        except Failure:
            return set()

    def _show(self, proof: Proof, credential: str) -> None:
        record = self._fleet.record()
        if self._as_json:
            terminal.line(msgspec.json.encode(record).decode())
            return
        facts = Facts(
            state=str(self._fleet.state.root),
            credential=credential,
            chosen=bool(self._fleet.content.security.auth_token),
            servers=tuple(server.name for server in self._fleet.servers),
            missing=proof.missing,
            tools=proof.tools,
            remarks=self._remarks,
        )
        terminal.line(render(record, facts))


async def _supervise(fleet: Fleet, force: asyncio.Event, report: _Report, desk: ReloadDesk) -> int:
    failure: Failure | None = None
    keep: _Future | None = None
    try:
        await fleet.start()
        keep = asyncio.ensure_future(fleet.keep())
        failure = await _watch(fleet, keep, report, desk)
    except Failure as unstarted:
        failure = unstarted
    finally:
        await _end(fleet, force, keep)
    if failure is not None:
        raise failure
    terminal.note("stopped")
    return Exit.INTERRUPTED if force.is_set() else Exit.OK


async def _watch(fleet: Fleet, keep: _Future, report: _Report, desk: ReloadDesk) -> Failure | None:
    """Return once a stop is asked for, or with the reason why a service cannot go on."""
    stop: _Future = asyncio.ensure_future(fleet.stop.wait())
    logs: _Future = asyncio.ensure_future(fleet.roll_logs())
    proof: _Future = asyncio.ensure_future(report.run())
    own: list[_Future] = [stop, logs, proof]
    try:
        await asyncio.wait({keep, *own}, return_when=asyncio.FIRST_COMPLETED)
        if proof.done() and not proof.exception():
            reloads: _Future = asyncio.ensure_future(desk.run())
            own.append(reloads)
            await asyncio.wait({keep, stop, logs, reloads}, return_when=asyncio.FIRST_COMPLETED)
        return _failure_in([task for task in (keep, *own) if task.done()])
    finally:
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)


async def _end(fleet: Fleet, force: asyncio.Event, keep: _Future | None) -> None:
    """Drain in order; a second signal cuts it short."""
    fleet.stop.set()
    drain: _Future = asyncio.ensure_future(fleet.drain())
    forced: _Future = asyncio.ensure_future(force.wait())
    try:
        await asyncio.wait({drain, forced}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            fleet.kill()
        await drain
    finally:
        forced.cancel()
        if keep is not None:
            await asyncio.gather(keep, return_exceptions=True)


def _failure_in(done: Sequence[_Future]) -> Failure | None:
    for task in done:
        error = task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, Failure):
            return error
        if error is not None:
            raise error
    return None


@contextlib.contextmanager
def _signals(
    stop: asyncio.Event, force: asyncio.Event, reload: asyncio.Event
) -> Generator[None, None, None]:
    """The first signal drains, the second one ends everything at once; SIGHUP reloads."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    hang_up = HangUp()

    def told() -> None:
        if stop.is_set():
            terminal.note("stopping at once")
            force.set()
            return
        terminal.note("draining: gateways, runners, services, broker (again to force)")
        stop.set()

    def hung_up() -> None:
        if hang_up.gone:
            told()
        else:
            reload.set()

    for number in numbers:
        loop.add_signal_handler(number, told)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is under nohup
        loop.add_signal_handler(signal.SIGHUP, hung_up)
        numbers.append(signal.SIGHUP)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _check_hosts(content: MeshFile) -> None:
    for table, host in (("server", content.server.host), ("tcp", content.tcp.host)):
        if host and plan.development(content) and not is_loopback(host):
            raise Failure(
                f"{table}.host = {host} can be reached from other machines, and development mode "
                "serves callers without a token",
                mend="set [security] auth_enabled = true, or listen on 127.0.0.1",
                code=Exit.CONFIG,
            )


def _servers(content: MeshFile, *, sample: bool) -> tuple[ServerDefinition, ...]:
    if content.mcp_servers or not sample:
        return content.mcp_servers
    return (plan.sample_server(sys.executable),)


def _choose_ports(content: MeshFile, options: Options) -> tuple[plan.Ports, list[str]]:
    """Free ports, and a remark for each usual one that was taken."""
    host = content.server.address
    http_asked = options.http_port if options.http_port != ports.USUAL else content.server.port
    tcp_asked = options.tcp_port if options.tcp_port != ports.USUAL else content.tcp.port
    nats = ports.choose("NATS", "127.0.0.1", options.nats_port, ports.NATS_PORT)
    taken = {nats}
    count = options.gateways
    http = ports.several("HTTP", host, http_asked, ports.HTTP_PORT, count, taken)
    taken.update(http)
    tcp_host = content.tcp.host or host
    tcp = ports.several("TCP", tcp_host, tcp_asked, ports.TCP_PORT, count, taken)
    moved = [
        f"{what} port {usual} was taken, using {got}"
        for what, usual, asked, got in (
            ("NATS", ports.NATS_PORT, options.nats_port, nats),
            ("HTTP", ports.HTTP_PORT, http_asked, http[0]),
            ("TCP", ports.TCP_PORT, tcp_asked, tcp[0]),
        )
        if asked == ports.USUAL and got != usual
    ]
    return plan.Ports(nats=nats, http=http, tcp=tcp), moved


def _read(path: str) -> str:
    return Path(path).read_text().strip()
