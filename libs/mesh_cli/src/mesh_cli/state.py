"""The state directory (``.mesh``): where everything of one local mesh lies, and who runs it.

``mesh up`` writes it; every other command finds it upward from the working directory, as git
finds its repository. The pid file is locked by the living ``mesh up``: the lock goes with the
process whatever kills it, so a stale file is told from a live one without guessing.
"""

import fcntl
import os
import time
from pathlib import Path

import msgspec

from mesh_cli.failure import Exit, Failure

__all__ = [
    "DIRECTORY",
    "KEY_FILE",
    "STATIC_TOKEN_FILE",
    "VERIFIER_KEY_FILE",
    "Endpoint",
    "RunLock",
    "RunRecord",
    "StateDir",
    "find",
    "require",
]

DIRECTORY = ".mesh"
KEY_FILE = "admin.key"
"""First API key of a mesh that asks for credentials."""
VERIFIER_KEY_FILE = "verifier.key"
STATIC_TOKEN_FILE = "static.token"  # noqa: S105 - the name of a file
"""The server's own token, there while the user's file or environment names one."""
_PRIVATE = 0o700
_LOCK_ATTEMPTS = 5
_LOCK_PAUSE_S = 0.02


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One process that ``mesh up`` started.

    Attributes:
        instance: instance id, also the name of its log file.
        service: service name; ``nats-server`` for the broker.
        pid: process id at the last start.
        http: ``http://host:port`` of a gateway; "" otherwise.
        tcp: ``host:port`` of a gateway's line edge; "" otherwise.
    """

    instance: str
    service: str
    pid: int
    http: str = ""
    tcp: str = ""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What runs where; ``run.json``. Present from the start of ``mesh up`` until it has ended.

    Attributes:
        pid: process id of ``mesh up``.
        nats: URL of the broker.
        tenant: development tenant; "" when a credential is needed.
        development: True when loopback callers need no credential.
        endpoints: processes, in the order of their start.
        ready: True once a first call has succeeded.
    """

    pid: int
    nats: str
    tenant: str
    development: bool
    endpoints: tuple[Endpoint, ...] = ()
    ready: bool = False

    @property
    def http(self) -> str:
        """URL of the first HTTP edge; "" when there is none."""
        return next((point.http for point in self.endpoints if point.http), "")

    @property
    def tcp(self) -> str:
        """``host:port`` of the first line edge; "" when there is none."""
        return next((point.tcp for point in self.endpoints if point.tcp), "")


class StateDir:
    """Paths below one state directory. Making the object touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.keys = self.root / "keys"
        self.config = self.root / "config"
        self.logs = self.root / "logs"
        self.agents = self.root / "agents"
        self.broker_store = self.root / "nats" / "jetstream"
        self.contexts = self.root / "nats" / "context"
        self.broker_config = self.config / "nats-server.conf"
        self.pid_file = self.root / "mesh.pid"
        self.run_file = self.root / "run.json"

    def create(self) -> None:
        """Make the directories, readable by their owner only."""
        for path in (self.root, self.keys, self.config, self.logs, self.broker_store):
            path.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
        self.keys.chmod(_PRIVATE)
        ignore = self.root / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def seed(self, user: str) -> Path:
        """Seed file of a broker user, e.g. ``gateway-1`` or ``operator``."""
        return self.keys / f"{user}.nk"

    @property
    def credential(self) -> Path:
        """File with the credential of the directory's owner; absent in development.

        The server's own token, or else the API key that ``mesh up`` made.
        """
        chosen = self.keys / STATIC_TOKEN_FILE
        return chosen if chosen.exists() else self.keys / KEY_FILE

    def log(self, instance: str) -> Path:
        """Log file of one process."""
        return self.logs / f"{instance}.log"

    def service_config(self, instance: str) -> Path:
        """Configuration file of one service instance."""
        return self.config / f"{instance}.toml"

    def read_run(self) -> RunRecord | None:
        """The record of the running (or crashed) mesh; None when there is none or it is torn."""
        try:
            return msgspec.json.decode(self.run_file.read_bytes(), type=RunRecord)
        except (OSError, msgspec.DecodeError):
            return None

    def write_run(self, record: RunRecord) -> None:
        """Replace the record in one step, so that a reader never sees half of it."""
        draft = self.run_file.with_suffix(".new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
        draft.replace(self.run_file)

    def holder(self) -> int:
        """Pid of the ``mesh up`` that holds this directory now; 0 = nobody.

        The lock decides, not the number in the file.
        """
        try:
            with self.pid_file.open("r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = file.read().strip()
                    return int(text) if text.isdigit() else -1
        except OSError:
            return 0
        return 0


class RunLock:
    """Held by ``mesh up`` as long as it lives."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._fd = -1

    def take(self) -> None:
        """Take the directory.

        Raises:
            Failure: another ``mesh up`` holds it.
        """
        fd = os.open(self._state.pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A reader (``StateDir.holder``) holds the lock for an instant: look again.
                if attempt < _LOCK_ATTEMPTS - 1:
                    time.sleep(_LOCK_PAUSE_S)
        else:
            pid = os.read(fd, 32).decode().strip() or "?"
            os.close(fd)
            raise Failure(
                f"a mesh already runs on {self._state.root} (mesh up, pid {pid})",
                mend=f"stop it with: mesh down --state {self._state.root}",
            )
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Give the directory back: no run record, an empty pid file.

        The file itself stays, since a lock on a removed file would keep nobody out.
        """
        if self._fd < 0:
            return
        self._state.run_file.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = -1


def find(given: str | None, start: Path | None = None) -> StateDir | None:
    """The state directory a command works on.

    Args:
        given: value of ``--state``; wins when set.
        start: where the upward search begins; default the working directory.

    Returns:
        The directory named, or the nearest ``.mesh`` upward; None when there is none.
    """
    if given:
        return StateDir(Path(given))
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / DIRECTORY).is_dir():
            return StateDir(folder / DIRECTORY)
    return None


def require(given: str | None) -> tuple[StateDir, RunRecord]:
    """The state directory of a running mesh with its record.

    Raises:
        Failure: no state directory, or nothing runs on it.
    """
    state = find(given)
    if state is None:
        raise Failure(
            f"no {DIRECTORY} directory here or above",
            mend="start a mesh with: mesh up   (or name its directory with --state)",
            code=Exit.UNREACHABLE,
        )
    record = state.read_run()
    if record is None or not state.holder():
        raise Failure(
            f"no mesh runs on {state.root}", mend="start it with: mesh up", code=Exit.UNREACHABLE
        )
    return state, record
