"""From hello to the user's program, and to its end.

The program runs in a fork of this process, so what was imported before ``hello`` need not be
imported again: a parked machine starts it within milliseconds. The fork is an ordinary user; this
process keeps the control channel, which the program cannot reach.
"""

import contextlib
import importlib
import os
import runpy
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec

from mcp_proto.errors import MeshError
from mesh_chassis.link.addresses import LinkAddress, parse
from mesh_sdk.guest import kernel
from mesh_sdk.guest.channel import Channel
from mesh_sdk.guest.handshake import (
    LINE_MAX,
    Go,
    Hello,
    Program,
    Ready,
    is_stop,
    read_go,
    read_program,
)

__all__ = ["Settings", "run"]

USER = 1000
"""Who the program is in a machine of its own."""
EXIT_HANDSHAKE = 69
"""The host did not say what to do (``EX_UNAVAILABLE``)."""
_READY_FD = "MESH_AGENT_READY_FD"
_PARENT_FD = "MESH_AGENT_PARENT_FD"
"""As in ``mesh_sdk.agent.reloading``: the SDK says that it serves, and leaves with its parent."""
_POLL_S = 0.05
SPARED_LAST = 900


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the stage was started.

    Attributes:
        control: address of the control channel.
        link: address of the link, unless ``go`` names one.
        image: digest of the image; "" = not known here.
        program: the image's own program, a Python file.
        preload: modules to import before hello.
        work: folder for what the host hands over.
        version: of the SDK.
        own_kernel: this is a machine, and the stage its root: randomness, clock and user are
            set. Else kernel and user are the host's and neither is touched, whatever the rights.
    """

    control: str
    link: str = ""
    image: str = ""
    program: str = ""
    preload: tuple[str, ...] = ()
    work: str = "/tmp"  # noqa: S108 - of the machine, which has nobody else in it
    version: str = ""
    own_kernel: bool = False


def run(settings: Settings) -> int:
    """Say hello, wait for go, run the program; returns its exit status.

    Raises:
        MeshError: the control channel's address cannot be read.
        OSError: nobody is there.
    """
    channel = Channel(parse(settings.control), LINE_MAX)
    try:
        for name in settings.preload:
            importlib.import_module(name)
        hello = msgspec.json.encode(Hello(image=settings.image, agent=settings.version))
        channel.send(hello)
        go = _wait_go(channel, hello)
        link = parse(go.link or settings.link)
        program = read_program(go.config)
    except (EOFError, ValueError, OSError, MeshError) as error:
        _say(f"no go: {error}")
        channel.close()
        return EXIT_HANDSHAKE
    undone = _prepare(go, link) if settings.own_kernel else ["kernel and user: the host's"]
    child = _Child(settings, go, link, program, channel, undone)
    return child.wait()


def _wait_go(channel: Channel, hello: bytes) -> Go:
    while True:
        go = read_go(channel.wait_line(hello))
        if go is not None:
            return go


def _prepare(go: Go, link: LinkAddress) -> list[str]:
    """Everything that needs root; what could not be done."""
    done = [
        # A program that takes all memory must not end the machine with it, unseen.
        kernel.spare(-SPARED_LAST),
        kernel.reseed(bytes.fromhex(go.entropy)),
        kernel.set_clock(go.now),
        kernel.close_modules(),
    ]
    if link.scheme == "serial" and os.geteuid() == 0:
        done.append(kernel.give(link.path, USER))
    return [problem for problem in done if problem]


class _Child:
    """The user's program and what it says."""

    def __init__(
        self,
        settings: Settings,
        go: Go,
        link: LinkAddress,
        program: Program,
        channel: Channel,
        undone: Sequence[str],
    ) -> None:
        self._channel = channel
        self._undone = list(undone)
        if os.geteuid() != 0:
            self._undone.append("root: this is none")
        self._ready, told = os.pipe()
        alive, self._life = os.pipe()
        files = _hand_over(settings, go, program)
        environment = _environment(settings, go, link, program, files)
        environment |= {_READY_FD: f"{told}", _PARENT_FD: f"{alive}"}
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            channel.close()
            os.close(self._ready)
            os.close(self._life)
            _be_the_program(settings, program, environment, files, parent)
        os.close(told)
        os.close(alive)
        self._process = os.pidfd_open(self.pid)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_end)

    def wait(self) -> int:
        """Until it has ended; returns its status as a shell would."""
        watched: list[int] = [self._process, self._ready, self._channel.fileno()]
        while True:
            readable = select.select(watched, [], [])[0]
            if self._ready in readable:
                watched.remove(self._ready)
                self._hear_ready()
            if self._channel.fileno() in readable and not self._hear_host():
                watched.remove(self._channel.fileno())
            if self._process in readable:
                break
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._channel.close()
        return status if status >= 0 else 128 - status

    def _hear_ready(self) -> None:
        # A program that is not of the SDK closes the pipe with its end, or says nothing.
        if os.read(self._ready, 64):
            with contextlib.suppress(OSError):
                self._channel.send(msgspec.json.encode(Ready(undone=tuple(self._undone))))

    def _hear_host(self) -> bool:
        """Take what there is; False = there will be no more."""
        while True:
            try:
                line = self._channel.line()
                if line is None:
                    break
                if is_stop(line):
                    self._end()
            except (EOFError, OSError):
                self._end()  # a machine ends with its host
                return False
            except ValueError as error:
                _say(f"what the host says cannot be read: {error}")
                if self._channel.overrun:
                    return False
        if self._channel.lasts:
            time.sleep(_POLL_S)  # a port that nobody holds is always readable
        return True

    def _told_to_end(self, _number: int, _frame: FrameType | None) -> None:
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


class _Files(msgspec.Struct, frozen=True, kw_only=True):
    config: str
    source: str = ""


def _hand_over(settings: Settings, go: Go, program: Program) -> _Files:
    """Write what the program reads; a folder of its own, since the program may not be us."""
    folder = Path(settings.work) / "mesh"
    folder.mkdir(mode=0o755, exist_ok=True)
    config = folder / "config.json"
    config.write_bytes(bytes(go.config) or b"{}")
    source = ""
    if program.source:
        written = folder / "program.py"
        written.write_text(program.source)
        source = str(written)
    return _Files(config=str(config), source=source)


def _environment(
    settings: Settings, go: Go, link: LinkAddress, program: Program, files: _Files
) -> dict[str, str]:
    return {
        **program.environment,
        "PATH": "/usr/bin:/bin",
        "HOME": settings.work,
        "MESH_URL": str(link),
        "MESH_TENANT": go.tenant,
        "MESH_INSTANCE": go.vm_id,
        "MESH_MACHINE": go.vm_id,
        "MESH_MACHINE_CONFIG": files.config,
    }


def _be_the_program(
    settings: Settings,
    program: Program,
    environment: dict[str, str],
    files: _Files,
    parent: int,
) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(settings.work)
        if settings.own_kernel:
            kernel.spare(SPARED_LAST)
            kernel.become(USER)
        kernel.end_with_parent(parent)
        os.environ.clear()
        os.environ.update(environment)
        path = files.source or program.program or settings.program
        if not path and not program.module:
            raise SystemExit("no program: the image has none, and the host named none")
        sys.argv = [path or program.module, *program.arguments]
        if program.module and not files.source:
            runpy.run_module(program.module, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(path).parent))
            runpy.run_path(path, run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = _status(leaving.code)
    except BaseException:  # noqa: BLE001 - this process must not go on as a second stage
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _say(str(code))
    return 1


def _say(text: str) -> None:
    sys.stderr.write(f"guest: {text}\n")
    sys.stderr.flush()
