"""Instructions of the gateway per call in two checkouts: a comparison that noise does not reach.

The gateway runs under valgrind's callgrind, everything else as ever, and the load of ``cases``
goes through it. Time under an emulator means nothing; the number of instructions is the same to
about one percent on a busy machine and on a calm one. What the kernel does is not counted, nor what
the gateway does by the clock whether it is called or not (heartbeats, sweeps): an emulated gateway
answers so few calls in a second that those would weigh as much as a tenth of a call.

The gateway is started by ``mesh up`` as usual, but from a copy of the checkout's environment whose
``python`` puts valgrind in front of it.
"""

import asyncio
import contextlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import uvloop
from tests.benchmarks import cluster
from tests.benchmarks.cases import Case, cases
from tests.benchmarks.cluster import Mesh, mesh_up

__all__ = ["run"]

T = TypeVar("T")
READY_S = 300.0
WARM_UP_S = 8.0
IDLE_S = 5.0
"""Length of the look at a gateway that nobody calls."""
_PYTHON = """\
#!/bin/bash
case " $* " in
  *" -m gateway "*) exec {valgrind} --tool=callgrind --callgrind-out-file={room}/%p {real} "$@" ;;
esac
exec -a {room}/bin/python {real} "$@"
"""
_MESH = '#!/bin/bash\nexec -a {room}/bin/python {real} -m mesh_cli "$@"\n'
_FIRST = "mesh TCP, 1 in flight"
"""Made before all others: many first calls at once take an emulated gateway longer than callers
give them to begin."""
TRIES = 5
PAUSE_S = 2.0
_COUNT = re.compile(r"\d{7,}")


def run(other: Path, seconds: float, only: str) -> str:
    """Compare this checkout with ``other``.

    Args:
        other: root of a checkout with a ``.venv`` of its own.
        seconds: length of one run; an emulated gateway answers some hundred calls in a second.
        only: cases of the mesh whose name contains this.

    Returns:
        A Markdown table: thousands of instructions per call.
    """
    here = Path(__file__).parents[2]
    found = [_counted(root, seconds, only) for root in (here, other.absolute())]
    counts = [cases for cases, _ in found]
    lines = [
        "| case | 1,000 instructions of the gateway per call, here | there | ratio |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {count / 1000:.1f} | {counts[1][name] / 1000:.1f} "
        f"| {count / counts[1][name]:.3f} |"
        for name, count in counts[0].items()
    ]
    mean = statistics.geometric_mean(count / counts[1][name] for name, count in counts[0].items())
    idle = " here, ".join(f"{rate / 1e6:.1f} million" for _, rate in found)
    beside = f"Without any call, in a second: {idle} there (left out above)."
    return "\n".join([*lines, "", f"Mean ratio of instructions: {mean:.3f}. {beside}", ""])


def _counted(root: Path, seconds: float, only: str) -> tuple[dict[str, float], float]:
    """Instructions per call of each case in one checkout, and per second without any."""
    cluster.READY_S = READY_S
    with tempfile.TemporaryDirectory() as room:
        python = _environment(root, Path(room))
        with tempfile.TemporaryDirectory() as state, mesh_up(Path(state), python=python) as mesh:
            return uvloop.run(_measure(mesh, seconds, only))


def _environment(root: Path, room: Path) -> str:
    """A copy of a checkout's environment, by links; its ``python`` emulates gateways."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise RuntimeError("valgrind is not installed (Debian: apt-get install valgrind)")
    venv = root / ".venv"
    shutil.copy(venv / "pyvenv.cfg", room / "pyvenv.cfg")
    (room / "lib").symlink_to(venv / "lib")
    (room / "bin").mkdir()
    for name, text in (("python", _PYTHON), ("mesh", _MESH)):
        script = room / "bin" / name
        script.write_text(text.format(valgrind=valgrind, room=room, real=venv / "bin" / "python"))
        script.chmod(0o755)
    for program in (venv / "bin").iterdir():
        beside = room / "bin" / program.name
        if not beside.exists():
            beside.symlink_to(program)
    return str(room / "bin" / "python")


async def _measure(mesh: Mesh, seconds: float, only: str) -> tuple[dict[str, float], float]:
    pid = mesh.pids["gateway-1"]
    found: dict[str, float] = {}
    idle: list[float] = []
    known = cases(mesh)
    await _made(known[_FIRST], WARM_UP_S)
    for name, case in known.items():
        if not name.startswith("mesh") or only not in name:
            continue
        await _made(case, WARM_UP_S)
        if not idle:  # once it is warm: the first calls import and remember things
            idle.append(await _rate(pid))
        found[name] = await _made(_counting(case, pid, idle[0]), seconds)
    return found, idle[0]


def _counting(case: Case, pid: int, idle: float) -> Callable[[float], Awaitable[float]]:
    """A run that returns the instructions of one call."""

    async def run(length_s: float) -> float:
        before, began = _instructions(pid), time.monotonic()
        result = await case(length_s)
        used = _instructions(pid) - before - idle * (time.monotonic() - began)
        return used / len(result.latencies_s)

    return run


async def _made(case: Callable[[float], Awaitable[T]], length_s: float) -> T:
    """A run without a refusal: a gateway this slow may write a call when it is too late for it."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(RuntimeError):
            return await case(length_s)
        await asyncio.sleep(PAUSE_S)
    return await case(length_s)


async def _rate(pid: int) -> float:
    """Instructions per second of a process that nobody calls."""
    before, began = _instructions(pid), time.monotonic()
    await asyncio.sleep(IDLE_S)
    return (_instructions(pid) - before) / (time.monotonic() - began)


def _instructions(pid: int) -> int:
    """Instructions that the process has executed so far."""
    command = ["callgrind_control", "-e", str(pid)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    counts = _COUNT.findall(said.replace(",", ""))
    if not counts:
        raise RuntimeError(f"callgrind says no count: {said!r}")
    return int(counts[0])
