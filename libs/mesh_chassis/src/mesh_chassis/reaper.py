"""The small process that owns a service's children, so that no death of that orphans one.

A child killed by ``PR_SET_PDEATHSIG`` leaves its own children behind, and a killed service cannot
clean up. So every child is started by this process: a sub-reaper (orphaned descendants come to
it, not to init) that holds one socket to the service. When the socket ends, however the service
died, everything below is killed. When one child ends, everything that child started is killed.
Should this process itself be killed, ``PR_SET_PDEATHSIG`` takes the direct children and the
service sweeps the rest by the marker in their environment.

One reaper per service costs one small interpreter (no site packages, standard library only)
instead of one per child, and forking from it is cheap and single-threaded, which is what makes
the code between fork and exec safe. Rejected: ``setpriv`` and ``bwrap`` (not everywhere), a pid
namespace (needs rights), one watchdog per child (one interpreter each).

Run as a script with the number of the socket. Frames: 4 bytes length, then fields joined by NUL.

    > spawn id cwd limits uid descriptors groupc group… sourcec source… argc arg… envc K=V…
      with descriptors: stdin, stdout, stderr and those that follow them as 3, 4, …
    > kill id grace_ms
    < started id pid | failed id reason | exited id status killed-for-memory
"""

import ctypes
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time
from types import ModuleType

__all__ = ["MARKER", "Frames", "kill_marked", "main"]

MARKER = "MESH_CHILD"
"""Environment variable that names the child a process belongs to, whatever session it made."""

FRAME_MAX = 1 << 20  # a command line with its environment; execve itself allows about 2 MiB
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_ROUNDS = 200  # a process that forks while it is killed needs more than one round
_SWEEP_PAUSE_S = 0.002
_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
)
_NO_CORE = 4  # the place of RLIMIT_FSIZE: who has a bound on files leaves no image of itself either
_REMOVE_ROUNDS = 100
_VSIZE = 20  # place of the address space's size after the state


class Frames:
    """Cuts the length-prefixed frames out of a byte stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[bytes]]:
        """Take bytes, give complete frames as lists of fields.

        Raises:
            ValueError: a frame longer than ``FRAME_MAX``.
        """
        self._buffer += data
        out: list[list[bytes]] = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4])
            if size > FRAME_MAX:
                raise ValueError("frame too long")
            if len(self._buffer) < 4 + size:
                break
            out.append(bytes(self._buffer[4 : 4 + size]).split(b"\0"))
            del self._buffer[: 4 + size]
        return out

    @staticmethod
    def pack(*fields: bytes) -> bytes:
        """One frame.

        Raises:
            ValueError: a field contains NUL, or the frame is too long.
        """
        body = b"\0".join(fields)
        if body.count(b"\0") != len(fields) - 1 or len(body) > FRAME_MAX:
            raise ValueError("a NUL byte or too many bytes in a command line or environment")
        return len(body).to_bytes(4) + body


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _table() -> dict[int, tuple[int, int, int]]:
    """Living processes: pid → (parent, group, session). Zombies are left out."""
    table: dict[int, tuple[int, int, int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the interpreter's size
        if name.isdigit():
            fields = _stat(int(name))
            if fields and fields[0] not in {b"Z", b"X"}:
                table[int(name)] = (int(fields[1]), int(fields[2]), int(fields[3]))
    return table


def _stat(pid: int) -> list[bytes]:
    """What the kernel says of a process, from its state on; empty = it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _is_marked(pid: int, marker: bytes, *, ours: bool) -> bool:
    """Whether a process belongs to a child, or is an orphan of ours (``ours``) that is ending.

    One that is ending has no memory any more and so no environment to be known by. If it is the
    first process of a pid namespace it waits for all others there, and so must we.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            said = file.read()
    except OSError:
        said = b""  # newer kernels refuse to open it when there is no memory
    if said or not ours:
        return marker in said.split(b"\0")
    fields = _stat(pid)
    return bool(fields) and fields[0] not in {b"Z", b"X"} and fields[_VSIZE] == b"0"


def _victims(table: dict[int, tuple[int, int, int]], root: int, marker: bytes) -> set[int]:
    """Everything that belongs to a child: its group, session, descendants and marked orphans."""
    me = os.getpid()
    found = {
        pid
        for pid, (parent, group, session) in table.items()
        if root in {pid, group, session}
        or (pid != me and _is_marked(pid, marker, ours=parent == me))
    }
    grown = True
    while grown:
        below = {pid for pid, (parent, _, _) in table.items() if parent in found} - found
        grown = bool(below)
        found |= below
    found.discard(me)
    return found


def _kill(pid: int, number: int) -> None:
    try:  # noqa: SIM105 - contextlib would be one more import of this small process
        os.kill(pid, number)
    except OSError:
        pass  # gone already


def _kill_group(group: int, number: int) -> None:
    try:  # noqa: SIM105
        os.killpg(group, number)
    except OSError:
        pass


def kill_marked(root: int, marker: str) -> int:
    """Kill all that is left of one child, also what left its session; wait until it is gone.

    Args:
        root: pid of the child, which is also its group and session; 0 = unknown.
        marker: value of ``MESH_CHILD`` in its environment.

    Returns:
        How many processes were still there at the end (0 unless something cannot be killed).
    """
    if sys.platform != "linux":
        if root:
            _kill_group(root, signal.SIGKILL)
        return 0
    entry = f"{MARKER}={marker}".encode()
    left: set[int] = set()
    for _ in range(_SWEEP_ROUNDS):
        left = _victims(_table(), root or -1, entry)
        if not left:
            break
        for pid in left:
            _kill(pid, signal.SIGKILL)
        time.sleep(_SWEEP_PAUSE_S)
    return len(left)


class _Start:
    """What a spawn frame asks for."""

    def __init__(self, frame: list[bytes]) -> None:
        self._rest = iter(frame[1:])
        self.name = next(self._rest)
        self.cwd = next(self._rest)
        self.limits = [int(one) for one in next(self._rest).split(b",")]
        self.uid = int(next(self._rest))
        self.descriptors = int(next(self._rest))
        self.groups = self._list()
        self.sources = self._list()
        self.argv = self._list()
        self.env = dict(pair.split(b"=", 1) for pair in self._list())

    def _list(self) -> list[bytes]:
        return [next(self._rest) for _ in range(int(next(self._rest)))]


class _Child:
    """One running child: ``deadline`` is when it is killed, 0 = not asked for."""

    def __init__(self, pid: int, marker: str, groups: list[bytes]) -> None:
        self.pid = pid
        self.marker = marker
        self.groups = groups
        self.deadline = 0.0

    def clear(self) -> int:
        """Kill all that is left of it and remove its groups; how many the kernel killed there."""
        kill_marked(self.pid, self.marker)
        killed = _killed_for_memory(self.groups)
        _remove(self.groups)
        return killed


class _Reaper:
    def __init__(self, sock: socket.socket, wakeup: socket.socket) -> None:
        self._sock = sock
        self._wakeup = wakeup
        self._frames = Frames()
        self._fds: list[int] = []
        self._children: dict[bytes, _Child] = {}

    def run(self) -> None:
        """Serve until the service is gone, then kill everything."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        try:
            while True:
                ready = dict(poll.poll(self._wait_ms()))
                if self._wakeup.fileno() in ready:
                    woken = self._wakeup.recv(4096)
                    if signal.SIGTERM in woken:
                        return
                if self._sock.fileno() in ready and not self._receive():
                    return
                self._collect()
                self._kill_late()
        finally:
            for child in self._children.values():
                _kill_group(child.pid, signal.SIGKILL)
            for child in self._children.values():
                child.clear()

    def _wait_ms(self) -> int | None:
        deadlines = [child.deadline for child in self._children.values() if child.deadline]
        if not deadlines:
            return None
        return max(0, int((min(deadlines) - time.monotonic()) * 1000) + 1)

    def _receive(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, 65536, 30)
        except OSError:
            return False
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds += fds
        if not data:
            return False
        for frame in self._frames.feed(data):
            if frame[0] == b"spawn":
                self._spawn(frame)
            elif frame[0] == b"kill":
                self._stop(frame[1], int(frame[2]))
        return True

    def _send(self, *fields: bytes) -> None:
        try:  # noqa: SIM105
            self._sock.sendall(Frames.pack(*fields))
        except OSError:
            pass  # the service is gone; the end of its socket is seen next

    def _spawn(self, frame: list[bytes]) -> None:
        start = _Start(frame)
        fds, self._fds = self._fds[: start.descriptors], self._fds[start.descriptors :]
        if start.groups or start.uid:
            _staging()  # before the fork, so that it is read once
        report, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(report)
            _become(start, fds, tell)
        os.close(tell)
        for fd in fds:
            os.close(fd)
        reason = b""
        while chunk := os.read(report, 4096):
            reason += chunk
        os.close(report)
        if reason:
            os.waitpid(pid, 0)
            _remove(start.groups)
            self._send(b"failed", start.name, reason.replace(b"\0", b" "))
        else:
            marker = start.env.get(MARKER.encode(), b"").decode()
            self._children[start.name] = _Child(pid, marker, start.groups)
            self._send(b"started", start.name, str(pid).encode())

    def _stop(self, name: bytes, grace_ms: int) -> None:
        child = self._children.get(name)
        if child is not None:
            _kill_group(child.pid, signal.SIGTERM if grace_ms else signal.SIGKILL)
            child.deadline = time.monotonic() + grace_ms / 1000

    def _kill_late(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.deadline and child.deadline <= now:
                child.deadline = 0.0
                _kill_group(child.pid, signal.SIGKILL)

    def _collect(self) -> None:
        # WNOWAIT keeps the zombie, and so its pid, until everything it started is gone.
        names = {child.pid: name for name, child in self._children.items()}
        while (ended := _next_ended()) is not None:
            name, killed = names.pop(ended, None), 0
            if name is not None:
                killed = self._children.pop(name).clear()
            _, status = os.waitpid(ended, 0)
            if name is not None:
                code = str(os.waitstatus_to_exitcode(status))
                self._send(b"exited", name, code.encode(), str(killed).encode())


def _next_ended() -> int | None:
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended else None


def _staging() -> ModuleType:
    """The other half of starting a child in a sandbox; few services need it."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    if folder not in sys.path:
        sys.path.append(folder)
    from mesh_chassis.sandbox import stage  # noqa: PLC0415

    return stage


def _killed_for_memory(groups: list[bytes]) -> int:
    """Processes that the kernel ended because their control group had no memory left."""
    for group in groups:
        for name in (b"/memory.events", b"/memory.oom_control"):
            try:
                with open(group + name, "rb") as file:  # noqa: PTH123
                    counts = dict(line.split(b" ", 1) for line in file.read().splitlines())
                return int(counts.get(b"oom_kill", b"0"))
            except (OSError, ValueError):
                continue
    return 0


def _remove(groups: list[bytes]) -> None:
    """Remove control groups that nothing runs in any more."""
    for group in groups:
        for _ in range(_REMOVE_ROUNDS):
            try:
                os.rmdir(group)  # noqa: PTH106
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(_SWEEP_PAUSE_S)  # the kernel is not done with the last process
            else:
                break


def _become(start: _Start, fds: list[int], tell: int) -> None:
    """Between fork and exec. Never returns; a failure is written to ``tell``."""
    step = "process group"
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)  # the reaper died before the death signal was set
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        tell = _arrange(fds, tell)
        if start.groups:
            step = "control group"
            _staging().enter(start.groups)
        step = "resource limits"
        for which, value in zip(_LIMITS, start.limits, strict=True):
            if value:
                resource.setrlimit(which, (value, value))
        if start.limits[_NO_CORE]:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if start.uid:
            step = "sandbox"
            _staging().expose(start.sources, start.uid)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the kernel forgets it with the uid
        step = "working directory"
        if start.cwd:
            os.chdir(start.cwd)
        step = "command"
        os.execvpe(start.argv[0], start.argv, start.env)  # noqa: S606 - a configured server's list
    except BaseException as error:  # noqa: BLE001 - the only way out of a forked child
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        os.write(tell, f"{step}: {text or type(error).__name__}".encode())
    finally:
        os._exit(127)


def _arrange(fds: list[int], tell: int) -> int:
    """Give descriptors the numbers 0, 1, 2, …; returns where ``tell`` is now."""
    above = len(fds)
    tell = fcntl.fcntl(tell, fcntl.F_DUPFD_CLOEXEC, above)
    # First all out of the way: one may have the number that another gets.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    for target, fd in enumerate(high):
        os.dup2(fd, target)
    return tell


def _noted(_number: int, _frame: object) -> None:
    """The wakeup socket has the number already."""


def main() -> None:
    """Entry of the script."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    sock.setblocking(True)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    near, far = socket.socketpair()
    far.setblocking(False)
    signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, _noted)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _Reaper(sock, near).run()


if __name__ == "__main__":
    main()
