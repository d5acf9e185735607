"""A machine whose program is hostile: what it tries from inside, each attempt a test of its own.

The machine runs once for all of them: real image, real jail, real link proxy, real broker under
the rights of production. What came of each attempt is printed by the guest on its console.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_proto.contracts.vm_spawner import Shape
from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.children import Children
from mesh_chassis.sandbox.launch import Sandboxes
from mesh_chassis.testing.broker import Broker
from vm_spawner.drivers.machine import Image, Link, MachineSpec
from vm_spawner.drivers.qemu import QemuDriver
from vm_spawner.drivers.traces import find_marked
from vm_spawner.network.credential import NkeyCredential
from vm_spawner.network.proxy import Counts, LinkProxy

ROOT = Path(__file__).parents[4]
BUILT = ROOT / "build" / "vm-image"
PROGRAM = Path(__file__).with_name("hostile_guest.py")
VM, OTHER = "hostile-1", "agent-2"
MEMORY_MIB = 256
END_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Seen:
    """What the host saw."""

    results: dict[str, str]
    counts: Counts
    status: dict[str, str]
    namespaces: bool
    most_bytes: int
    left: list[str]


async def _run(broker: Broker, state: Path, image: Image, program: str) -> Seen:
    children = Children()
    driver = QemuDriver(
        children, Sandboxes(children), state, accel="tcg", images=(image,), templates=False
    )
    report = await driver.probe()
    assert report.available, report.reason
    folder = state / VM
    await asyncio.to_thread(os.mkdir, folder, 0o700)
    link = Link(
        directory=str(folder),
        socket=str(folder / "nats.sock"),
        control=str(folder / "ctl.sock"),
        console=str(folder / "out.sock"),
    )
    credential = await asyncio.to_thread(_credential, broker)
    proxy = LinkProxy(
        bus=BusConfig(urls=(broker.url,)),
        name=f"vm/{VM}",
        credential=credential,
    )
    go = {
        "type": "go", "vmId": VM, "tenant": "demo-tenant", "now": time.time(),
        "entropy": secrets.token_hex(32), "link": "serial:/dev/virtio-ports/nats.0",
        "config": {"source": program, "arguments": [OTHER, f"{broker.port}"]},
    }  # fmt: skip
    said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(json.dumps(go).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async def console(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tail = b""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                tail = (tail + data)[-200_000:]
                _, found, rest = tail.partition(b"RESULTS ")
                if found and b"\n" in rest and not said.done():
                    said.set_result(rest.partition(b"\n")[0].decode())
        if not said.done():
            said.set_exception(AssertionError(tail[-2000:].decode(errors="replace")))
        writer.close()

    seen = Seen()
    seen.most_bytes = 0
    await proxy.listen(link.socket, mux=True)
    servers = [
        await asyncio.start_unix_server(control, link.control, limit=2**20),
        await asyncio.start_unix_server(console, link.console),
    ]
    spec = MachineSpec(vm_id=VM, tenant="t", shape=Shape(mem_mib=MEMORY_MIB), image=image)
    handle = await driver.start(await driver.create(spec, link))
    try:
        async with asyncio.timeout(END_S):
            while not said.done():
                usage = await driver.stat(handle)
                seen.most_bytes = max(seen.most_bytes, usage.memory_bytes or 0)
                for pid in find_marked(state, VM).get(VM, []):
                    _look(pid, seen)
                await asyncio.wait({said}, timeout=0.2)
        seen.results = json.loads(said.result())
        seen.counts = proxy.counts
    finally:
        await driver.destroy(handle)
        await proxy.close()
        for server in servers:
            server.close()
        seen.left = [*find_marked(state)]
        await children.close()
    return seen


def _credential(broker: Broker) -> NkeyCredential:
    return NkeyCredential(Path(broker.seed_for("agent", VM)).read_bytes())


def _look(pid: int, seen: Seen) -> None:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {name: value.strip() for name, _, value in (one.partition(":") for one in lines)}
        if status["Name"].startswith("qemu"):
            seen.status = status
            seen.namespaces = all(
                os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115
                for kind in ("net", "pid", "mnt", "user", "ipc", "uts")
            )


@pytest.fixture(scope="module")
def seen(shared_broker: Broker) -> Iterator[Seen]:
    if not (BUILT / "image.json").exists():
        subprocess.run([sys.executable, ROOT / "deploy" / "vm-image" / "build.py"], check=True)
    with tempfile.TemporaryDirectory(prefix="vm") as name:
        about = json.loads((BUILT / "image.json").read_bytes())
        image = Image(digest=about["digest"], directory=str(BUILT))
        yield asyncio.run(_run(shared_broker, Path(name), image, PROGRAM.read_text()))
        shutil.rmtree(name, ignore_errors=True)


@pytest.mark.parametrize(
    ("attempt", "refused"),
    [
        ("host_loopback", "ConnectionRefusedError"),
        ("slirp_gateway", "OSError"),
        ("metadata_address", "OSError"),
        ("outside", "OSError"),
        ("dns", "gaierror"),
        ("raw_packets", "PermissionError"),
        ("vsock_host", "OSError"),
        ("control_channel", "PermissionError"),
        ("physical_memory", "PermissionError|FileNotFoundError"),
        ("io_ports", "PermissionError"),
        ("kernel_memory", "PermissionError|FileNotFoundError"),
        ("load_module", "PermissionError"),
        ("allow_modules", "PermissionError"),
        ("set_clock", "PermissionError"),
        ("become_root", "PermissionError"),
        ("write_init", "PermissionError"),
        ("write_stage", "PermissionError"),
        ("kill_init", "PermissionError"),
        ("kill_stage", "PermissionError"),
        ("trace_stage", "PermissionError"),
        ("read_stage", "PermissionError"),
        ("mount", "PermissionError"),
        ("user_namespace", "OSError|PermissionError"),
        ("reboot", "PermissionError"),
        ("kexec", "PermissionError|OSError"),
        ("sysrq", "PermissionError|FileNotFoundError"),
        ("core_pattern", "PermissionError"),
        ("hostname", "PermissionError"),
        ("fill_memory", "MemoryError"),
        ("fill_disk", "OSError"),
        ("raise_limits", "ValueError|PermissionError"),
        ("fork_without_end", "BlockingIOError after few"),
    ],
)
def test_a_hostile_program_cannot(seen: Seen, attempt: str, refused: str) -> None:
    assert seen.results[attempt] in refused.split("|")


@pytest.mark.parametrize(
    "attempt",
    [
        "hear_everything", "hear_other_tenant", "hear_other_agent", "hear_other_inbox",
        "hear_gateway_inbox", "hear_plain_inboxes", "hear_system", "hear_keys",
        "call_other_tenant", "publish_as_gateway", "publish_machine_state", "publish_audit",
        "beat_for_other", "write_record", "write_config", "delete_stream", "make_stream",
        "spawn_machines", "reply_to_stranger", "claim_operator",
    ],
)  # fmt: skip
def test_the_broker_denies_a_hostile_program_to(seen: Seen, attempt: str) -> None:
    assert "Permissions Violation" in seen.results[attempt], seen.results[attempt]


@pytest.mark.parametrize(
    "attempt",
    ["second_connect", "connect_in_body", "not_connect_first", "broker_verbs", "too_large",
     "endless_line"],
)  # fmt: skip
def test_the_link_hangs_up_on(seen: Seen, attempt: str) -> None:
    assert seen.results[attempt].startswith("closed"), seen.results[attempt]


def test_the_link_gives_no_third_connection(seen: Seen) -> None:
    assert "-ERR" in seen.results["third_connection"]


def test_frames_that_no_side_sends_cost_the_guest_its_streams_only(seen: Seen) -> None:
    assert seen.results["bad_frames"] == "works"


def test_a_program_is_an_ordinary_user_without_any_capability(seen: Seen) -> None:
    status = seen.results["own_status"]
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1",
                 "Uid:\t1000\t1000\t1000\t1000"):  # fmt: skip
        assert line in status


def test_neither_command_line_nor_environment_tell_who_the_machine_is_to_the_broker(
    seen: Seen,
) -> None:
    assert VM not in seen.results["cmdline"]
    for word in ("NKEY", "SEED", "CREDS", "TOKEN", "PASS"):
        assert word not in seen.results["environment"].upper()
    assert seen.results["interfaces"] == "lo"


def test_the_machine_monitor_is_nobody_in_namespaces_of_its_own(seen: Seen) -> None:
    if os.geteuid() == 0:
        assert "0" not in seen.status["Uid"].split()
    assert seen.status["CapEff"] == "0000000000000000"
    assert seen.status["NoNewPrivs"] == "1"
    assert seen.status["Seccomp"] == "2"
    assert seen.namespaces


def test_a_program_that_fills_its_memory_takes_no_more_of_the_host_than_its_machine_has(
    seen: Seen,
) -> None:
    assert 0 < seen.most_bytes < (MEMORY_MIB + 224) * 2**20


def test_nothing_of_a_hostile_machine_is_left(seen: Seen) -> None:
    assert seen.left == []
