"""Programs that a step starts: no shell, a process group of their own, bounded time and output.

Whoever ends the step ends them: SIGTERM to the step's process kills their groups, and on Linux
the kernel does when that process was killed itself.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from mesh_agents.contract import StepFailedError
from mesh_chassis.reaper import MARKER

__all__ = ["OUTPUT_BYTES_MAX", "Ended", "environment", "run_program"]

OUTPUT_BYTES_MAX = 32 * 1024 * 1024
"""Most that a program may say on each of its two pipes."""
GRACE_S = 3.0
"""From SIGTERM to SIGKILL; less than the host's own five seconds for the step."""
_PR_SET_PDEATHSIG = 1
_CHUNK = 65536


class Ended(msgspec.Struct, frozen=True):
    """A program that ended by itself: exit status (negative: signal) and what it said."""

    status: int
    output: bytes
    errors: bytes

    def tail(self, chars: int = 600, *, output_first: bool = False) -> str:
        """The end of what it said on stderr, or else on stdout (or the reverse), for messages."""
        pipes = (self.output, self.errors) if output_first else (self.errors, self.output)
        said = next((text for pipe in pipes if (text := pipe.strip())), b"")
        return said.decode(errors="replace")[-chars:]


def environment(workdir: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a program sees of the environment: nothing of the host's beside paths and language.

    The mark of the agent's process goes with it, by which the host's reaper finds whatever outlives
    that process.
    """
    scripts = sysconfig.get_path("scripts")
    marked = {MARKER: mark} if (mark := os.environ.get(MARKER)) else {}
    return {
        **marked,
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
        "HOME": workdir,
        "TMPDIR": workdir,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        **(extra or {}),
    }


def run_program(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    timeout_s: float,
    on_output: Callable[[bytes], None] | None = None,
) -> Ended:
    """Run a program to its end.

    Args:
        argv: program and arguments; never through a shell.
        cwd: where it runs.
        env: its whole environment.
        timeout_s: after that its group is ended.
        on_output: told each piece of stdout as it comes.

    Raises:
        StepFailedError: ``timeout``, ``limit`` (it said too much) or ``program`` (it cannot be
            started).
    """
    try:
        child = subprocess.Popen(  # noqa: S603 - argv comes from the types, no shell
            list(argv), cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, process_group=0, preexec_fn=_die_with_parent(),  # noqa: PLW1509
        )  # fmt: skip
    except OSError as error:
        name = Path(argv[0]).name
        raise StepFailedError(
            f"{name} cannot be started: {error.strerror}", type="program"
        ) from None
    with child, _ended_with_step(child):
        try:
            output, errors = _read(child, argv[0], time.monotonic() + timeout_s, on_output)
            status = child.wait()
        finally:
            end_group(child.pid, child)
    return Ended(status, output, errors)


def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: after it nothing may allocate for long

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask


def _read(
    child: "subprocess.Popen[bytes]",
    program: str,
    until: float,
    on_output: Callable[[bytes], None] | None,
) -> tuple[bytes, bytes]:
    assert child.stdout is not None
    assert child.stderr is not None
    said = {child.stdout: bytearray(), child.stderr: bytearray()}
    name = Path(program).name
    with selectors.DefaultSelector() as selector:
        for pipe in said:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = until - time.monotonic()
            if left <= 0:
                raise StepFailedError(f"{name} did not end in time", type="timeout")
            ready = selector.select(min(left, 0.2))
            if not ready and child.poll() is not None:
                break  # what it left behind holds the pipes; its group is ended below
            for key, _ in ready:
                piece = os.read(key.fd, _CHUNK)
                if not piece:
                    selector.unregister(key.fileobj)
                    continue
                whole = said[key.fileobj]  # type: ignore[index]
                whole += piece
                if len(whole) > OUTPUT_BYTES_MAX:
                    raise StepFailedError(
                        f"{name} said more than {OUTPUT_BYTES_MAX} bytes",
                        type="limit",
                        retryable=False,
                    )
                if on_output is not None and key.fileobj is child.stdout:
                    on_output(piece)
    try:
        child.wait(max(until - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        raise StepFailedError(f"{name} did not end in time", type="timeout") from None
    return bytes(said[child.stdout]), bytes(said[child.stderr])


def end_group(group: int, child: "subprocess.Popen[bytes]") -> None:
    """End everything of a process group: SIGTERM, and SIGKILL after ``GRACE_S``."""
    if not _signal(group, signal.SIGTERM):
        return
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until:
        child.poll()  # a zombie keeps its group alive until it is waited for
        if not _signal(group, 0):
            return
        time.sleep(0.02)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Whether the group has anybody left."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextmanager
def _ended_with_step(child: "subprocess.Popen[bytes]") -> Generator[None, None, None]:
    """SIGTERM to this process ends the group first, then goes on as it would have."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        end_group(child.pid, child)
        signal.signal(signal.SIGTERM, before)
        if callable(before):
            before(number, frame)
        else:
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
