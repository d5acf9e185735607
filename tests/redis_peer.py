"""A Redis of a test run's own, which a test may stop and start again."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from tests.peers import require

__all__ = ["RedisPeer", "running_redis"]

UP_S = 10.0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class RedisPeer:
    """One server without persistence."""

    def __init__(self, room: Path, password: str = "") -> None:
        self.program = require("redis-server")
        self.room = room
        self.port = _free_port()
        self.password = password
        self._process: subprocess.Popen[bytes] | None = None

    def client(self) -> Redis:
        return Redis(port=self.port, password=self.password or None, socket_timeout=5)

    def start(self) -> None:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                   "--dir", str(self.room)]  # fmt: skip
        if self.password:
            command += ["--requirepass", self.password]
        with (self.room / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + UP_S
        while time.monotonic() < until:
            with contextlib.suppress(RedisError), self.client() as client:
                if client.ping():
                    return
            assert self._process.poll() is None, (self.room / "log").read_text()[-2000:]
            time.sleep(0.02)
        raise AssertionError("redis-server does not answer")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_redis(room: Path, password: str = "") -> Iterator[RedisPeer]:
    """Start a Redis; it ends with the block."""
    peer = RedisPeer(room, password)
    peer.start()
    try:
        yield peer
    finally:
        peer.stop()
