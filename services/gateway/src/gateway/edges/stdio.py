"""The stdio edge: ``python -m gateway.edges.stdio``, one client on stdin and stdout.

A client starts it as its server. It speaks both eras on the pipe and asks a gateway over the bus
for everything, so it holds no rights and no state. Nothing but protocol goes to stdout: what
anything prints lands on stderr. It ends at the end of stdin, after the last answer.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from typing import cast

import uvloop

from gateway.config import LimitsConfig
from gateway.edges.admission import EdgeGate
from gateway.edges.lines import LineConnection
from gateway.edges.linewriter import ENOUGH_BYTES
from gateway.remote import RemoteBackend
from mcp_proto.errors import MeshError
from mcp_proto.limits import CALL_TIMEOUT_S
from mcp_proto.streams import StreamKind
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_chassis.config import ConfigError, read_secret
from mesh_chassis.logs import setup_logging
from mesh_chassis.tasks import Tasks

__all__ = ["main"]

CREDENTIAL_VARIABLE = "MESH_CREDENTIAL"
READ_BYTES = 256 * 1024
DRAIN_S = 5.0
EXIT_OK, EXIT_RESTART, EXIT_CONFIG = 0, 75, 78


class _Output(asyncio.BaseProtocol):
    """Back-pressure of stdout, and its end: without a reader nobody can be answered."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self.connection: LineConnection | None = None
        self.gone = asyncio.Event()

    def pause_writing(self) -> None:
        if self.connection is not None:
            self.connection.pause_writing()

    def resume_writing(self) -> None:
        if self.connection is not None:
            self.connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        if self.connection is not None:
            self.connection.lost()
        self._on_end()


class _Pipe:
    """Stdin and stdout as one transport of a ``LineConnection``."""

    def __init__(self, output: asyncio.WriteTransport, on_end: Callable[[], None]) -> None:
        self._output = output
        self._on_end = on_end
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._closing = False

    def write(self, data: bytes) -> None:
        """Send."""
        if not self._closing:
            self._output.write(data)

    def get_write_buffer_size(self) -> int:
        """Bytes not yet sent."""
        return self._output.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Read nothing more from stdin."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Read again."""
        self._may_read.set()

    async def readable(self) -> None:
        """Wait until reading is allowed."""
        await self._may_read.wait()

    def close(self) -> None:
        """End after everything written is sent."""
        if not self._closing:
            self._closing = True
            self._output.close()
            self._on_end()

    def abort(self) -> None:
        """End now."""
        self._closing = True
        self._output.abort()
        self._on_end()


class _FileOutput:
    """Stdout that is a regular file: always writable, never waits."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        os.close(self._descriptor)

    def abort(self) -> None:
        os.close(self._descriptor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until stdin ends or a signal comes; leaves with an exit code."""
    options = _options(arguments)
    setup_logging(options.log_level, service="stdio", instance=options.instance)
    output = _claim_stdout()
    try:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        code = runner.run(_serve(options, output))
    except ConfigError as error:
        sys.stderr.write(f"stdio: configuration error: {error}\n")
        code = EXIT_CONFIG
    # Neither sys.exit nor closing the runner: both wait for the thread that reads stdin, and a
    # stdin that stays open never ends.
    sys.stderr.flush()
    os._exit(code)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gateway.edges.stdio", description=__doc__)
    parser.add_argument("--url", default="nats://127.0.0.1:4222", help="broker")
    parser.add_argument("--nkey-seed-file", default="", help="key of this edge at the broker")
    parser.add_argument("--instance", default="stdio-1", help="instance id that the key is for")
    parser.add_argument("--tenant", required=True, help="tenant of the client")
    parser.add_argument("--endpoint", default="", help="u/<server> or v/<virtual>; default: all")
    parser.add_argument("--credential-file", default="", help="file with the client's API key")
    parser.add_argument("--timeout", type=float, default=CALL_TIMEOUT_S, help="seconds per call")
    parser.add_argument("--log-level", default="warning")
    return parser.parse_args(arguments)


def _claim_stdout() -> int:
    """Keep the real stdout for the protocol and send everything else to stderr."""
    own = os.dup(1)
    os.dup2(2, 1)
    return own


def _credential(options: argparse.Namespace) -> str:
    if options.credential_file:
        return read_secret(options.credential_file, key="credential_file")
    return os.environ.get(CREDENTIAL_VARIABLE, "")


async def _serve(options: argparse.Namespace, output: int) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, end, EXIT_OK)
    config = BusConfig(urls=(options.url,), nkey_seed_file=options.nkey_seed_file)
    try:
        bus = await Bus.connect(
            config,
            service="stdio",
            instance=options.instance,
            on_closed=lambda: end(EXIT_RESTART),
        )
    except MeshError as error:
        sys.stderr.write(f"stdio: {error.message}\n")
        return EXIT_RESTART
    tasks = Tasks("stdio")
    backend = RemoteBackend(
        bus,
        tenant=options.tenant,
        credential=_credential(options),
        tasks=tasks,
        timeout_s=options.timeout,
    )
    pipe, protocol = await _open(output, lambda: end(EXIT_OK))
    connection = LineConnection(
        kind=StreamKind.STDIO,
        transport=pipe,
        backend=backend,
        gate=EdgeGate(LimitsConfig()).connect("stdin"),
        endpoint=options.endpoint,
    )
    protocol.connection = connection
    reading = tasks.spawn(_read(pipe, connection), name="stdin")
    await ended.wait()
    if not reading.done() and bus.connected:
        await connection.drain(DRAIN_S)
    # What was written must leave before the process does; a reader that is gone cannot hold it.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            await protocol.gone.wait()
    connection.lost()
    await tasks.close(1.0)
    await bus.close()
    return codes[0]


async def _open(descriptor: int, on_end: Callable[[], None]) -> tuple[_Pipe, _Output]:
    protocol = _Output(on_end)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        protocol.gone.set()
        return _Pipe(cast("asyncio.WriteTransport", _FileOutput(descriptor)), on_end), protocol
    stream = os.fdopen(descriptor, "wb", 0)
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(lambda: protocol, stream)
    transport.set_write_buffer_limits(high=ENOUGH_BYTES)
    return _Pipe(transport, on_end), protocol


async def _read(pipe: _Pipe, connection: LineConnection) -> None:
    """Feed stdin to the connection, whatever kind of file it is: a thread waits for it."""
    loop = asyncio.get_running_loop()
    while True:
        await pipe.readable()
        try:
            data = await loop.run_in_executor(None, os.read, 0, READ_BYTES)
        except OSError:
            data = b""  # a terminal that went away: nothing more will come
        if not data:
            connection.eof()
            return
        connection.feed(data)


if __name__ == "__main__":
    main()
