"""The spawner's table of contents: what it keeps, what it serves, what it looks after."""

import asyncio
import functools
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts import vm_spawner as contract
from mcp_proto.contracts.vm_spawner import (
    AuctionRequest,
    Bid,
    Deploy,
    Logs,
    MachineRecord,
    MachineRef,
)
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.names import VM_SERVER, VM_SPAWNER
from mcp_proto.subjects import QUEUE
from mesh_chassis.bus.call import Call
from mesh_chassis.bus.endpoint import Endpoint, serve_operation
from mesh_chassis.callerctx import ContextVerifier
from mesh_chassis.children import Children
from mesh_chassis.clock import monotonic
from mesh_chassis.config import ConfigError
from mesh_chassis.keyring import KeyRing
from mesh_chassis.presence import Presence
from mesh_chassis.registration import Registration
from mesh_chassis.sandbox.launch import Sandboxes
from mesh_chassis.service import Service
from vm_spawner.config import Program, VmSpawnerConfig
from vm_spawner.drivers.machine import MachineDriver, Report
from vm_spawner.drivers.process import ProcessDriver
from vm_spawner.drivers.qemu import QemuDriver
from vm_spawner.drivers.sandbox import SandboxDriver
from vm_spawner.handlers.admission import Admission
from vm_spawner.handlers.operations import LOGS_VERB, USAGE_VERB, Operations
from vm_spawner.handlers.tools import Tools, catalog
from vm_spawner.images import ImageShelf
from vm_spawner.network.links import Links
from vm_spawner.reconciler import Reconciler
from vm_spawner.spawn.directories import Directories
from vm_spawner.spawn.host import MachineHost
from vm_spawner.spawn.points import Point, pass_by
from vm_spawner.spawn.ports import LinkOpener, Parts
from vm_spawner.store.machines import MachineStore
from vm_spawner.store.peers import Peers
from vm_spawner.store.quotas import QuotaStore

__all__ = ["NAME", "build", "usual_program"]

NAME = VM_SPAWNER
START_S = 30.0
"""How long a start waits for the registry; then the process is started again."""
SLOTS = 64
PROBE_S = 60.0
PING_S = 2.0
KEYS_RETRY_S = 1.0
_GUEST = "mesh_sdk.guest"
_PACKAGES = ("mesh_sdk", "mesh_chassis", "mcp_proto")
P = TypeVar("P", bound=msgspec.Struct)
_encode = msgspec.json.Encoder().encode


async def build(
    service: Service,
    config: VmSpawnerConfig,
    *,
    point: Point = pass_by,
    links: LinkOpener | None = None,
) -> None:
    """Add every part to ``service``.

    Args:
        service: of the chassis.
        config: its file.
        point: where the process may die, for the crash tests.
        links: how machines reach the broker; None = by credentials of tenant-auth.

    Raises:
        MeshError: buckets cannot be read, or the state directory cannot be used.
        ConfigError: a driver that the file insists on does not work here.
    """
    parts = await _parts(service, config, point=point, links=links)
    peers = await Peers.open(service.bus, timeout_s=START_S)
    service.on_stop(peers.close)
    host = MachineHost(parts)
    operations = Operations(parts, host, peers)
    reconciler = Reconciler(parts, host, peers.lives)
    _serve(service, operations, host)
    await _serve_tools(service, parts.config, operations)
    _watch(service, parts, host, peers, reconciler, operations)
    service.metrics.ask("mesh_vms", lambda: float(len(host)))
    service.add_health_check("leaks", lambda: not reconciler.leaks, required=False)

    async def clean() -> None:
        # What an earlier life of this spawner left goes before it takes work.
        await reconciler.once()

    async def begin() -> None:
        service.tasks.spawn(reconciler.run(), name="reconciler", fatal=True)

    service.on_start(clean)
    service.on_ready(begin)
    service.on_drain(host.drain)


async def _parts(
    service: Service, config: VmSpawnerConfig, *, point: Point, links: LinkOpener | None
) -> Parts:
    bus = service.bus
    children = Children()
    service.on_stop(children.close)
    directories = Directories(Path(config.vm.state_dir))
    config = msgspec.structs.replace(config, programs=(*config.programs, *_usual(config)))
    images = ImageShelf(config.images)
    drivers, reports = await _drivers(config, children, directories.root, images)
    store = await MachineStore.open(bus, timeout_s=START_S)
    service.on_stop(store.close)
    return Parts(
        bus=bus,
        tasks=service.tasks,
        config=config,
        store=store,
        quotas=await QuotaStore.open(bus, timeout_s=START_S),
        directories=directories,
        drivers=drivers,
        reports=reports,
        links=links or Links(bus),
        images=images,
        point=point,
        now_ms=bus.server_now_ms,
        clock=monotonic,
        count=service.metrics.add,
    )


def _serve(service: Service, operations: Operations, host: MachineHost) -> None:
    bus = service.bus
    for endpoint in (
        serve_operation(bus, contract.spawn, operations.spawn, slots=SLOTS),
        serve_operation(bus, contract.stop, operations.stop, slots=SLOTS),
        serve_operation(bus, contract.kill, operations.kill, slots=SLOTS),
        serve_operation(bus, contract.list_machines, operations.list, slots=SLOTS),
        serve_operation(bus, contract.status, operations.status, slots=SLOTS),
        serve_operation(bus, contract.logs, operations.logs, slots=SLOTS),
        serve_operation(bus, contract.drivers, operations.drivers, slots=SLOTS),
    ):
        service.add_endpoint(endpoint)

    async def bid(request: AuctionRequest) -> Bid:
        return host.bid(request)

    directed = functools.partial(subjects.instance, subjects.PLATFORM, bus.instance)
    for subject, name, handler in (
        (contract.auction_subject(), "auction", _typed(AuctionRequest, bid)),
        (contract.deploy_subject(bus.instance), "deploy", _typed(Deploy, host.deploy)),
        (directed(LOGS_VERB), LOGS_VERB, _typed(Logs, operations.console)),
        (directed(USAGE_VERB), USAGE_VERB, _typed(MachineRef, operations.usage)),
    ):
        service.add_endpoint(
            Endpoint(bus, subject=subject, handler=handler, slots=SLOTS, name=name)
        )


async def _serve_tools(service: Service, config: VmSpawnerConfig, operations: Operations) -> None:
    bus, unsigned = service.bus, config.vm.allow_unsigned
    admission = Admission(allow_unsigned=unsigned)

    async def learn_keys() -> None:
        ring = await KeyRing.open(bus)
        service.on_stop(ring.close)
        admission.use(ContextVerifier(ring, clock_ms=bus.server_now_ms))

    async def learn_keys_late() -> None:
        while True:
            try:
                await learn_keys()
            except MeshError:
                await asyncio.sleep(KEYS_RETRY_S)
            else:
                return

    if unsigned:
        # Development: unsigned calls work before tenant-auth is there, or without it.
        service.tasks.spawn(learn_keys_late(), name="learn-keys")
    else:
        await learn_keys()
    service.add_endpoint(
        Endpoint(
            bus,
            subject=subjects.call(subjects.ANY, VM_SERVER, subjects.ANY),
            queue=QUEUE,
            handler=Tools(operations, admission).call,
            slots=SLOTS,
            name="call-vm",
        )
    )
    registration = Registration(bus, functools.partial(_announce, service))
    registration.offer(catalog(service.version))

    async def begin() -> None:
        service.tasks.spawn(registration.run(), name="registration", fatal=True)

    async def again() -> None:
        registration.repeat()

    bus.on_reconnect(again)
    service.on_ready(begin)


def _announce(service: Service, servers: dict[str, str]) -> None:
    if isinstance(service.presence, Presence):
        service.presence.set_servers(servers)


def _typed(
    kind: type[P], answer: Callable[[P], Awaitable[msgspec.Struct]]
) -> Callable[[Call], Awaitable[bytes]]:
    """A handler of bytes for one of structs."""
    decoder = msgspec.json.Decoder(kind)

    async def run(call: Call) -> bytes:
        try:
            params = decoder.decode(call.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(ErrorKind.PARAMS, f"parameters: {error}") from error
        return _encode(await answer(params))

    return run


def _watch(
    service: Service,
    parts: Parts,
    host: MachineHost,
    peers: Peers,
    reconciler: Reconciler,
    operations: Operations,
) -> None:
    for watch, bucket in ((parts.store.watch, "mesh_vms"), (peers.watch, "mesh_instances")):
        service.add_watch(watch, bucket=bucket)

    def on_change(record: MachineRecord) -> None:
        host.nudge(record)
        operations.on_change(record)

    def on_silent(instance: str) -> None:
        if instance in host:
            service.tasks.spawn(_look_after(parts, host, instance), name="silent-agent")

    parts.store.on_change = on_change
    peers.on_silent = on_silent
    peers.on_spawners = reconciler.nudge


async def _look_after(parts: Parts, host: MachineHost, vm_id: str) -> None:
    """An agent whose beats have ceased is asked once, then its machine ends."""
    machine = host.get(vm_id)
    if machine is None:
        return
    subject = subjects.instance(machine.tenant, vm_id, "ping")
    try:
        await parts.bus.request(subject, b"", timeout_s=PING_S)
    except MeshError as error:
        if error.kind in (ErrorKind.NO_RUNNER, ErrorKind.DEADLINE):
            host.silent(vm_id)


async def _drivers(
    config: VmSpawnerConfig, children: Children, root: Path, images: ImageShelf
) -> tuple[dict[str, MachineDriver], dict[str, Report]]:
    """Those that the file enables, and what each said when it was tried.

    Raises:
        ConfigError: the only driver that the file allows does not work.
    """
    drivers: dict[str, MachineDriver] = {}
    secrets = (config.bus.nkey_seed_file, config.bus.creds_file)
    sandboxes = Sandboxes(children, secrets=secrets)
    if config.sandbox.enabled:
        drivers["sandbox"] = SandboxDriver(children, sandboxes, root)
    if config.qemu.enabled:
        drivers["qemu"] = QemuDriver(
            children,
            sandboxes,
            root,
            accel=config.qemu.accel,
            binary=config.qemu.binary,
            images=images.all,
        )
    if config.process.enabled:
        drivers["process"] = ProcessDriver(children, root, allow_unsafe=config.process.allow_unsafe)
    reports: dict[str, Report] = {}
    for name, driver in drivers.items():
        try:
            async with asyncio.timeout(PROBE_S):
                reports[name] = await driver.probe()
        except TimeoutError:
            reports[name] = Report(
                driver=name,
                available=False,
                reason=f"its self-test did not end within {PROBE_S:g} s",
                isolation="none",
            )
    chosen = config.vm.driver
    if chosen != "auto":
        report = reports.get(chosen)
        if report is None or not report.available:
            reason = "it is not enabled" if report is None else report.reason
            raise ConfigError("", "vm.driver", f"driver {chosen} does not work here: {reason}")
    return drivers, reports


def _usual(config: VmSpawnerConfig) -> tuple[Program, ...]:
    """The program ``agent``, unless the file has one of that name."""
    return () if any(one.name == "agent" for one in config.programs) else (usual_program(),)


def usual_program() -> Program:
    """The program ``agent``: what runs in every machine, here on the host's interpreter."""
    argv = (sys.executable, "-m", _GUEST, "--control", "{control}", "--link", "{link}")
    return Program(name="agent", argv=argv, read_only=_interpreter())


def _interpreter() -> tuple[str, ...]:
    """Folders without which our guest stage does not start; none below another of them."""
    paths = {Path(sys.prefix), Path(sys.base_prefix)}
    for name in _PACKAGES:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin:
            paths.add(Path(found.origin).parent.parent)
    top = [path for path in paths if not any(path.is_relative_to(o) for o in paths - {path})]
    return tuple(sorted(str(path) for path in top if path != Path("/usr")))
