"""Requests and answers of the stateless dialect."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import msgspec
import pytest

from mesh_cli import rpc
from mesh_cli.failure import Exit, Failure


class _Edge(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[dict[str, str], bytes]]] = []
    kind = "application/json"
    body = b""

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.seen.append((dict(self.headers), self.rfile.read(length)))
        self.send_response(200)
        self.send_header("content-type", self.kind)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def edge() -> Iterator[tuple[type[_Edge], str]]:
    handler = type("Edge", (_Edge,), {"seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_request_carries_envelope_headers_and_token(edge: tuple[type[_Edge], str]) -> None:
    handler, url = edge
    handler.body = b'{"jsonrpc":"2.0","id":"cli","result":{"ok":true}}'

    answer = rpc.post(url, "tools/call", {"name": "a b é"}, token="k")

    assert answer == b'{"ok":true}'
    headers, body = handler.seen[0]
    assert headers["MCP-Protocol-Version"] == "2026-07-28"
    assert headers["Mcp-Method"] == "tools/call"
    assert headers["Mcp-Name"].startswith("=?base64?")
    assert headers["Authorization"] == "Bearer k"
    meta = msgspec.json.decode(body)["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


def test_answer_in_an_event_stream_is_found_behind_notifications(
    edge: tuple[type[_Edge], str],
) -> None:
    handler, url = edge
    handler.kind = "text/event-stream"
    handler.body = (
        b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\r\n\r\n'
        b'data: {"jsonrpc":"2.0","id":"cli",\ndata: "result":{"n":1}}\n\n'
    )

    assert rpc.post(url, "tools/list", {}) == b'{"n":1}'


def test_error_answer_is_a_refusal_with_code_and_data(edge: tuple[type[_Edge], str]) -> None:
    handler, url = edge
    handler.body = (
        b'{"jsonrpc":"2.0","id":"cli","error":{"code":-31003,"message":"denied",'
        b'"data":{"outcome":"not_executed"}}}'
    )

    with pytest.raises(Failure, match=r"denied .code -31003.") as caught:
        rpc.post(url, "tools/list", {})
    assert caught.value.code is Exit.REFUSED
    assert "not_executed" in caught.value.what


def test_answer_that_is_no_json_is_a_refusal(edge: tuple[type[_Edge], str]) -> None:
    handler, url = edge
    handler.body = b"<html>"

    with pytest.raises(Failure, match="not a JSON-RPC answer"):
        rpc.post(url, "tools/list", {})


def test_closed_port_is_unreachable() -> None:
    with pytest.raises(Failure) as caught:
        rpc.post("http://127.0.0.1:1", "tools/list", {})
    assert caught.value.code is Exit.UNREACHABLE
    with pytest.raises(Failure) as caught:
        rpc.tcp_line("127.0.0.1:1", b"{}")
    assert caught.value.code is Exit.UNREACHABLE
