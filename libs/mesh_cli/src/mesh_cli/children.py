"""Processes that ``mesh up`` runs: started, kept running, stopped in order.

Each child leads its own session, so that ctrl-C in the terminal reaches only ``mesh up`` and the
order of the drain is ours. A death signal (Linux) tells a child to drain when ``mesh up`` itself
is killed, so nothing is left behind. Output goes straight into a log file: a pipe through us
would tie every service's log to our own life and speed.
"""

import asyncio
import contextlib
import ctypes
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from mesh_cli.failure import Exit, Failure
from mesh_cli.last_words import last_words, tail

__all__ = ["DRAIN_MAX_S", "Child", "Command", "describe_exit"]

BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 10.0
STEADY_S = 30.0
"""A child that ran so long starts over with the first pause."""
DRAIN_MAX_S = 35.0
"""Longest drain: services give calls 25 s, then report and close."""
LOG_MAX_BYTES = 16 * 1024 * 1024
"""Size at which a log is moved aside; one older log is kept."""

_PR_SET_PDEATHSIG = 1
_LIBC: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to run.

    Attributes:
        name: instance id, for messages and the log file.
        argv: program and arguments.
        log: file that gets standard output and standard error.
        env: complete environment.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str]


class Child:
    """One process, started again whenever it ends unasked.

    Args:
        command: what to run.
        say: told in one line about every unexpected end.
        started: told after every start, with the process id in ``pid``.
    """

    def __init__(
        self, command: Command, *, say: Callable[[str], None], started: Callable[[], None]
    ) -> None:
        self.command = command
        self.pid = 0
        self.restarts = 0
        self._say = say
        self._started = started
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._kept: asyncio.Event | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs now."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process once; ``keep`` goes on from there.

        Raises:
            Failure: the program cannot be run.
        """
        roll(self.command.log)
        with self.command.log.open("ab", buffering=0) as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self.command.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(self.command.env),
                    start_new_session=True,
                    preexec_fn=_follow(os.getpid()),
                )
            except OSError as error:
                raise Failure(f"cannot start {self.command.name}: {error}") from None
        self.pid = self._process.pid
        self._started()

    async def keep(self) -> None:
        """Start the process again after every unasked end; returns once it is stopped.

        Raises:
            Failure: the process refuses its configuration (exit 78): trying again cannot help.
        """
        self._kept = asyncio.Event()
        try:
            pause_s = BACKOFF_FIRST_S
            while not self._stopping.is_set():
                began = time.monotonic()
                code = await self._wait()
                if self._stopping.is_set():
                    return
                if time.monotonic() - began > STEADY_S:
                    pause_s = BACKOFF_FIRST_S
                await self._again(code, pause_s)
                pause_s = min(BACKOFF_MAX_S, pause_s * 2)
            # Started while the stop was on its way: it missed the signal.
            self._signal(signal.SIGTERM)
            await self._wait()
        finally:
            self._kept.set()

    async def stop(self) -> None:
        """Ask the process to drain, wait for it, kill it when it takes longer than allowed."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(DRAIN_MAX_S):
                await self._ended()
        except TimeoutError:
            self._say(f"{self.command.name} did not drain in {DRAIN_MAX_S:.0f} s, killed")
            self.kill()
            await self._ended()

    def kill(self) -> None:
        """End the process and its session at once."""
        self._stopping.set()
        if self.alive:
            # The whole session: what the service started and did not take apart goes with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def roll_log(self) -> None:
        """Move the log aside when it is too large, under the running process.

        The file is copied and cut: the process appends, so it goes on at the new end.
        """
        log = self.command.log
        with contextlib.suppress(OSError):
            if log.stat().st_size > LOG_MAX_BYTES:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)

    async def _again(self, code: int, pause_s: float) -> None:
        """Say why the process ended, wait, start it; returns early when a stop comes."""
        if code == Exit.CONFIG:
            raise Failure(
                f"{self.command.name} refuses its configuration\n{tail(self.command.log)}",
                mend=f"the whole log: {self.command.log}",
                code=Exit.CONFIG,
            )
        wait_s = pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret
        reason = last_words(self.command.log)
        self._say(
            f"{self.command.name} ended ({describe_exit(code)}), starting again in {wait_s:.1f} s"
            f"{f': {reason}' if reason and code > 0 else ''}"
        )
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            self.restarts += 1
            await self.start()

    async def _ended(self) -> None:
        if self._kept is not None:
            await self._kept.wait()
        else:
            await self._wait()

    async def _wait(self) -> int:
        if self._process is None:
            return 0
        return await self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _follow(parent: int) -> Callable[[], None] | None:
    """Code for the child before exec: end in order when ``mesh up`` is gone."""
    libc = _LIBC
    if libc is None:
        return None

    def follow() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)  # the parent ended before the signal was armed

    return follow


def roll(log: Path) -> None:
    """Move a log aside before a start when it is too large."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_MAX_BYTES:
            log.replace(log.with_suffix(".log.1"))


def describe_exit(code: int) -> str:
    """An exit code for people: ``exit 75`` or ``SIGKILL``."""
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
