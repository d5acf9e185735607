"""Instructions of the gateway per call in two checkouts: a comparison that noise does not reach.

The gateway runs under valgrind's callgrind, everything else as ever, and the load of ``cases``
goes through it. Time under an emulator means nothing; the number of instructions is the same to
about one percent on a busy machine and on a calm one. What the kernel does is not counted.

The gateway is started by ``mesh up`` as usual, but from a copy of the checkout's environment whose
``python`` puts valgrind in front of it.
"""

import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import uvloop
from tests.benchmarks import cluster
from tests.benchmarks.cases import cases
from tests.benchmarks.cluster import Mesh, mesh_up

__all__ = ["run"]

READY_S = 300.0
WARM_UP_S = 8.0
_PYTHON = """\
#!/bin/bash
case " $* " in
  *" -m gateway "*) exec {valgrind} --tool=callgrind --callgrind-out-file={room}/%p {real} "$@" ;;
esac
exec -a {room}/bin/python {real} "$@"
"""
_MESH = '#!/bin/bash\nexec -a {room}/bin/python {real} -m mesh_cli "$@"\n'
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
    counts = [_counted(root, seconds, only) for root in (here, other.absolute())]
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
    return "\n".join([*lines, "", f"Mean ratio of instructions: {mean:.3f}.", ""])


def _counted(root: Path, seconds: float, only: str) -> dict[str, float]:
    """Instructions per call of each case in one checkout."""
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


async def _measure(mesh: Mesh, seconds: float, only: str) -> dict[str, float]:
    pid = mesh.pids["gateway-1"]
    found: dict[str, float] = {}
    for name, case in cases(mesh).items():
        if not name.startswith("mesh") or only not in name:
            continue
        await case(WARM_UP_S)
        before = _instructions(pid)
        result = await case(seconds)
        found[name] = (_instructions(pid) - before) / len(result.latencies_s)
    return found


def _instructions(pid: int) -> int:
    """Instructions that the process has executed so far."""
    command = ["callgrind_control", "-e", str(pid)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    counts = _COUNT.findall(said.replace(",", ""))
    if not counts:
        raise RuntimeError(f"callgrind says no count: {said!r}")
    return int(counts[0])
