"""The balancer of the rooms: what it is made for, and why it keeps the client's connection."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.conformance import suite
from tests.conformance.proxy import RandomProxy

BYTES = 80_000
"""More than ``fetch`` of Node holds before it pauses, less than pauses the socket as well."""
_FETCH = """
const [url, size] = process.argv.slice(-2)
for (let turn = 0; turn < 10; turn++) {
  const answer = await fetch(url, {method: 'POST', body: '{}'})
  await new Promise(later => setTimeout(later, 20))
  if ((await answer.text()).length != Number(size)) throw new Error('cut')
}
console.log('whole')
"""
_CLOSING = """
const server = require('node:http').createServer((request, response) => {
  response.setHeader('connection', 'close')
  response.setHeader('content-length', Number(process.argv.at(-1)))
  response.end('x'.repeat(Number(process.argv.at(-1))))
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
"""


class _Target(BaseHTTPRequestHandler):
    """``/chunked`` or ``/``: ``BYTES`` bytes; ``/cut``: less than announced."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        body = b"x" * BYTES
        if self.path == "/chunked":
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for at in range(0, BYTES, 7_000):
                piece = body[at : at + 7_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("content-length", str(BYTES + (self.path == "/cut")))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[RandomProxy]:
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Target) for _ in range(2)]
    for one in servers:
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
    made = RandomProxy([f"http://127.0.0.1:{one.server_port}" for one in servers]).start()
    yield made
    made.stop()
    for one in servers:
        one.shutdown()
        one.server_close()


async def _node(script: str, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        str(suite.NODE),
        *("-e", f"(async () => {{ {script} }})()", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def _fetched(url: str) -> tuple[str, str]:
    process = await _node(_FETCH, url, str(BYTES))
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return out.decode().strip(), err.decode()


@pytest.mark.parametrize("path", ["/", "/chunked"])
async def test_a_kept_connection_reaches_every_gateway_and_gets_whole_answers(
    proxy: RandomProxy, path: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    for _ in range(20):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"connection" not in head.lower()
        size = 0
        if path == "/":
            size = len(await reader.readexactly(BYTES))
        else:
            while length := int(await reader.readuntil(b"\r\n"), 16):
                size += len(await reader.readexactly(length + 2)) - 2
            await reader.readexactly(2)
        assert size == BYTES
    writer.close()
    assert sum(proxy.chosen) == 20
    assert all(proxy.chosen)


async def test_an_answer_cut_short_ends_the_connection(proxy: RandomProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"POST /cut HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    await reader.readuntil(b"\r\n\r\n")
    assert len(await asyncio.wait_for(reader.read(-1), 10)) == BYTES
    writer.close()


@pytest.mark.slow
@pytest.mark.usefixtures("official")
async def test_fetch_of_node_survives_a_large_answer_only_where_the_connection_is_kept(
    proxy: RandomProxy,
) -> None:
    """The second half is Node alone: when it no longer fails, the balancer may close again."""
    for path in ("/", "/chunked"):
        assert await _fetched(proxy.url + path) == ("whole", "")
    server = await _node(_CLOSING, str(BYTES))
    try:
        assert server.stdout is not None
        port = int(await asyncio.wait_for(server.stdout.readline(), 20))
        out, err = await _fetched(f"http://127.0.0.1:{port}/")
    finally:
        server.terminate()
        await server.wait()
    assert not out
    assert "assert(!this.paused)" in err
