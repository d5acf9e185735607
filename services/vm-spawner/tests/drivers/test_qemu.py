"""Driver ``qemu`` with real machines: the built image, booted by emulation, in its jail."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcp_proto import subjects
from mcp_proto.contracts import vm_spawner as contract
from mcp_proto.contracts.vm_spawner import Logs, MachineRef, Shape, Stop, Wanted
from mcp_proto.errors import MeshError
from mesh_chassis.children import Children
from mesh_chassis.sandbox.launch import Sandboxes
from mesh_chassis.testing.conditions import eventually
from vm_spawner.config import ImageEntry, QemuSection
from vm_spawner.drivers.image_files import ImageCheck
from vm_spawner.drivers.machine import Image, Link, MachineSpec
from vm_spawner.drivers.qemu import QemuDriver

ROOT = Path(__file__).parents[4]
BUILT = ROOT / "build" / "vm-image"
BOOT_S = 45.0


@pytest.fixture(scope="session")
def built() -> Path:
    """The image; built now where nobody has (15 s), for what is tested is what is shipped."""
    if not (BUILT / "image.json").exists():
        subprocess.run([sys.executable, ROOT / "deploy" / "vm-image" / "build.py"], check=True)
    return BUILT


@pytest.fixture
def image(built: Path) -> Image:
    about = json.loads((built / "image.json").read_bytes())
    return Image(digest=about["digest"], directory=str(built), memory_min_mib=about["memoryMinMib"])


async def call(bus: Any, tenant: str, server: str, tool: str, **arguments: object) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments}}  # fmt: skip
    reply = await bus.request(
        subjects.call(tenant, server, tool), msgspec.json.encode(body), timeout_s=30.0
    )
    answer = msgspec.json.decode(reply.payload)
    assert "result" in answer, answer
    return answer["result"]["structuredContent"]


INSIDE = """
import json, os, socket, subprocess, pathlib
def tried(what):
    try:
        what()
    except BaseException as error:
        return type(error).__name__
    return "done"
def dial(host, port):
    socket.create_connection((host, port), 2).close()
environments = [p.read_bytes() for p in pathlib.Path("/proc").glob("[0-9]*/environ")
                if os.access(p, os.R_OK)]
said = {
    "uid": os.getuid(), "groups": os.getgroups(),
    "broker": tried(lambda: dial("127.0.0.1", %(port)d)),
    "slirp": tried(lambda: dial("10.0.2.2", %(port)d)),
    "metadata": tried(lambda: dial("169.254.169.254", 80)),
    "dns": tried(lambda: socket.getaddrinfo("example.org", 80)),
    "control": tried(lambda: open("/dev/virtio-ports/ctl.0", "r+b")),
    "port": tried(lambda: open("/dev/virtio-ports/nats.0", "r+b", buffering=0)),
    "memory": tried(lambda: open("/dev/mem", "rb")),
    "modules": tried(lambda: pathlib.Path("/proc/sys/kernel/modules_disabled").write_text("0")),
    "clock": tried(lambda: __import__("time").clock_settime(0, 0)),
    "root": tried(lambda: os.setuid(0)),
    "write": tried(lambda: open("/init", "w")),
    "kill": tried(lambda: os.kill(1, 9)),
    "devices": sorted(os.listdir("/sys/class/net")) + sorted(os.listdir("/sys/block")),
    "cmdline": pathlib.Path("/proc/cmdline").read_text(),
    "disabled": pathlib.Path("/proc/sys/kernel/modules_disabled").read_text().strip(),
    "status": pathlib.Path("/proc/self/status").read_text(),
    "seed": any(b"SU" + b"A" in one or b"nkey" in one.lower() for one in environments),
    "now": __import__("time").time(),
}
print(json.dumps(said))
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_agent_in_an_emulated_machine_answers_and_nothing_is_left_after_its_stop(
    start_spawner: Any, connect_bus: Any, built: Path
) -> None:
    spawner = await start_spawner(
        images=(ImageEntry(name="default", directory=str(built)),),
        qemu=QemuSection(accel="tcg"),
        min_isolation="sandbox",
    )
    gateway = await connect_bus("gateway", "gateway-1")
    lines: list[bytes] = []

    async def on_line(message: Any) -> None:
        lines.append(message.data)

    vm_id, tenant = "emulated-1", spawner.tenant
    await spawner.asker.subscribe(contract.log_subject(tenant, vm_id), on_line)
    config = {"name": vm_id, "environment": {"MESH_AGENT_ALLOW_UNSIGNED": "true"}}
    began = time.monotonic()
    await spawner.spawn(
        vm_id,
        image="default",
        program="",
        config=msgspec.Raw(msgspec.json.encode(config)),
        isolation=Wanted(driver="qemu", own_kernel=True),
    )
    record = await spawner.until(vm_id, "ready", "failed", timeout_s=BOOT_S)
    print(f"ready after {time.monotonic() - began:.2f} s", record.observed.timings)
    assert record.observed.state == "ready", record.observed
    assert (record.observed.driver, record.observed.isolation) == ("qemu", "vm-emulated")

    about = await call(gateway, tenant, vm_id, "about")
    assert (about["machine"], about["uid"], about["interfaces"]) == (vm_id, 1000, ["lo"])
    # What escape attempts from inside give; the broker's own port is on this host's loopback.
    ran = await call(gateway, tenant, vm_id, "python", code=INSIDE % {"port": 4222})
    assert ran["status"] == 0, ran
    said = json.loads(ran["stdout"])
    for attempt in ("broker", "slirp", "metadata", "dns", "control", "memory", "modules",
                    "clock", "root", "write", "kill"):  # fmt: skip
        assert said[attempt] != "done", attempt
    assert said["port"] == "OSError"  # the agent has it, and nobody twice
    assert (said["uid"], said["groups"], said["devices"]) == (1000, [], ["lo"])
    assert said["disabled"] == "1"
    assert "NoNewPrivs:\t1" in said["status"]
    assert "CapBnd:\t0000000000000000" in said["status"]
    assert not said["seed"]
    assert vm_id not in said["cmdline"]
    assert abs(said["now"] - time.time()) < 5

    large = await call(
        gateway, tenant, vm_id, "python", code="import sys; print(len(sys.stdin.read()))",
        stdin="x" * 500_000,
    )  # fmt: skip
    assert large["stdout"] == "500000\n"

    usage = await spawner.asker.operation(contract.status, MachineRef(tenant=tenant, vm_id=vm_id))
    assert usage.memory_bytes
    stopping = time.monotonic()
    ended = await spawner.asker.operation(
        contract.stop, Stop(tenant=tenant, vm_id=vm_id, grace_s=10.0), timeout_s=40.0
    )
    print(f"stopped after {time.monotonic() - stopping:.2f} s")
    assert (ended.record.observed.state, ended.record.observed.code) == ("stopped", "asked")
    assert spawner.left() == []
    logs = await spawner.asker.operation(contract.logs, Logs(tenant=tenant, vm_id=vm_id))
    assert any("the program ended with 0" in line for line in logs.lines), logs.lines
    await eventually(lambda: any(b"the program ended with 0" in line for line in lines))


CLONE = """
import os, random, time, uuid
first = (random.random(), os.urandom(16).hex(), str(uuid.uuid4()))
from mesh_sdk.agent import Agent
agent = Agent("{name}")

@agent.tool
def ids() -> dict[str, object]:
    return {"random": first[0], "bytes": first[1], "uuid": first[2], "now": time.time(),
            "up": time.clock_gettime(time.CLOCK_BOOTTIME)}

agent.run()
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_clones_of_one_template_share_neither_randomness_nor_ids_nor_a_stale_clock(
    start_spawner: Any, connect_bus: Any, built: Path
) -> None:
    spawner = await start_spawner(
        images=(ImageEntry(name="default", directory=str(built)),),
        qemu=QemuSection(accel="tcg"),
        min_isolation="sandbox",
    )
    gateway = await connect_bus("gateway", "gateway-1")
    said = []
    for vm_id in ("clone-1", "clone-2"):
        began = time.monotonic()
        await spawner.ready(
            vm_id,
            image="default",
            program="",
            config=spawner.source(vm_id, CLONE),
            isolation=Wanted(driver="qemu", own_kernel=True),
        )
        print(f"{vm_id} ready after {time.monotonic() - began:.2f} s")
        said.append(await call(gateway, spawner.tenant, vm_id, "ids"))
        assert abs(said[-1]["now"] - time.time()) < 2
    for name in ("random", "bytes", "uuid"):
        assert said[0][name] != said[1][name], name
    for vm_id in ("clone-1", "clone-2"):
        await spawner.asker.operation(
            contract.stop, Stop(tenant=spawner.tenant, vm_id=vm_id, grace_s=10.0), timeout_s=40.0
        )
    assert spawner.left() == []


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_machine_pauses_goes_on_and_dies_at_once_when_it_is_killed(
    image: Image, state: Path
) -> None:
    children = Children()
    driver = QemuDriver(children, Sandboxes(children), state, accel="tcg", images=(image,))
    try:
        report = await driver.probe()
        assert report.available, report.reason
        assert report.isolation == "vm-emulated"
        assert os.listdir(state) == []  # noqa: PTH208
        heard: list[bytes] = []
        link = Link(
            directory=str(state / "one"),
            socket=str(state / "one" / "nats.sock"),
            control=str(state / "one" / "ctl.sock"),
            console=str(state / "one" / "out.sock"),
        )
        await asyncio.to_thread(os.mkdir, link.directory, 0o700)

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(4096):
                heard.append(data)
            writer.close()

        servers = [
            await asyncio.start_unix_server(listen, path)
            for path in (link.socket, link.control, link.console)
        ]
        spec = MachineSpec(vm_id="one", tenant="t", shape=Shape(mem_mib=256), image=image)
        handle = await driver.start(await driver.create(spec, link))
        await eventually(lambda: any(b"hello" in one for one in heard), timeout_s=BOOT_S)
        await driver.pause(handle)
        paused = (await driver.stat(handle)).cpu_s
        await asyncio.sleep(0.3)
        assert (await driver.stat(handle)).cpu_s == pytest.approx(paused, abs=0.05)
        await driver.resume(handle)
        assert [one.vm_id for one in await driver.scan()] == ["one"]
        began = time.monotonic()
        await driver.kill(handle)
        assert time.monotonic() - began < 1.0
        assert not (await driver.stat(handle)).running
        assert await driver.scan() == []
        await driver.destroy(handle)
        await driver.destroy(handle)
        assert "qmp.sock" not in os.listdir(link.directory)  # noqa: PTH208
        for server in servers:
            server.close()
    finally:
        await children.close()


async def test_a_host_without_qemu_or_image_is_told_what_is_missing(
    tmp_path: Path, state: Path
) -> None:
    children = Children()
    try:
        nothing = QemuDriver(children, Sandboxes(children), state)
        report = await nothing.probe()
        assert not report.available
        assert "make vm-image" in report.reason
        some = Image(digest="sha256:x", directory=str(tmp_path))
        absent = QemuDriver(
            children, Sandboxes(children), state, binary="no-such-qemu", images=(some,)
        )
        report = await absent.probe()
        assert not report.available
        assert "package qemu-system-x86" in report.reason
    finally:
        await children.close()


def _image_of(folder: Path, kernel: bytes = b"kernel") -> Image:
    files = {"kernel": kernel, "initrd": b"initrd"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    listed = "".join(f"{name} {one}\n" for name, one in sorted(digests.items()))
    digest = f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"
    about = {"digest": digest, "files": {name: {"sha256": one} for name, one in digests.items()}}
    (folder / "image.json").write_text(json.dumps(about))
    return Image(digest=digest, directory=str(folder))


def test_an_image_with_another_kernel_than_it_was_built_with_is_refused(tmp_path: Path) -> None:
    image, check = _image_of(tmp_path), ImageCheck()
    check.check(image)
    check.check(image)
    (tmp_path / "kernel").write_bytes(b"kernel of somebody else")
    with pytest.raises(MeshError, match="another kernel") as caught:
        check.check(image)
    assert caught.value.data["phase"] == "image"
    (tmp_path / "kernel").write_bytes(b"kernel")
    check.check(image)
    (tmp_path / "kernel").unlink()
    with pytest.raises(MeshError, match="cannot be read"):
        check.check(image)


def test_an_image_that_is_another_than_its_name_says_is_refused(tmp_path: Path) -> None:
    image = _image_of(tmp_path)
    renamed = msgspec.structs.replace(image, digest="sha256:" + "0" * 64)
    with pytest.raises(MeshError, match=r"not what image\.json describes"):
        ImageCheck().check(renamed)
    (tmp_path / "image.json").write_text("{")
    with pytest.raises(MeshError, match="cannot be read"):
        ImageCheck().check(image)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_corrupt_kernel_is_an_unusable_driver_with_the_reason_and_leaves_nothing(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vm_spawner.drivers import qemu

    monkeypatch.setitem(qemu.BOOT_S, "tcg", 2.0)
    if shutil.which("qemu-system-x86_64") is None:
        pytest.fail("QEMU is needed: apt-get install qemu-system-x86")
    children = Children()
    try:
        broken = _image_of(tmp_path, b"\x7fELF" + bytes(5000))
        await asyncio.to_thread(os.chmod, tmp_path, 0o755)
        driver = QemuDriver(children, Sandboxes(children), state, accel="tcg", images=(broken,))
        report = await driver.probe()
        assert not report.available
        assert "did not boot" in report.reason
        assert os.listdir(state) == []  # noqa: PTH208
        assert await driver.scan() == []
    finally:
        await children.close()
