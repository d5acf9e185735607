"""A Docker engine of a test run's own, with one image that holds an MCP server."""

import contextlib
import os
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from tests.peers import require

__all__ = ["IMAGE", "Engine", "running_engine", "wait_for"]

IMAGE = "mesh-shell:1"
"""busybox and ``shell_server.sh``."""

UP_S = 30.0
PROGRAMS = ("sh", "cat", "echo", "head", "id", "ls", "printf", "pwd", "sed", "sleep", "tail", "tr")
SERVER = Path(__file__).parents[1] / "services/tool-runner/tests/server_types/shell_server.sh"


class Engine:
    """A Docker engine of this test run's own."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.socket = str(room / "docker.sock")
        self.address = f"unix://{self.socket}"
        self.pid = 0

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.address, timeout=20)

    def pause(self) -> None:
        """It goes on listening and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # Its last thread may still have answered until now.

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def running_engine() -> Iterator[Engine]:
    """Start an engine with ``IMAGE``; it and all its containers end with the block."""
    dockerd, busybox = require("dockerd"), require("busybox")
    if os.geteuid() != 0:
        pytest.skip("dockerd needs root")
    # Not below tmp_path: names of sockets have 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="mesh-dockerd-") as folder:
        made = Engine(Path(folder))
        log = made.room / "log"
        command = [dockerd, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec",
                   "--pidfile", f"{folder}/pid", "--host", made.address, "--iptables=false",
                   "--bridge=none", "--storage-driver=vfs"]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        made.pid = process.pid
        try:
            wait_for(lambda: Path(made.socket).exists() and _pings(made), process, log)
            _import_image(made, Path(busybox))
            yield made
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(30)


def _pings(engine: Engine) -> bool:
    client = engine.client()
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


def _import_image(engine: Engine, busybox: Path) -> None:
    tar = engine.room / "image.tar"
    with tarfile.open(tar, "w") as file:
        for name, mode in (("bin", 0o755), ("tmp", 0o1777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            file.addfile(folder)
        file.add(busybox.resolve(), "bin/busybox")
        for name in PROGRAMS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            file.addfile(link)
        file.add(SERVER, "server.sh")
    client = engine.client()
    changes = ['ENTRYPOINT ["/bin/sh","/server.sh"]', "ENV PATH=/bin SECRET=hidden"]
    name, tag = IMAGE.split(":")
    client.api.import_image_from_data(tar.read_bytes(), repository=name, tag=tag, changes=changes)
    client.close()


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a program to be there."""
    end = time.monotonic() + UP_S
    while not holds():
        ended = process.poll() is not None or time.monotonic() > end
        assert not ended, log.read_text(errors="replace")[-3000:]
        time.sleep(0.05)
