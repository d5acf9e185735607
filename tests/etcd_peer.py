"""An etcd of a test run's own, which a test may stop and start again."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from tests.peers import require

__all__ = ["Etcd", "running_etcd"]

UP_S = 20.0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Etcd:
    """A single member; its data stays in ``room`` over a restart."""

    def __init__(self, room: Path) -> None:
        self.program = require("etcd")
        self.room = room
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.peer = f"http://127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self.program, "--name", "one", "--data-dir", str(self.room / "data"),
                   "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
                   "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
                   "--initial-cluster", f"one={self.peer}"]  # fmt: skip
        with (self.room / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + UP_S
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=1).json()["health"] == "true":
                    return
            assert self._process.poll() is None, (self.room / "log").read_text()[-2000:]
            time.sleep(0.05)
        raise AssertionError("etcd does not answer")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running_etcd(room: Path) -> Iterator[Etcd]:
    """Start an etcd; it ends with the block."""
    etcd = Etcd(room)
    etcd.start()
    try:
        yield etcd
    finally:
        etcd.stop()
