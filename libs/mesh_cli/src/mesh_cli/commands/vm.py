"""``mesh vm``: machines and sandboxes of agents, of every tenant."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec
from nats.aio.msg import Msg

from mcp_proto.contracts import vm_spawner
from mcp_proto.contracts.vm_spawner import (
    Drivers,
    ListDrivers,
    ListMachines,
    LogLines,
    Logs,
    MachineRecord,
    MachineRef,
    Machines,
    MachineView,
    Stop,
    log_subject,
)
from mesh_chassis.bus.connection import Bus
from mesh_cli import terminal
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import connection_options, target
from mesh_cli.platform import ask

__all__ = ["command"]

_ALL = 1_000
_STOP_MARGIN_S = 15.0
_ASK_S = 5.0
_STEPS = ("image", "network", "created", "running", "hello", "connected", "ready")
T = TypeVar("T")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Machines and sandboxes: list, status, logs, stop, timings, drivers.

    VM is an id of `mesh vm list`. Tools vm_spawn and vm_stop do the same for callers.
    """


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that ended, too.")
@click.option("--tenant", default="", help="Of this tenant only.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def list_machines(everything: bool, tenant: str, as_json: bool, **given: Any) -> None:
    """List machines, newest first."""
    found = _run(given, lambda bus: _list(bus, tenant, ended=everything))
    if as_json:
        terminal.line(terminal.pretty(found))
        return
    rows = [
        (
            one.vm_id,
            one.tenant,
            one.observed.state,
            one.observed.isolation,
            one.observed.driver,
            one.observed.host,
            one.desired.agent,
            _time(one.observed.created_ms),
            one.observed.code,
        )
        for one in (view.record for view in found.machines)
    ]
    head = ("VM", "TENANT", "STATE", "ISOLATION", "DRIVER", "HOST", "AGENT", "SINCE", "REASON")
    terminal.line(terminal.table(head, rows))


@command.command("status")
@click.argument("vm")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def status(vm: str, as_json: bool, **given: Any) -> None:
    """Show what is wanted of machine VM, what it is, and what it takes."""

    async def look(bus: Bus) -> MachineView:
        return await bus.operation(vm_spawner.status, await _find(bus, vm), timeout_s=_ASK_S)

    view = _run(given, look)
    if as_json:
        terminal.line(terminal.pretty(view))
        return
    record = view.record
    wanted, now = record.desired, record.observed
    rows = [
        ("machine", record.vm_id),
        ("tenant", record.tenant),
        ("state", now.state + (", its host drains" if view.draining else "")),
        ("agent", wanted.agent or record.vm_id),
        ("runs", wanted.image or wanted.program),
        ("isolation", f"{now.isolation} by {now.driver} (at least {wanted.isolation_min})"),
        ("limits", f"{wanted.shape.cpu:g} cores, {wanted.shape.mem_mib} MiB: {now.limits}"),
        ("host", now.host),
        ("ready after", _ms(now.ready_ms)),
        ("takes", _taken(view)),
    ]
    if now.reason:
        rows.append(("ended", f"{now.reason} ({now.code}{f', {now.phase}' if now.phase else ''})"))
    terminal.line("\n".join(f"{name:<12} {text}" for name, text in rows))
    if now.console and now.state == "failed":
        terminal.line(f"\n{now.console.rstrip()}")


@command.command("logs")
@click.argument("vm")
@click.option("-n", "--lines", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on until ctrl-C.")
@connection_options
def logs(vm: str, lines: int, follow: bool, **given: Any) -> None:
    """Show what machine VM printed last."""

    async def show(bus: Bus) -> None:
        reference = await _find(bus, vm)

        async def on_line(message: Msg) -> None:
            terminal.line(message.data.decode(errors="replace"))

        if follow:
            await bus.subscribe(log_subject(reference.tenant, vm), on_line)
        wish = Logs(tenant=reference.tenant, vm_id=vm, lines=lines)
        found: LogLines = await bus.operation(vm_spawner.logs, wish, timeout_s=_ASK_S)
        for line in found.lines:
            terminal.line(line)
        if found.dropped:
            terminal.note(f"{found.dropped} bytes were over the rate limit and are lost")
        if follow:
            await asyncio.Event().wait()

    _run(given, show)


@command.command("stop")
@click.argument("vm")
@click.option("--grace", type=click.FloatRange(0, 300), help="Seconds to finish.")
@connection_options
def stop(vm: str, grace: float | None, **given: Any) -> None:
    """Let machine VM finish, and end it."""

    async def end(bus: Bus) -> MachineRecord:
        reference = await _find(bus, vm)
        wish = Stop(tenant=reference.tenant, vm_id=vm, grace_s=-1.0 if grace is None else grace)
        view = await bus.operation(
            vm_spawner.stop, wish, timeout_s=max(grace or 0.0, _ASK_S) + _STOP_MARGIN_S
        )
        return view.record

    record = _run(given, end)
    terminal.line(f"{vm} is {record.observed.state}")
    if record.observed.state not in ("stopped", "failed", "lost"):
        raise Failure(f"{vm} has not ended yet", mend=f"mesh vm status {vm}", code=Exit.FAILED)


@command.command("timings")
@click.option("--tenant", default="", help="Of this tenant only.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def timings(tenant: str, as_json: bool, **given: Any) -> None:
    """Show how long each step of a spawn took, per driver: the median, in ms from the request."""
    found = _run(given, lambda bus: _list(bus, tenant, ended=True))
    by_driver: dict[str, list[MachineRecord]] = {}
    for view in found.machines:
        if view.record.observed.timings.ready is not None:
            by_driver.setdefault(view.record.observed.driver, []).append(view.record)
    table = {
        driver: {
            "machines": float(len(records)),
            **{step: _median(records, step) for step in _STEPS},
        }
        for driver, records in sorted(by_driver.items())
    }
    if as_json:
        terminal.line(terminal.pretty(table))
        return
    rows = [
        (driver, f"{steps['machines']:.0f}", *(_plain(steps[step]) for step in _STEPS))
        for driver, steps in table.items()
    ]
    head = ("DRIVER", "MACHINES", *(step.upper() for step in _STEPS))
    terminal.line(terminal.table(head, rows))


@command.command("drivers")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def drivers(as_json: bool, **given: Any) -> None:
    """Show which drivers of machines work on the spawner's host, and why the others do not."""
    found: Drivers = _run(
        given,
        lambda bus: bus.operation(vm_spawner.drivers, ListDrivers(), timeout_s=_ASK_S),
    )
    if as_json:
        terminal.line(terminal.pretty(found))
        return
    rows = [
        (one.driver, "yes" if one.available else "no", one.isolation, one.limits, one.reason)
        for one in found.drivers
    ]
    terminal.line(terminal.table(("DRIVER", "WORKS", "ISOLATION", "LIMITS", "REASON"), rows))


def _run(given: dict[str, Any], work: Callable[[Bus], Awaitable[T]]) -> T:
    return asyncio.run(ask(target(given), work))


async def _list(bus: Bus, tenant: str, *, ended: bool) -> Machines:
    wish = ListMachines(tenant=tenant, ended=ended, limit=_ALL)
    return await bus.operation(vm_spawner.list_machines, wish, timeout_s=_ASK_S)


async def _find(bus: Bus, vm: str) -> MachineRef:
    """Whose machine this is; ids are unique, so nobody has to say it.

    Raises:
        Failure: there is none.
    """
    for view in (await _list(bus, "", ended=True)).machines:
        if view.record.vm_id == vm:
            return MachineRef(tenant=view.record.tenant, vm_id=vm)
    raise Failure(f"there is no machine {vm}", mend="mesh vm list --all", code=Exit.REFUSED)


def _median(records: list[MachineRecord], step: str) -> float | None:
    values: list[float] = []
    for record in records:
        value = msgspec.structs.asdict(record.observed.timings)[step]
        if value is not None:
            values.append(value)
    return sorted(values)[len(values) // 2] if values else None


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _taken(view: MachineView) -> str:
    if view.memory_bytes is None:
        return "-"
    return f"{view.memory_bytes / 2**20:.0f} MiB, {view.cpu_s or 0:.2f} s CPU, {view.pids} threads"


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%m-%d %H:%M:%S")
