"""Runs inside a machine as its program and tries to get out; prints what came of each attempt.

Handed over as source: it uses what the image holds and nothing of the tests.
"""

# ruff: noqa: BLE001, PTH123, PTH208, SIM115, ASYNC240
import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

from mesh_chassis.link.addresses import parse
from mesh_chassis.link.dial import dialler
from mesh_chassis.link.port import open_port

OTHER, PORT = sys.argv[1], int(sys.argv[2])
LINK = os.environ["MESH_URL"]
libc = ctypes.CDLL(None, use_errno=True)
CONNECT = b'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n'


def syscall(number: int, *arguments: object) -> None:
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def dial(host: str, port: int) -> None:
    socket.create_connection((host, port), 2).close()


def write(path: str, text: str = "0") -> None:
    Path(path).write_text(text)


def fork_without_end() -> str:
    children: list[int] = []
    try:
        while len(children) < 5000:
            child = os.posix_spawn("/usr/bin/busybox", ["busybox", "sleep", "60"], {})
            children.append(child)
    except OSError as error:
        return f"{type(error).__name__} after {'few' if len(children) < 600 else 'many'}"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return "done"


def fill_memory() -> None:
    child = os.fork()
    if child == 0:
        try:
            kept = []
            while True:
                kept.append(os.urandom(1) * 2**22)
        finally:
            os._exit(3)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    raise MemoryError(f"the child ended with {status}")


def fill_disk() -> None:
    path = Path("/tmp/filling")
    try:
        with path.open("wb") as file:
            for _ in range(2000):
                file.write(bytes(2**20))
    finally:
        path.unlink()


def read_stage() -> None:
    with open(f"/proc/{os.getppid()}/mem", "rb") as memory:
        memory.seek(0x1000)
        memory.read(1)


MACHINE = {
    "host_loopback": lambda: dial("127.0.0.1", PORT),
    "slirp_gateway": lambda: dial("10.0.2.2", PORT),
    "metadata_address": lambda: dial("169.254.169.254", 80),
    "outside": lambda: dial("1.1.1.1", 443),
    "dns": lambda: socket.getaddrinfo("example.org", 80),
    "raw_packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "vsock_host": lambda: socket.socket(socket.AF_VSOCK).connect((2, 4222)),
    "control_channel": lambda: os.open("/dev/virtio-ports/ctl.0", os.O_RDWR),
    "physical_memory": lambda: open("/dev/mem", "rb"),
    "io_ports": lambda: syscall(172, 3),
    "kernel_memory": lambda: open("/proc/kcore", "rb"),
    "load_module": lambda: syscall(313, os.open("/mod/virtio_console.ko", os.O_RDONLY), b"", 0),
    "allow_modules": lambda: write("/proc/sys/kernel/modules_disabled"),
    "set_clock": lambda: __import__("time").clock_settime(0, 0),
    "become_root": lambda: os.setuid(0),
    "write_init": lambda: write("/init"),
    "write_stage": lambda: write("/mesh/start.py"),
    "kill_init": lambda: os.kill(1, 9),
    "kill_stage": lambda: os.kill(os.getppid(), 9),
    "trace_stage": lambda: syscall(101, 16, os.getppid(), 0, 0),
    "read_stage": read_stage,
    "mount": lambda: syscall(165, b"none", b"/tmp", b"tmpfs", 0, b""),
    "user_namespace": lambda: os.unshare(0x10000000) if hasattr(os, "unshare")
    else syscall(272, 0x10000000),
    "reboot": lambda: syscall(169, 0xFEE1DEAD, 672274793, 0x4321FEDC, 0),
    "kexec": lambda: syscall(246, 0, 0, 0, 0),
    "sysrq": lambda: write("/proc/sysrq-trigger", "b"),
    "core_pattern": lambda: write("/proc/sys/kernel/core_pattern", "|/tmp/x"),
    "hostname": lambda: socket.sethostname("gateway"),
    "fill_memory": fill_memory,
    "fill_disk": fill_disk,
    "raise_limits": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999)),
}  # fmt: skip

BROKER = {
    "hear_everything": b"SUB > 1\r\n",
    "hear_other_tenant": b"SUB mesh.v1.other.call.x.> w 1\r\n",
    "hear_other_agent": b"SUB mesh.v1.demo-tenant.inst.%s.> 1\r\n" % OTHER.encode(),
    "hear_other_inbox": b"SUB _MESH.agent.%s.> 1\r\n" % OTHER.encode(),
    "hear_gateway_inbox": b"SUB _MESH.gateway.gateway-1.> 1\r\n",
    "hear_plain_inboxes": b"SUB _INBOX.> 1\r\n",
    "hear_system": b"SUB $SYS.> 1\r\n",
    "hear_keys": b"SUB $KV.mesh_keys.> 1\r\n",
    "call_other_tenant": b"PUB mesh.v1.other.call.x.y 2\r\n{}\r\n",
    "publish_as_gateway": b"PUB mesh.v1._.svc.tenant-auth.key-create 2\r\n{}\r\n",
    "publish_machine_state": b"PUB mesh.v1.demo-tenant.evt.vm.me 2\r\n{}\r\n",
    "publish_audit": b"PUB mesh.v1.demo-tenant.evt.audit.me 2\r\n{}\r\n",
    "beat_for_other": b"PUB $KV.mesh_instances.agent.%s 2\r\n{}\r\n" % OTHER.encode(),
    "write_record": b"PUB $KV.mesh_vms.demo-tenant.me 2\r\n{}\r\n",
    "write_config": b"PUB $KV.mesh_config.x 2\r\n{}\r\n",
    "delete_stream": b"PUB $JS.API.STREAM.DELETE.KV_mesh_vms 0\r\n\r\n",
    "make_stream": b"PUB $JS.API.STREAM.CREATE.X 2\r\n{}\r\n",
    "spawn_machines": b"PUB mesh.v1._.svc.vm-spawner.spawn 2\r\n{}\r\n",
    "reply_to_stranger": b"PUB _MESH.gateway.gateway-1.x 2\r\n{}\r\n",
}
LINK_LINES = {
    "second_connect": CONNECT + CONNECT,
    "connect_in_body": CONNECT + b"PUB a.b 2\r\nhiCONNECT {}\r\n",
    "not_connect_first": b"PUB a.b 2\r\nhi\r\n",
    "broker_verbs": CONNECT + b"INFO {}\r\n",
    "too_large": CONNECT + b"PUB a.b 99999999\r\n",
    "endless_line": CONNECT + b"x" * 10_000 + b"\r\n",
}


async def said(lines: bytes) -> str:
    """What the link answers, until PONG or its end."""
    reader, writer = await dialler(parse(LINK))()
    try:
        async with asyncio.timeout(5):
            await reader.readline()
            writer.write(lines + b"PING\r\n")
            text = b""
            while b"PONG" not in text:
                data = await reader.read(65536)
                if not data:
                    return f"closed {text.decode()}"
                text += data
            return text.decode()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def third_connection() -> str:
    streams = []
    try:
        for _ in range(2):
            reader, writer = await dialler(parse(LINK))()
            writer.write(CONNECT + b"PING\r\n")
            await reader.readuntil(b"PONG\r\n")
            streams.append(writer)
        reader, writer = await dialler(parse(LINK))()
        streams.append(writer)
        async with asyncio.timeout(5):
            return (await reader.read(4096)).decode()
    finally:
        for writer in streams:
            writer.close()
        await asyncio.sleep(0.1)


async def bad_frames() -> str:
    """Frames that no side sends; afterwards the port must work as before."""
    port = open_port(LINK.partition(":")[2])
    for frame in (struct.pack(">BII", 99, 1, 5) + b"hello", struct.pack(">BII", 2, 1, 2**31),
                  os.urandom(4000)):  # fmt: skip
        with contextlib.suppress(BlockingIOError):
            os.write(port, frame)
    await asyncio.sleep(0.1)
    os.close(port)
    return "works" if "PONG" in await said(CONNECT) else "broken"


def tried(name: str, what: object) -> str:
    print(name, flush=True)
    try:
        answer = what()  # type: ignore[operator]
    except BaseException as error:
        return type(error).__name__
    return answer if isinstance(answer, str) else "done"


async def main() -> dict[str, str]:
    found = {name: tried(name, what) for name, what in MACHINE.items()}
    found["fork_without_end"] = tried("fork_without_end", fork_without_end)
    found["own_status"] = Path("/proc/self/status").read_text()
    found["cmdline"] = Path("/proc/cmdline").read_text()
    found["environment"] = " ".join(os.environ)
    found["interfaces"] = " ".join(sorted(os.listdir("/sys/class/net")))
    for name, lines in BROKER.items():
        found[name] = await said(CONNECT + lines)
    found["claim_operator"] = await said(
        b'CONNECT {"user":"operator","pass":"x","jwt":"x","account":"SYS"}\r\nSUB > 1\r\n'
    )
    for name, lines in LINK_LINES.items():
        found[name] = await said(lines)
    found["third_connection"] = await third_connection()
    found["bad_frames"] = await bad_frames()
    return found


def flood() -> None:
    for _ in range(2000):
        sys.stdout.write("x" * 500 + "\n")


results = asyncio.run(main())
flood()
print("\nRESULTS " + json.dumps(results), flush=True)
