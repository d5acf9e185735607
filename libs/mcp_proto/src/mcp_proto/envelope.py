"""Headers of a message on the bus: one spelling each, packed and unpacked here only.

Names are case-sensitive on the wire. Routing facts repeat what the body says, so that a receiver
can check subject = headers = body, and so that people can read a call with any NATS tool.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.header_values import decode_value, encode_value

__all__ = ["FRAMES_CLI", "MODERN", "WIRE_VERSION", "Frame", "Header", "RequestEnvelope"]

WIRE_VERSION = "1"
MODERN = "2026-07-28"
"""The one MCP revision spoken on the bus."""
FRAMES_CLI = "cli"
"""Value of ``Mesh-Stream`` that also asks for an empty headerless message after the last frame."""


class Header(StrEnum):
    """Header names."""

    METHOD = "Mcp-Method"
    NAME = "Mcp-Name"
    PROTOCOL = "MCP-Protocol-Version"
    WIRE = "Mesh-Wire"
    STREAM = "Mesh-Stream"
    REQUEST = "Mesh-Req"
    TIMEOUT_MS = "Mesh-Timeout-Ms"
    DEADLINE = "Mesh-Deadline"
    START_BY = "Mesh-Start-By"
    CONTEXT = "Mesh-Ctx"
    CREDENTIAL = "Mesh-Credential"
    """Key or token of a client, on ``gw`` subjects only; never forwarded to a server."""
    ENDPOINT = "Mesh-Endpoint"
    """Endpoint a request is for (``u/<server>``, ``v/<virtual>``), on ``gw`` subjects only."""
    TASK = "Mesh-Task"
    """Durable task whose call this is: its time may exceed that of an ordinary call."""
    TRACEPARENT = "traceparent"
    TRACESTATE = "tracestate"
    FRAME = "Mesh-Frame"
    SEQ = "Mesh-Seq"
    INSTANCE = "Mesh-Instance"
    BLOB = "Mesh-Blob"
    BLOB_SIZE = "Mesh-Blob-Size"
    BLOB_SHA256 = "Mesh-Blob-Sha256"
    SERVICE_ERROR = "Nats-Service-Error"
    SERVICE_ERROR_CODE = "Nats-Service-Error-Code"
    STATUS = "Status"


class Frame(StrEnum):
    """Kinds of reply frames. Exactly one of END and ERR ends a call."""

    ACK = "ack"
    MSG = "msg"
    KA = "ka"
    END = "end"
    ERR = "err"


class RequestEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """What the headers of a request say.

    Attributes:
        method: MCP method, or "" when the caller sent none (a bare NATS client).
        name: tool, prompt or URI as in ``Mcp-Name``; "" when absent. On the wire it is
            encoded as ``header_values`` says; this is the decoded text.
        request_id: idempotency and cancel key (ULID); "" when absent.
        timeout_ms: remaining budget; 0 when absent.
        deadline_ms: absolute Unix ms, by the broker's clock where known; 0 when absent.
        start_by_ms: latest start on the broker's clock, Unix ms; 0 when absent.
        context: signed caller context; "" when absent.
        stream: "" (one plain reply), "1" (frames) or "cli".
        traceparent: W3C trace context; "" when absent.
        tracestate: W3C trace state; "" when absent.
    """

    method: str = ""
    name: str = ""
    request_id: str = ""
    timeout_ms: int = 0
    deadline_ms: int = 0
    start_by_ms: int = 0
    context: str = ""
    stream: str = ""
    traceparent: str = ""
    tracestate: str = ""

    def to_headers(self) -> dict[str, str]:  # noqa: C901 - one plain line per header
        """The header block; empty fields are left out."""
        headers = {"Mesh-Wire": WIRE_VERSION, "MCP-Protocol-Version": MODERN}
        if self.method:
            headers["Mcp-Method"] = self.method
        if self.name:
            headers["Mcp-Name"] = encode_value(self.name)
        if self.stream:
            headers["Mesh-Stream"] = self.stream
        if self.request_id:
            headers["Mesh-Req"] = self.request_id
        if self.timeout_ms:
            headers["Mesh-Timeout-Ms"] = str(self.timeout_ms)
        if self.deadline_ms:
            headers["Mesh-Deadline"] = str(self.deadline_ms)
        if self.start_by_ms:
            headers["Mesh-Start-By"] = str(self.start_by_ms)
        if self.context:
            headers["Mesh-Ctx"] = self.context
        if self.traceparent:
            headers["traceparent"] = self.traceparent
            if self.tracestate:
                headers["tracestate"] = self.tracestate
        return headers

    @classmethod
    def from_headers(cls, headers: Mapping[str, str] | None) -> "RequestEnvelope":
        """Read a header block; everything is optional, so bare NATS clients can call.

        Raises:
            MeshError: ``request`` when a number is none, or the framing version is unknown.
        """
        if not headers:
            return _EMPTY
        if headers.get("Mesh-Wire", WIRE_VERSION) != WIRE_VERSION:
            raise MeshError(ErrorKind.REQUEST, "unknown Mesh-Wire version", data={"supported": [1]})
        get = headers.get
        try:
            name = decode_value(get("Mcp-Name", ""))
        except ValueError:
            raise MeshError(ErrorKind.HEADER_MISMATCH, "header Mcp-Name is malformed") from None
        return cls(
            method=get("Mcp-Method", ""),
            name=name,
            request_id=get("Mesh-Req", ""),
            timeout_ms=_number(get("Mesh-Timeout-Ms"), "Mesh-Timeout-Ms"),
            deadline_ms=_number(get("Mesh-Deadline"), "Mesh-Deadline"),
            start_by_ms=_number(get("Mesh-Start-By"), "Mesh-Start-By"),
            context=get("Mesh-Ctx", ""),
            stream=get("Mesh-Stream", ""),
            traceparent=get("traceparent", ""),
            tracestate=get("tracestate", ""),
        )


_EMPTY = RequestEnvelope()


def _number(text: str | None, name: str) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise MeshError(ErrorKind.REQUEST, f"header {name} is not a number")
    return int(text)
