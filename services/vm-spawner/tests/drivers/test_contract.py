"""What every driver must do, by one suite for all of them.

A driver that does not work on this host is skipped with the reason that its probe gives.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mcp_proto.contracts.vm_spawner import Shape, rank
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.children import Children
from mesh_chassis.sandbox.launch import Sandboxes
from mesh_chassis.testing.conditions import eventually
from vm_spawner.drivers.machine import Handle, Image, Link, MachineDriver, MachineSpec, Report
from vm_spawner.drivers.process import ProcessDriver
from vm_spawner.drivers.qemu import QemuDriver
from vm_spawner.drivers.sandbox import SandboxDriver
from vm_spawner.service import usual_program
from vm_spawner.spawn.console import Console
from vm_spawner.spawn.hello import Control, Go

ROOT = Path(__file__).parents[4]
BUILT = ROOT / "build" / "vm-image"
HELLO_S = 45.0
WAITS = "import time\nprint('it runs', flush=True)\ntime.sleep(600)"
FORKS = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        break
print('it runs', flush=True)
time.sleep(600)
"""
PROMISES = {"process": "none", "sandbox": "sandbox", "qemu": "vm-emulated"}
"""Class that a driver gives at least; hardware virtualisation gives more."""

NAMES = [
    "process",
    "sandbox",
    pytest.param("qemu", marks=[pytest.mark.slow, pytest.mark.timeout(180)]),
]


class Rig:
    """One driver, and the sockets that a spawner would listen on."""

    def __init__(self, driver: MachineDriver, report: Report, root: Path) -> None:
        self.driver = driver
        self.report = report
        self.root = root
        self.image: Image | None = None
        self.lines: list[bytes] = []
        self.console = Console(self.lines.append, bytes_per_s=1024 * 1024)
        self.control = Control()
        self.link: Link | None = None
        self.servers: list[asyncio.Server] = []

    async def listen(self, vm_id: str) -> Link:
        folder = self.root / vm_id / "l"
        await asyncio.to_thread(folder.mkdir, 0o700, True)
        self.link = Link(
            directory=str(folder),
            socket=str(folder / "nats.sock"),
            control=str(folder / "ctl.sock"),
            console=str(folder / "out.sock"),
        )
        await self.console.listen(self.link.console)
        await self.control.listen(self.link.control)

        async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        self.servers.append(await asyncio.start_unix_server(hang_up, self.link.socket))
        return self.link

    def spec(self, vm_id: str, **shape: object) -> MachineSpec:
        usual = usual_program()
        program = () if self.image else usual.argv
        read_only = () if self.image else usual.read_only
        return MachineSpec(
            vm_id=vm_id,
            tenant="acme",
            shape=msgspec.structs.replace(Shape(mem_mib=256), **shape),
            image=self.image,
            program=program,
            read_only=read_only,
        )

    async def created(self, vm_id: str, **shape: object) -> Handle:
        link = await self.listen(vm_id)
        return await self.driver.create(self.spec(vm_id, **shape), link)

    async def running(self, vm_id: str, source: str = WAITS, **shape: object) -> Handle:
        """A machine whose program runs."""
        handle = await self.driver.start(await self.created(vm_id, **shape))
        async with asyncio.timeout(HELLO_S):
            await self.control.hello()
        config = {"source": source}
        await self.control.go(
            Go(
                vm_id=vm_id,
                tenant="acme",
                prefix="mesh.v1.acme",
                now=time.time(),
                entropy=os.urandom(32).hex(),
                config=msgspec.Raw(msgspec.json.encode(config)),
            )
        )
        await eventually(
            lambda: any(b"it runs" in line for line in self.lines),
            timeout_s=HELLO_S,
            what=f"{self.lines}",
        )
        return handle

    async def close(self) -> None:
        for server in self.servers:
            server.close()
        await self.control.close()
        await self.console.close()


def driver_of(name: str, children: Children, root: Path) -> tuple[MachineDriver, Image | None]:
    sandboxes = Sandboxes(children)
    match name:
        case "process":
            return ProcessDriver(children, root, allow_unsafe=True), None
        case "sandbox":
            return SandboxDriver(children, sandboxes, root), None
        case _:
            if not (BUILT / "image.json").exists():
                subprocess.run(
                    [sys.executable, ROOT / "deploy" / "vm-image" / "build.py"], check=True
                )
            about = json.loads((BUILT / "image.json").read_bytes())
            image = Image(
                digest=about["digest"],
                directory=str(BUILT),
                memory_min_mib=about["memoryMinMib"],
            )
            return QemuDriver(children, sandboxes, root, accel="tcg", images=(image,)), image


@pytest.fixture
def root() -> Iterator[Path]:
    # Not tmp_path: a Unix socket's path is short.
    with tempfile.TemporaryDirectory(prefix="vm") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest_asyncio.fixture(params=NAMES)
async def rig(request: pytest.FixtureRequest, root: Path) -> AsyncIterator[Rig]:
    children = Children()
    driver, image = driver_of(request.param, children, root)
    report = await driver.probe()
    if not report.available:
        await children.close()
        pytest.skip(f"driver {request.param}: {report.reason}")
    made = Rig(driver, report, root)
    made.image = image
    yield made
    for orphan in await driver.scan():
        await driver.destroy(orphan.handle)
    await made.close()
    await children.close()


async def test_probe_says_what_it_is_and_never_rounds_up(rig: Rig) -> None:
    promised = PROMISES[rig.driver.name]
    assert rank(rig.report.isolation) >= rank(promised)
    assert rig.report.driver == rig.driver.name
    assert rig.report.reason
    assert rig.report.limits


async def test_nothing_runs_before_start_and_nothing_after_destroy(rig: Rig) -> None:
    handle = await rig.created("quiet-1")
    assert not (await rig.driver.stat(handle)).running
    assert await rig.driver.scan() == []
    await rig.driver.destroy(handle)
    await rig.driver.destroy(handle)


async def test_machine_says_hello_runs_and_is_found_and_measured(rig: Rig) -> None:
    handle = await rig.running("alive-1")
    assert handle.pid > 0
    assert handle.started > 0
    usage = await rig.driver.stat(handle)
    assert usage.running
    assert usage.memory_bytes
    assert [one.vm_id for one in await rig.driver.scan()] == ["alive-1"]
    await rig.driver.destroy(handle)
    assert not (await rig.driver.stat(handle)).running
    assert await rig.driver.scan() == []


async def test_stop_ends_it_within_its_grace(rig: Rig) -> None:
    handle = await rig.running("stops-1")
    began = time.monotonic()
    await rig.driver.stop(handle, 2.0)
    assert time.monotonic() - began < 10.0
    assert not (await rig.driver.stat(handle)).running
    await rig.driver.destroy(handle)


async def test_kill_takes_everything_that_it_started(rig: Rig) -> None:
    handle = await rig.running("forks-1", FORKS)
    await rig.driver.kill(handle)
    assert not (await rig.driver.stat(handle)).running
    assert await rig.driver.scan() == []
    await rig.driver.kill(handle)
    await rig.driver.destroy(handle)


async def test_another_spawner_can_destroy_it_from_what_was_written_down(
    rig: Rig, root: Path
) -> None:
    handle = await rig.running("found-1")
    written = msgspec.json.decode(msgspec.json.encode(handle), type=Handle)
    children = Children()
    try:
        other, _ = driver_of(rig.driver.name, children, root)
        assert [one.vm_id for one in await other.scan()] == ["found-1"]
        await other.destroy(written)
        assert await other.scan() == []
        assert await rig.driver.scan() == []
        await rig.driver.destroy(handle)  # what the first one still holds of it
    finally:
        await children.close()


async def test_what_it_cannot_do_it_says(rig: Rig) -> None:
    handle = await rig.created("plain-1")
    if "snapshot" not in rig.report.features:
        with pytest.raises(MeshError) as caught:
            await rig.driver.snapshot(handle)
        assert caught.value.kind is ErrorKind.CAPABILITY
    if "pause" not in rig.report.features:
        with pytest.raises(MeshError) as caught:
            await rig.driver.pause(handle)
        assert caught.value.kind is ErrorKind.CAPABILITY
    await rig.driver.destroy(handle)


async def test_memory_is_limited_where_the_driver_says_so(rig: Rig) -> None:
    if rig.report.limits.startswith("none"):
        return
    source = "print('it runs', flush=True)\ndata = bytearray(900 * 1024 * 1024)\nprint('too much')"
    handle = await rig.running("greedy-1", source)

    async def over() -> bool:
        if any(b"too much" in line for line in rig.lines):
            raise AssertionError("the machine took more than its limit")
        return not (await rig.driver.stat(handle)).running

    await eventually(over, timeout_s=30.0)
    await rig.driver.destroy(handle)


async def test_sockets_are_left_to_the_spawner_and_nothing_else_is_left(rig: Rig) -> None:
    handle = await rig.running("tidy-1")
    await rig.driver.destroy(handle)
    assert rig.link is not None
    left = set(await asyncio.to_thread(os.listdir, rig.link.directory))
    assert left <= {"nats.sock", "ctl.sock", "out.sock"}
