"""The steps of a spawn, each with its undo.

An undo is idempotent and does not ask how far its step came: it is the same for a step that
failed, a machine that ends, and what a dead spawner left (``reconciler``). What an undo could not
remove stays written down in the machine's directory and is tried again.
"""

import os
from typing import Protocol

import msgspec

from mcp_proto.contracts.vm_spawner import MachineRecord, MachineState, Phase, Timings
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import ROOT, encode_token
from vm_spawner.core.machine import moved
from vm_spawner.core.refusals import boot_failed
from vm_spawner.drivers.machine import Handle, Image, Link, MachineDriver, MachineSpec
from vm_spawner.network.identity import Identity
from vm_spawner.spawn.console import Console
from vm_spawner.spawn.directories import Trace
from vm_spawner.spawn.hello import ENTROPY_BYTES, Control, Go
from vm_spawner.spawn.ports import OpenLink, Parts

__all__ = ["Boot", "Hello", "ImageStep", "Network", "Step", "Work"]


class Work:
    """One machine in the making: what its steps have done so far.

    Args:
        parts: what it stands on.
        record: as admitted.
        console: of the machine.
    """

    def __init__(self, parts: Parts, record: MachineRecord, console: Console) -> None:
        self.parts = parts
        self.record = record
        self.console = console
        self.driver: MachineDriver = parts.drivers[record.observed.driver]
        self.trace = Trace(
            vm_id=record.vm_id,
            tenant=record.tenant,
            boot=parts.bus.boot,
            driver=record.observed.driver,
        )
        self.began = parts.clock()
        self.timings = Timings()
        self.image: Image | None = None
        self.control = Control()
        self.link: Link | None = None
        self.open_link: OpenLink | None = None

    @property
    def handle(self) -> Handle | None:
        """Of the driver, as written down."""
        return self.trace.handle

    def mark(self, name: str, when: float | None = None) -> None:
        """Note when a step was done; None = now."""
        at = round(((self.parts.clock() if when is None else when) - self.began) * 1000, 3)
        self.timings = msgspec.structs.replace(self.timings, **{name: at})

    def note(self, handle: Handle | None) -> None:
        """Write down what may exist.

        Raises:
            MeshError: the disk is full.
        """
        self.trace = msgspec.structs.replace(self.trace, handle=handle)
        self.parts.directories.write(self.trace)

    async def move(self, state: MachineState, **changes: object) -> None:
        """The record's next state.

        Raises:
            MeshError: it cannot be written, or somebody else has ended the machine.
        """

        def next_of(record: MachineRecord) -> MachineRecord:
            observed = record.observed
            if (observed.host, observed.boot) != (self.parts.bus.instance, self.parts.bus.boot):
                raise MeshError(ErrorKind.LOST, "the machine is another spawner's now")
            if record.observed.state == state:
                return record
            try:
                return moved(record, state, timings=self.timings, **changes)
            except ValueError:
                raise MeshError(
                    ErrorKind.LOST, f"the machine is {observed.state} already"
                ) from None

        changed = await self.parts.store.change(self.record.tenant, self.record.vm_id, next_of)
        if changed is None:
            raise MeshError(ErrorKind.LOST, "the record of the machine is gone")
        self.record = changed


class Step(Protocol):
    """One step; ``phase`` is its name in errors."""

    phase: Phase

    async def do(self, work: Work) -> None:
        """Do it.

        Raises:
            MeshError: it failed; its undo and those of the steps before follow.
        """
        ...

    async def undo(self, work: Work) -> None:
        """Remove everything of it. Idempotent.

        Raises:
            MeshError: something stays.
        """
        ...


class ImageStep:
    """The image is whole and at hand."""

    phase: Phase = "image"

    async def do(self, work: Work) -> None:
        """Check digests, unpack; images are shared, so there is nothing to undo."""
        work.parts.point("image.begin")
        wanted = work.record.desired.image
        if wanted:
            work.image = work.parts.images.find(wanted)
            if work.image is None:
                raise MeshError(ErrorKind.PARAMS, f"there is no image {wanted}")
            await work.driver.prepare(work.image)
        work.mark("image")
        work.parts.point("image.prepared")

    async def undo(self, work: Work) -> None:
        """Images stay."""


class Network:
    """A directory of the machine's own, with the sockets that are its only way out."""

    phase: Phase = "network"

    async def do(self, work: Work) -> None:
        """Directory, console, control, link."""
        parts, record = work.parts, work.record
        parts.directories.make(work.trace)
        parts.point("network.directory")
        link = work.link = parts.directories.link(record.vm_id)
        names = (record.desired.agent or record.vm_id,)
        identity = Identity(vm_id=record.vm_id, tenant=record.tenant, names=names)
        try:
            await work.console.listen(link.console)
            await work.control.listen(link.control)
            parts.point("network.sockets")
            work.open_link = await parts.links.open(
                link.socket, identity, mux=parts.reports[work.driver.name].mux
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "failed"
            raise boot_failed(
                "boot_failed", self.phase, f"the machine's sockets cannot be made: {reason}"
            ) from error
        work.mark("network")
        parts.point("network.proxy")

    async def undo(self, work: Work) -> None:
        """Hang up, forget the credential, remove the directory."""
        parts, vm_id = work.parts, work.record.vm_id
        if work.open_link is not None:
            await work.open_link.close()
            work.open_link = None
        await work.control.close()
        await work.console.close()
        await parts.links.forget(vm_id)
        parts.point("end.unlinked")
        parts.directories.remove(vm_id)
        parts.point("end.removed")


class Boot:
    """The process runs."""

    phase: Phase = "boot"

    async def do(self, work: Work) -> None:
        """Create, write down, start, write down."""
        parts = work.parts
        assert work.link is not None
        await work.move("creating")
        parts.point("boot.recorded")
        handle = await work.driver.create(_spec(work), work.link)
        parts.point("boot.created")
        work.note(handle)
        work.mark("created")
        parts.point("boot.written")
        await work.move("booting", limits=handle.limits)
        parts.point("boot.starting")
        handle = await work.driver.start(handle)
        parts.point("boot.started")
        work.note(handle)
        work.mark("running")
        parts.point("boot.pid-written")

    async def undo(self, work: Work) -> None:
        """End it and remove what the driver made, also what it could not tell of."""
        handle = work.handle
        if handle is not None:
            await work.driver.destroy(handle)
        for orphan in await work.driver.scan():
            if orphan.vm_id == work.record.vm_id:
                await work.driver.destroy(orphan.handle)
        if handle is not None and work.parts.directories.path(work.record.vm_id).exists():
            work.note(None)
        work.parts.point("end.destroyed")


class Hello:
    """The machine says who it is not: it is told, and says that it is ready."""

    phase: Phase = "hello"

    async def do(self, work: Work) -> None:
        """Hello, go, ready."""
        parts, record = work.parts, work.record
        assert work.link is not None
        await work.move("handshake")
        parts.point("hello.begin")
        await work.control.hello()
        work.mark("hello")
        parts.point("hello.greeted")
        await work.control.go(
            Go(
                vm_id=record.vm_id,
                tenant=record.tenant,
                prefix=f"{ROOT}.{encode_token(record.tenant)}",
                now=parts.now_ms() / 1000,
                entropy=os.urandom(ENTROPY_BYTES).hex(),
                config=record.desired.config,
            )
        )
        await work.control.ready()
        connected = work.open_link.connected_at if work.open_link is not None else None
        if connected is not None:
            work.mark("connected", connected)
        work.mark("ready")
        await work.move(
            "ready", started_ms=parts.now_ms(), ready_ms=work.timings.ready, reason="", phase=""
        )
        parts.point("hello.ready")

    async def undo(self, work: Work) -> None:
        """Nothing of its own: the process ends with ``Boot``, the channel with ``Network``."""


def _spec(work: Work) -> MachineSpec:
    desired, config = work.record.desired, work.parts.config
    program = next((one for one in config.programs if one.name == desired.program), None)
    return MachineSpec(
        vm_id=work.record.vm_id,
        tenant=work.record.tenant,
        shape=desired.shape,
        image=work.image,
        program=() if program is None else program.argv,
        environment={} if program is None else program.environment,
        read_only=() if program is None else program.read_only,
    )
