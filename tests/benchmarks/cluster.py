"""What is measured: a mesh as `mesh up` starts it, and the floor beside it on the same broker."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

__all__ = ["Cpu", "Mesh", "mesh_up", "process"]

READY_S = 60.0
CONFIG = """\
[performance]
# The one thing the benchmark changes: everything else is as shipped.
rate_limit_per_second = 1000000
max_connections = 2000

[[mcp_servers]]
name = "child"
command = "{python}"
args = ["{server}"]
"""


class Mesh(msgspec.Struct):
    """A running mesh: addresses, and the process of each instance."""

    http_port: int
    tcp_port: int
    nats_url: str
    operator_seed: str
    pids: dict[str, int]
    agent: bool = False
    """Whether an agent of the SDK serves ``bench__echo`` beside it."""


class Cpu(msgspec.Struct):
    """CPU seconds used by named processes, from /proc."""

    seconds: dict[str, float]

    @classmethod
    def of(cls, pids: dict[str, int]) -> "Cpu":
        """Read user + system time of each process now."""
        tick = os.sysconf("SC_CLK_TCK")
        read: dict[str, float] = {}
        for name, pid in pids.items():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            read[name] = (int(fields[11]) + int(fields[12])) / tick
        return cls(seconds=read)

    def since(self, before: "Cpu") -> dict[str, float]:
        """CPU seconds used between two readings."""
        return {name: value - before.seconds[name] for name, value in self.seconds.items()}


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"no VmRSS for {pid}")


def _stop(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(timeout=40)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _await_line(child: subprocess.Popen[str], word: str, limit_s: float) -> None:
    assert child.stdout is not None
    end = time.monotonic() + limit_s
    seen: list[str] = []
    while time.monotonic() < end:
        line = child.stdout.readline()
        if line.strip() == word:
            return
        if not line and child.poll() is not None:
            break
        seen.append(line)
    raise RuntimeError(f"{child.args!r} never said {word!r}:\n{''.join(seen)}")


@contextlib.contextmanager
def process(*args: str, ready: bool) -> Iterator[subprocess.Popen[str]]:
    """A child process, stopped at the end; with ``ready`` it must say so on stdout first."""
    child = subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, text=True)
    try:
        if ready:
            _await_line(child, "ready", READY_S)
        yield child
    finally:
        _stop(child)


@contextlib.contextmanager
def mesh_up(room: Path, more: str = "", python: str = sys.executable) -> Iterator[Mesh]:
    """Start a mesh with the benchmark's configuration in ``room`` and wait for ``ready``.

    Args:
        room: existing folder.
        more: further tables of its configuration.
        python: whose mesh is started; another checkout's, to compare with it.
    """
    server = Path(__file__).with_name("echo_server.py")
    config = room / "mesh.toml"
    config.write_text(CONFIG.format(python=sys.executable, server=server) + more)
    state = room / "state"
    mesh = str(Path(python).with_name("mesh"))
    ports = [part for name in ("http", "tcp", "nats") for part in (f"--{name}-port", "0")]
    command = [mesh, "up", "--config", str(config), "--state", str(state), *ports]
    with (room / "mesh.log").open("w") as log:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        _await_line(child, "ready", READY_S)
        yield _describe(state)
    finally:
        _stop(child)


def _describe(state: Path) -> Mesh:
    record = json.loads((state / "run.json").read_text())
    points = {point["instance"]: point for point in record["endpoints"]}
    edge = next(point for point in points.values() if point["http"])
    return Mesh(
        http_port=int(edge["http"].rsplit(":", 1)[1]),
        tcp_port=int(edge["tcp"].rsplit(":", 1)[1]),
        nats_url=record["nats"],
        operator_seed=str(state / "keys" / "operator.nk"),
        pids={name: point["pid"] for name, point in points.items()},
    )
