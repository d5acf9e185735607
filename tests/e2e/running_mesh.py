"""A mesh as a user has it: a real ``mesh up`` in a folder of its own, stopped by ctrl-C."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.e2e import processes
from tests.e2e.processes import Process

__all__ = ["AS_SHIPPED", "MESH", "PLAIN_ENVIRONMENT", "RunningMesh"]

MESH = str(Path(sys.executable).with_name("mesh"))
READY_S = 60.0
STOP_S = 40.0
_POLL_S = 0.01
_MARK = "MESH_TEST_RUN"
QUICK_STOP = {"MESH_SERVICE_ACCEPT_S": "0.05"}
"""Nobody needs to hear that a whole mesh stops; every service would wait a second for that."""
AS_SHIPPED = {"MESH_SERVICE_ACCEPT_S": "1.0"}
"""For meshes whose parts are restarted one by one, under load."""
PLAIN_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("MCP_", "NATS_", "MESH_"))
}


class RunningMesh:
    """One ``mesh up``.

    Args:
        room: empty folder; becomes the working directory, state goes to ``.mesh`` in it.
        options: further options of ``mesh up``.
        config: content of ``mesh.toml``; "" = no file.
        env: environment beside the plain one; ``MESH_<SECTION>_<FIELD>`` reaches every service
            whose configuration has such a field.
    """

    def __init__(
        self, room: Path, *options: str, config: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        self.room = room
        self.state = room / ".mesh"
        self.options = options
        self.env = {**QUICK_STOP, **(env or {})}
        self.output: list[str] = []
        self._mark = f"{_MARK}={secrets.token_hex(8)}"
        self._seen: set[Process] = set()
        self._child: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()
        room.mkdir(parents=True, exist_ok=True)
        if config:
            (room / "mesh.toml").write_text(config)

    # Life -----------------------------------------------------------------------------------

    def start(self) -> "RunningMesh":
        """Start it and wait for the line ``ready``."""
        name, _, value = self._mark.partition("=")
        ports = ("--http-port", "0", "--tcp-port", "0", "--nats-port", "0")
        self._child = subprocess.Popen(
            [MESH, "up", *ports, *self.options],
            cwd=self.room,
            env={**PLAIN_ENVIRONMENT, **self.env, name: value},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until = time.monotonic() + READY_S
        while not self._ready.wait(0.05):
            if self._child.poll() is not None or time.monotonic() > until:
                said = "".join(self.output)
                self._child.kill()
                self._child.wait()
                raise AssertionError(f"mesh up never said ready:\n{said}\n{self.logs()}")
        self.notice()
        return self

    def stop(self) -> int:
        """Stop it as ctrl-C does.

        Returns:
            Its exit code; afterwards ``left`` tells what it left behind.
        """
        assert self._child is not None
        if self._child.poll() is None:
            self.notice()
            self._child.send_signal(signal.SIGINT)
        try:
            code = self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise AssertionError(f"mesh up did not stop:\n{self.said}\n{self.logs()}") from None
        finally:
            if self._reader is not None:
                self._reader.join(5)
            if self._child.stdout is not None:
                self._child.stdout.close()
        return code

    def left(self) -> list[Process]:
        """Processes that outlive the mesh by more than a moment."""
        return [*processes.gone(self._seen, 3.0), *processes.marked(self._mark)]

    def notice(self) -> set[Process]:
        """Remember every process below ``mesh up``, so that none can be lost sight of."""
        assert self._child is not None
        now = processes.below(self._child.pid)
        self._seen |= now
        return now

    def _read(self) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self.output.append(line)
            if line.rstrip("\n") == "ready":
                self._ready.set()

    # What it says of itself -----------------------------------------------------------------

    @property
    def said(self) -> str:
        """Everything printed so far."""
        return "".join(self.output)

    def record(self) -> dict[str, object]:
        """``run.json``."""
        return json.loads((self.state / "run.json").read_text())

    def _points(self) -> list[dict[str, object]]:
        points = self.record()["endpoints"]
        assert isinstance(points, list)
        return points

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each instance."""
        return {str(point["instance"]): int(str(point["pid"])) for point in self._points()}

    @property
    def urls(self) -> list[str]:
        """``http://host:port`` of each gateway."""
        return [str(point["http"]) for point in self._points() if point["http"]]

    @property
    def lines(self) -> list[tuple[str, int]]:
        """Host and port of each line edge."""
        pairs = [str(point["tcp"]).rpartition(":") for point in self._points() if point["tcp"]]
        return [(host, int(port)) for host, _, port in pairs]

    @property
    def http(self) -> str:
        """The first of ``urls``."""
        return self.urls[0]

    @property
    def mcp(self) -> str:
        """URL of the first gateway's MCP endpoint."""
        return f"{self.http}/mcp"

    @property
    def tcp(self) -> tuple[str, int]:
        """The first of ``lines``."""
        return self.lines[0]

    @property
    def nats(self) -> str:
        """URL of the broker."""
        return str(self.record()["nats"])

    def seed(self, user: str) -> str:
        """Seed file of a broker user."""
        return str(self.state / "keys" / f"{user}.nk")

    def logs(self, lines: int = 12) -> str:
        """The ends of all logs."""
        parts = []
        for path in sorted(self.state.glob("logs/*.log")):
            rows = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- {path.name}", *(row[:1500] for row in rows)]))
        return "\n".join(parts)

    # Acting on it ---------------------------------------------------------------------------

    def mesh(
        self,
        *words: str,
        env: dict[str, str] | None = None,
        check: bool = True,
        timeout_s: float = 40.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a ``mesh`` command in this mesh's folder."""
        done = subprocess.run(
            [MESH, *words],
            cwd=self.room,
            env={**PLAIN_ENVIRONMENT, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"mesh {' '.join(words)}: {done.returncode}\n{done.stderr}")
        return done

    def kill(self, instance: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a service; returns its process id."""
        self.notice()
        pid = self.pids[instance]
        os.kill(pid, number)
        return pid

    def children_of(self, instance: str) -> set[Process]:
        """Processes below a service: its upstream servers."""
        self.notice()
        return processes.below(self.pids[instance])

    def await_restart(self, instance: str, old: int, within_s: float = 15.0) -> int:
        """Wait until ``mesh up`` has started the instance again; returns the new process id."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            pid = self.pids[instance]
            if pid != old and processes.of_pid(pid) is not None:
                self.notice()
                return pid
            time.sleep(_POLL_S)
        raise AssertionError(f"{instance} was not started again:\n{self.said}")
