"""The AWS that tests talk to: moto's server in a process of its own, and a line that fails.

``Moto`` answers like AWS. ``FaultyLine`` stands before it and does to single requests what
networks and AWS do: throttles, refuses, goes silent, loses the answer of what was done.
"""

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

__all__ = ["ENVIRONMENT", "FaultyLine", "Lost", "faulty_line", "fresh_name", "moto_server"]

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
"""Credentials that moto takes, and nothing of the machine's own."""

# moto looks at a condition and writes without a lock between the two, where AWS is atomic. Threads
# that only change where they wait for the network make it so.
_SERVER = """
import sys
sys.setswitchinterval(60)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()  # until whoever started it is gone
"""


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """Start moto's server; gives its URL."""
    child = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # S3 wants parts of 5 MiB; these tests would rather have many parts than large ones.
        env={**os.environ, "S3_UPLOAD_PART_MIN_SIZE": "1024"},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        said = child.stdout.readline().split()
        assert len(said) == 2, "moto's server did not start"
        yield f"http://127.0.0.1:{int(said[1])}"
    finally:
        child.stdin.close()
        child.stdout.close()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def fresh_name(kind: str) -> str:
    """A table or bucket nobody has used."""
    return f"{kind}-{secrets.token_hex(6)}"


class Lost(msgspec.Struct, frozen=True):
    """Do the request, and close the connection instead of answering."""


Answer = tuple[int, bytes] | Lost | None
"""Status and body; or the answer is lost; or None = nothing is ever said."""


class FaultyLine:
    """A proxy whose next requests meet with faults.

    Attributes:
        url: where it listens.
        seen: ``target`` of every request: ``DynamoDB_20120810.PutItem``, or method and path.
    """

    def __init__(self, behind: str) -> None:
        self._behind = behind
        self._faults: list[tuple[str, Answer]] = []
        self._session: aiohttp.ClientSession
        self._runner: web.AppRunner
        self._over = asyncio.Event()
        self.url = ""
        self.seen: list[str] = []

    def fail(self, target: str, *answers: Answer) -> None:
        """The next requests whose target contains ``target`` meet with these."""
        self._faults += [(target, answer) for answer in answers]

    def throttle(self, target: str, code: str, times: int = 1) -> None:
        """Answer as AWS does when it has enough."""
        self.fail(target, *[(400, error_body(code))] * times)

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1024**3)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        self._over.set()
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        target = request.headers.get("X-Amz-Target", f"{request.method} {request.path_qs}")
        self.seen.append(target)
        answer: Answer | str = "pass"
        for at, (wanted, fault) in enumerate(self._faults):
            if wanted in target:
                answer = fault
                del self._faults[at]
                break
        if answer is None:
            await self._over.wait()
            return self._cut(request)
        if isinstance(answer, tuple):
            await request.read()
            return web.Response(status=answer[0], body=answer[1])
        passed = await self._pass(request)
        return self._cut(request) if isinstance(answer, Lost) else passed

    async def _pass(self, request: web.Request) -> web.Response:
        # The signature is of the line's own host; moto does not look at it.
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in {"host", "content-length", "transfer-encoding", "expect"}
        }
        async with self._session.request(
            request.method,
            URL(self._behind + request.raw_path, encoded=True),
            headers=headers,
            data=await request.read(),
        ) as response:
            kept = {
                name: value
                for name, value in response.headers.items()
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}
            }
            if request.method == "HEAD":
                kept["Content-Length"] = response.headers.get("Content-Length", "0")
            return web.Response(status=response.status, headers=kept, body=await response.read())

    @staticmethod
    def _cut(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


@contextlib.asynccontextmanager
async def faulty_line(behind: str) -> AsyncIterator[FaultyLine]:
    """A running line."""
    line = FaultyLine(behind)
    await line.start()
    try:
        yield line
    finally:
        await line.stop()


def error_body(code: str, message: str = "as the test wants") -> bytes:
    """An error as the JSON protocols of AWS write it."""
    return msgspec.json.encode({"__type": f"com.amazonaws#{code}", "message": message})
