"""MCP requests from the command line, in the stateless dialect (2026-07-28), over HTTP or TCP.

The standard library does for one request at a time; the command must start fast.
"""

import http.client
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcp_proto.envelope import MODERN, Header
from mcp_proto.header_values import encode_value
from mesh_cli.failure import Exit, Failure

__all__ = ["RpcError", "post", "request_body", "tcp_line"]

ANSWER_BYTES_MAX = 16 * 1024 * 1024
_META = "io.modelcontextprotocol/"


class RpcError(msgspec.Struct, frozen=True, kw_only=True):
    """The ``error`` member of an answer."""

    code: int
    message: str
    data: msgspec.Raw = msgspec.Raw(b"")

    def failure(self) -> Failure:
        """As the end of a command."""
        detail = f"\n{bytes(self.data).decode(errors='replace')}" if bytes(self.data) else ""
        return Failure(f"{self.message} (code {self.code}){detail}", code=Exit.REFUSED)


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    id: str | int | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: RpcError | None = None


def request_body(
    method: str, params: dict[str, Any], *, request_id: str = "cli", version: str = "0"
) -> bytes:
    """A complete request of the stateless dialect."""
    meta = {
        f"{_META}protocolVersion": MODERN,
        f"{_META}clientCapabilities": {},
        f"{_META}clientInfo": {"name": "mesh-cli", "version": version},
    }
    return msgspec.json.encode(
        {
            "jsonrpc": "2.0",
            "id": request_id,
            "method": method,
            "params": {**params, "_meta": meta},
        }
    )


def read_answer(data: bytes) -> bytes:
    """The result of an answer, as JSON bytes.

    Raises:
        Failure: it is an error, or no JSON-RPC answer at all.
    """
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except msgspec.DecodeError:
        text = data[:300].decode(errors="replace")
        raise Failure(f"not a JSON-RPC answer: {text}", code=Exit.REFUSED) from None
    if answer.error is not None:
        raise answer.error.failure()
    return bytes(answer.result)


def post(
    base: str,
    method: str,
    params: dict[str, Any],
    *,
    token: str = "",
    timeout_s: float = 30.0,
    endpoint: str = "",
) -> bytes:
    """One request to ``/mcp`` of an HTTP edge.

    Args:
        base: ``http://host:port``, with or without ``/mcp``.
        method: MCP method.
        params: its parameters without ``_meta``.
        token: bearer token; "" = none.
        timeout_s: for the socket; the edge has its own deadline.
        endpoint: behind ``/mcp/``; "" = ``/mcp`` itself.

    Returns:
        The result as JSON bytes.

    Raises:
        Failure: nobody answers (code UNREACHABLE), or the answer is an error (REFUSED).
    """
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        Header.PROTOCOL.value: MODERN,
        Header.METHOD.value: method,
    }
    name = params.get("name") or params.get("uri")
    if isinstance(name, str) and method in ("tools/call", "prompts/get", "resources/read"):
        headers[Header.NAME.value] = encode_value(name)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    status, kind, body = _send(base, endpoint, request_body(method, params), headers, timeout_s)
    if kind == "text/event-stream":
        body = _last_event(body)
    if not body:
        raise Failure(f"{base} answered HTTP {status} without a body", code=Exit.REFUSED)
    return read_answer(body)


def _send(
    base: str, endpoint: str, body: bytes, headers: dict[str, str], timeout_s: float
) -> tuple[int, str, bytes]:
    url = urlsplit(base if "//" in base else f"http://{base}")
    path = url.path if url.path.strip("/") else "/mcp"
    path = f"{path.rstrip('/')}/{endpoint}" if endpoint else path
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(
            url.netloc, timeout=timeout_s, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(url.netloc, timeout=timeout_s)
    try:
        connection.request("POST", path, body=body, headers=headers)
        response = connection.getresponse()
        kind = (response.getheader("content-type") or "").partition(";")[0].strip().lower()
        return response.status, kind, response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise Failure(
            f"{base} does not answer: {str(error) or type(error).__name__}", code=Exit.UNREACHABLE
        ) from None
    finally:
        connection.close()


def _last_event(stream: bytes) -> bytes:
    """The answer in an event stream: the last message that is no notification."""
    answer = b""
    for event in stream.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(
            row[5:].lstrip() for row in event.split(b"\n") if row.startswith(b"data:")
        )
        if b'"result"' in data or b'"error"' in data:
            answer = data
    return answer


def tcp_line(address: str, line: bytes, *, timeout_s: float = 3.0) -> bytes:
    """Send one line to a line edge and read one line back.

    Raises:
        Failure: nobody answers.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s) as conn:
            conn.sendall(line + b"\n")
            with conn.makefile("rb") as file:
                return file.readline(ANSWER_BYTES_MAX)
    except OSError as error:
        raise Failure(f"{address} does not answer: {error}", code=Exit.UNREACHABLE) from None
