"""Two checkouts in one run: CPU of the gateway per call, and calls per second, case by case.

Both meshes stand on the same machine at the same time, one idle while the other is measured, and
take turns in short runs, so that whatever else the machine does meets both. What is compared is
the best half of the runs: disturbance only ever adds. Each mesh is started by the ``.venv`` of its
checkout; load and cases are this checkout's.
"""

import statistics
import tempfile
from pathlib import Path

import msgspec
import uvloop
from tests.benchmarks.cases import WARM_UP_S, cases
from tests.benchmarks.cluster import Cpu, Mesh, mesh_up

__all__ = ["Compared", "run"]


class Compared(msgspec.Struct, frozen=True):
    """One case in both checkouts: gateway CPU in µs per call, and median latency in ms."""

    name: str
    cpu_us: tuple[float, float]
    p50_ms: tuple[float, float]

    @property
    def ratio(self) -> float:
        """CPU of this checkout over that of the other one."""
        return self.cpu_us[0] / self.cpu_us[1]


def run(other: Path, seconds: float, rounds: int, only: str) -> str:
    """Compare this checkout with ``other``.

    Args:
        other: root of a checkout with a ``.venv`` of its own (``make install`` there).
        seconds: length of one run.
        rounds: runs per case and checkout.
        only: cases of the mesh whose name contains this.

    Returns:
        A Markdown table.
    """
    python = str(other.absolute() / ".venv" / "bin" / "python")
    with (
        tempfile.TemporaryDirectory() as here,
        tempfile.TemporaryDirectory() as there,
        mesh_up(Path(here)) as ours,
        mesh_up(Path(there), python=python) as theirs,
    ):
        return _table(uvloop.run(_measure((ours, theirs), seconds, rounds, only)))


async def _measure(
    meshes: tuple[Mesh, Mesh], seconds: float, rounds: int, only: str
) -> list[Compared]:
    both = [cases(mesh) for mesh in meshes]
    gateways = [{"gateway": mesh.pids["gateway-1"]} for mesh in meshes]
    found: list[Compared] = []
    for name in [name for name in both[0] if name.startswith("mesh") and only in name]:
        cpu: tuple[list[float], list[float]] = ([], [])
        latency: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds + 1):
            # First the one, then the other: neither always follows the other's warm caches.
            for side in (0, 1) if turn % 2 else (1, 0):
                before = Cpu.of(gateways[side])
                result = await both[side][name](seconds if turn else WARM_UP_S)
                used = Cpu.of(gateways[side]).since(before)["gateway"]
                if turn:
                    cpu[side].append(used / len(result.latencies_s) * 1e6)
                    latency[side].append(statistics.median(result.latencies_s) * 1e3)
        found.append(
            Compared(
                name=name,
                cpu_us=(_quiet(cpu[0]), _quiet(cpu[1])),
                p50_ms=(_quiet(latency[0]), _quiet(latency[1])),
            )
        )
    return found


def _quiet(values: list[float]) -> float:
    """Mean of the lower half."""
    return statistics.mean(sorted(values)[: (len(values) + 1) // 2])


def _table(found: list[Compared]) -> str:
    lines = [
        "| case | gateway CPU µs per call, here | there | ratio | p50 ms, here | there |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.name} | {one.cpu_us[0]:.1f} | {one.cpu_us[1]:.1f} | {one.ratio:.3f} "
        f"| {one.p50_ms[0]:.2f} | {one.p50_ms[1]:.2f} |"
        for one in found
    ]
    mean = statistics.geometric_mean(one.ratio for one in found)
    return "\n".join([*lines, "", f"Mean ratio of gateway CPU: {mean:.3f}.", ""])
