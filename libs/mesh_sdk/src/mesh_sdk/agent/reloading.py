"""Development: a new process whenever a file changes, and no call lost in between.

Own polling of modification times instead of ``watchfiles``: an agent is a handful of files, a
look at them costs microseconds, and it works on every mount and needs no wheel (ADR 0030).
The parent only starts and stops; a child that is ready says so over a pipe, and only then is the
old one told to drain, while the queue group already gives calls to the new one.
"""

import asyncio
import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mesh_sdk.agent.process import Live

__all__ = ["develop", "is_child", "tell_ready"]

_CHILD = "MESH_AGENT_READY_FD"
_PARENT = "MESH_AGENT_PARENT_FD"
"""A pipe that nobody writes to: its end means that the parent is gone, however it died."""
_REPLACE = "MESH_AGENT_REPLACE"
_POLL_S = 0.3
_START_S = 20.0
_STOP_S = 30.0
_FILES_MAX = 5_000
_SUFFIXES = (".py", ".toml", ".json", ".yaml", ".yml", ".env")
_SKIPPED = frozenset(("__pycache__", "node_modules", "site-packages"))


def is_child() -> bool:
    """Whether this process was started by ``develop``."""
    return _CHILD in os.environ


def tell_ready(made: Live) -> Callable[[], Awaitable[None]]:
    """A hook that tells the parent, if there is one, once calls are taken and others know it.

    The old process takes itself from the registry: by then this one's heartbeat must stand there.
    """

    async def tell() -> None:
        text = os.environ.get(_CHILD, "")
        if text:
            _leave_with_parent(int(os.environ[_PARENT]))
            made.service.tasks.spawn(_tell(made, int(text)), name="tell-ready", fatal=True)

    return tell


def _leave_with_parent(pipe: int) -> None:
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(pipe)
        signal.raise_signal(signal.SIGTERM)  # in order, as when it is told to

    loop.add_reader(pipe, gone)


async def _tell(made: Live, pipe: int) -> None:
    await made.registered()
    await made.seen()
    with contextlib.suppress(OSError):
        os.write(pipe, b"ready\n")
        os.close(pipe)


def develop(command: Sequence[str], folder: Path) -> int:
    """Run ``command`` and run it anew whenever a file below ``folder`` changes.

    Returns:
        0 once the process was told to stop.
    """
    children = _Children(command)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: children.stopping.set())
    _say(f"watching {folder}")
    seen = _look(folder)
    current = children.start()
    while not children.stopping.is_set():
        time.sleep(_POLL_S)
        now = _look(folder)
        if now != seen:
            seen = now
            _say("a file changed, starting anew")
            current = children.replace(current)
        elif current is not None and current.poll() is not None:
            _say(f"the agent ended with {current.returncode}; waiting for a change")
            current = None
    if current is not None:
        _end(current)
    return 0


class _Children:
    """Processes of one command, one after the other; none outlives this process."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        # The writing half is this process' life: nobody closes it.
        self._alive, self._life = os.pipe()
        self.stopping = threading.Event()

    def replace(self, old: "subprocess.Popen[bytes] | None") -> "subprocess.Popen[bytes] | None":
        """A new process that is ready, the old one drained; one that fails changes nothing."""
        # What it offers may have changed, and the old one lives until this one is ready.
        new = self.start({_REPLACE: "true"})
        if new is None:
            if old is not None and not self.stopping.is_set():
                _say("the new version does not start; the old one goes on")
            return old
        if old is not None:
            _end(old)
        return new

    def start(
        self, more: Mapping[str, str] = MappingProxyType({})
    ) -> "subprocess.Popen[bytes] | None":
        """Start a child and wait until it takes calls; None = it did not come so far."""
        reading, writing = os.pipe()
        try:
            child = subprocess.Popen(  # noqa: S603 - the command the person at the keyboard gave
                self._command,
                env={**os.environ, **more, _CHILD: str(writing), _PARENT: str(self._alive)},
                pass_fds=(writing, self._alive),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        with os.fdopen(reading, "rb") as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            until = time.monotonic() + _START_S
            while time.monotonic() < until and not self.stopping.is_set():
                if selector.select(_POLL_S):
                    if pipe.read(6) == b"ready\n":
                        _say(f"ready (pid {child.pid})")
                        return child
                    break
                if child.poll() is not None:
                    break
        _end(child)
        return None


def _end(child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM lets it drain; SIGKILL what does not."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _look(folder: Path) -> dict[str, int]:
    """Modification times of the files that matter."""
    found: dict[str, int] = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if one not in _SKIPPED and not one.startswith(".")]
        for name in files:
            if name.endswith(_SUFFIXES) and len(found) < _FILES_MAX:
                path = str(Path(root) / name)
                with contextlib.suppress(OSError):
                    found[path] = Path(path).stat().st_mtime_ns
    return found


def _say(text: str) -> None:
    sys.stderr.write(f"mesh agent: {text}\n")
