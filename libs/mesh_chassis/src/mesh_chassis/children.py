"""Child processes of a service, started and ended through the reaper.

The reaper (``reaper.py``) is a process of its own, so that children die with the service however
it dies. This side keeps the socket to it, starts it again when it was killed (all children are
gone then, their owners see them exit), and hands out the three pipes of each child.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis import reaper
from mesh_chassis.reaper import MARKER, Frames

__all__ = ["SPAWN_TIMEOUT_S", "Cell", "Child", "ChildLimits", "Children"]

SPAWN_TIMEOUT_S = 5.0
"""Longest wait for the reaper to start a program; forking takes about a millisecond."""
REAPER_EXIT_S = 5.0
_READ_BYTES = 65536
_SIGNALS_MAX = 64


class ChildLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Resource limits of one child; 0 leaves what the service itself has.

    Attributes:
        memory_bytes: address space (``RLIMIT_AS``). Off by default: runtimes such as Node and Go
            reserve far more than they use.
        files: open descriptors.
        processes: processes of the user, so only useful where the service has a user of its own.
        data_bytes: what each process can write to in memory (``RLIMIT_DATA``); what is only
            reserved does not count.
        file_bytes: largest file it can write; there are no core files then either.
    """

    memory_bytes: int = 0
    files: int = 1024
    processes: int = 0
    data_bytes: int = 0
    file_bytes: int = 0


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is put into before its program runs (``sandbox.stage``).

    Attributes:
        descriptors: files it gets open as 3, 4, …; closed here in any case.
        groups: control groups that it enters; the reaper removes them after its end.
        uid: real uid and gid that it has from then on; 0 = the service's. Only for root.
        sources: with a uid: paths that are opened with the service's rights, and are then below
            ``sandbox.stage.place()`` as 0, 1, 2, ….
        relays: the program runs another one and reports its end by signal N as 128 + N.
    """

    descriptors: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    uid: int = 0
    sources: tuple[str, ...] = ()
    relays: bool = False


class Child:
    """One started program: its pipes and its end. Owned by whoever called ``Children.spawn``.

    Attributes:
        killed_for_memory: after its end, how many processes its control group lost that way.
    """

    def __init__(self, key: str, marker: str, program: str, *, relays: bool = False) -> None:
        self.key = key
        self.killed_for_memory = 0
        self._relays = relays
        self.program = program
        self.marker = marker
        self.pid = 0
        self.stdin = -1
        self.stdout = -1
        self.stderr = -1
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()

    def exit_now(self, status: int) -> None:
        """Record the end, once."""
        if self._relays and 128 < status <= 128 + _SIGNALS_MAX:
            status = 128 - status
        if not self.exited.done():
            self.exited.set_result(status)
        if not self.started.done():
            self.started.set_exception(_failed("the child process ended while it was started"))
            self.started.exception()  # a spawner that timed out no longer looks at it


class Children:
    """The reaper and every child of this service."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._sock: socket.socket | None = None
        self._frames = Frames()
        self._children: dict[str, Child] = {}
        self._number = 0
        self._lock = asyncio.Lock()
        self._name = secrets.token_hex(6)

    def __len__(self) -> int:
        """Children alive."""
        return len(self._children)

    @property
    def reaper_pid(self) -> int:
        """Process id of the reaper; 0 before the first child."""
        return self._process.pid if self._process else 0

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str = "",
        limits: ChildLimits | None = None,
        stdin: int = -1,
        cell: Cell | None = None,
    ) -> Child:
        """Start a program in a session of its own; never through a shell.

        Args:
            argv: program (looked up on the PATH of ``env``) and arguments.
            env: complete environment.
            cwd: working directory; "" = the service's.
            limits: resource limits.
            stdin: descriptor to give it as its standard input, closed here in any case; -1 = a
                pipe is made.
            cell: what it is put into.

        Raises:
            MeshError: ``upstream`` (not executed) with the reason the system gave.
        """
        caps, walls = limits or ChildLimits(), cell or Cell()
        self._number += 1
        marker = f"{self._name}-{self._number}"
        child = Child(f"{self._number}", marker, argv[0], relays=walls.relays)
        marked = {**env, MARKER: child.marker}
        theirs = [stdin] if stdin >= 0 else []
        closing = [*theirs, *walls.descriptors]
        try:
            frame = _spawn_frame(child.key, argv, marked, cwd, caps, walls)
            async with self._lock:
                sock = self._sock or await self._start_reaper()
            _open_pipes(child, theirs, closing)
            self._children[child.key] = child
            # A socket pair with room for one command line: writing does not block.
            if socket.send_fds(sock, [frame], [*theirs, *walls.descriptors]) < len(frame):
                # Half a frame: what follows would be read as its rest, so begin anew.
                self._lost()
            async with asyncio.timeout(SPAWN_TIMEOUT_S):
                await asyncio.shield(child.started)
        except BaseException as error:
            self._drop(child)
            if isinstance(error, OSError | TimeoutError):
                raise _failed("the child process could not be started") from error
            raise
        finally:
            for fd in closing:
                os.close(fd)
        return child

    def kill(self, child: Child, *, grace_s: float = 0.0) -> None:
        """Ask for the end of a child's group: SIGTERM, then SIGKILL after ``grace_s``.

        ``child.exited`` resolves when nothing that the child started is left.
        """
        if self._sock is not None and not child.exited.done():
            frame = Frames.pack(b"kill", child.key.encode(), str(int(grace_s * 1000)).encode())
            # On an error the reaper is gone, and its children with it; _lost reports them.
            with contextlib.suppress(OSError):
                self._sock.send(frame)

    async def close(self) -> None:
        """End the reaper, which kills whatever still runs."""
        process, self._process = self._process, None
        self._forget_socket()
        if process is not None:
            try:
                async with asyncio.timeout(REAPER_EXIT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        for child in list(self._children.values()):
            self._end(child, -9)

    async def _start_reaper(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            # Isolated, without site: small, quick, and nothing from the environment.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(Path(reaper.__file__)),
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        finally:
            theirs.close()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, reaper.FRAME_MAX)
        ours.setblocking(False)
        self._sock = ours
        self._frames = Frames()
        asyncio.get_running_loop().add_reader(ours, self._on_readable)
        return ours

    def _on_readable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            data = sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        for frame in self._frames.feed(data):
            self._on_frame(frame)

    def _on_frame(self, frame: list[bytes]) -> None:
        verb, key = frame[0], frame[1].decode()
        child = self._children.get(key)
        if child is None:
            return
        if verb == b"started":
            child.pid = int(frame[2])
            if not child.started.done():
                child.started.set_result(None)
        elif verb == b"failed":
            if not child.started.done():
                reason = frame[2].decode(errors="replace")
                # The reaper names the step, "command: No such file"; people want the program.
                reason = reason.replace("command:", f"{child.program[:200]}:", 1)
                child.started.set_exception(_failed(f"cannot start the program: {reason}"))
            self._end(child, 127)
        elif verb == b"exited":
            child.killed_for_memory = int(frame[3])
            self._end(child, int(frame[2]))

    def _lost(self) -> None:
        """The reaper is gone: direct children died with it, kill what they left."""
        self._forget_socket()
        for child in list(self._children.values()):
            reaper.kill_marked(child.pid, child.marker)
            self._end(child, -9)

    def _forget_socket(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    def _end(self, child: Child, status: int) -> None:
        self._children.pop(child.key, None)
        child.exit_now(status)

    def _drop(self, child: Child) -> None:
        """Give up on a start: close our ends; the reaper kills it should it still appear."""
        self.kill(child)
        for fd in (child.stdin, child.stdout, child.stderr):
            if fd >= 0:
                os.close(fd)


def _failed(reason: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, reason, outcome=Outcome.NOT_EXECUTED)


def _open_pipes(child: Child, theirs: list[int], closing: list[int]) -> None:
    """Make the pipes; ``theirs`` and ``closing`` get the ends of the child, whatever happens."""

    def given(fd: int) -> None:
        theirs.append(fd)
        closing.append(fd)

    if not theirs:
        stdin, child.stdin = os.pipe()
        given(stdin)
    child.stdout, stdout = os.pipe()
    given(stdout)
    child.stderr, stderr = os.pipe()
    given(stderr)


def _spawn_frame(
    key: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    limits: ChildLimits,
    cell: Cell,
) -> bytes:
    caps = ",".join(str(value) for value in msgspec.structs.astuple(limits))
    fields = ["spawn", key, cwd, caps, str(cell.uid), str(3 + len(cell.descriptors))]
    variables = [f"{name}={value}" for name, value in env.items()]
    for several in (cell.groups, cell.sources, argv, variables):
        fields += [str(len(several)), *several]
    try:
        return Frames.pack(*(os.fsencode(field) for field in fields))
    except (ValueError, UnicodeEncodeError) as error:
        raise _failed(f"cannot start the program: {error}") from error
