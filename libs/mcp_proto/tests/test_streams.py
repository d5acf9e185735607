import json

import msgspec
import pytest

from mcp_proto.errors import MeshError
from mcp_proto.jsonrpc import Request
from mcp_proto.session import LegacySession, SessionOwner
from mcp_proto.streams import StreamEra, StreamKind
from mcp_proto.types.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION
from mcp_proto.versions import MODERN, Revision

OWNER = SessionOwner(tenant="acme", principal="ann", credential_id="demo")
TCP, STDIO = StreamKind.TCP, StreamKind.STDIO


class Wire:
    """One connection: says what became of each request in a word."""

    def __init__(self, kind: StreamKind) -> None:
        self.session = LegacySession()
        self.era = StreamEra(kind, self.session)

    def send(self, method: str, **params: object) -> str:
        raw = msgspec.Raw(json.dumps(params).encode() if params else b"")
        try:
            admitted = self.era.admit(Request(method, 1, raw))
        except MeshError as error:
            return str(error.code)
        if method == "initialize":
            self.session.initialize(raw, OWNER, 0)
            return f"opens {self.session.revision}"
        return f"{'modern' if admitted.modern else 'legacy'} {admitted.revision}"

    def enveloped(self, method: str, version: str = "2026-07-28") -> str:
        return self.send(method, _meta={PROTOCOL_VERSION: version, CLIENT_CAPABILITIES: {}})


@pytest.mark.parametrize("kind", [TCP, STDIO])
def test_an_enveloped_first_request_makes_the_connection_modern(kind: StreamKind) -> None:
    wire = Wire(kind)
    assert wire.era.modern is None
    assert wire.enveloped("server/discover") == "modern 2026-07-28"
    assert wire.era.modern is True
    assert wire.send("initialize", protocolVersion="2025-11-25") == "-32022"
    assert wire.send("tools/list") == "-32602"
    assert wire.enveloped("ping") == "-32601"
    assert wire.enveloped("roots/list") == "-32601"
    assert wire.enveloped("tools/call", "2031-01-01") == "-32022"


@pytest.mark.parametrize("kind", [TCP, STDIO])
def test_initialize_makes_the_connection_legacy(kind: StreamKind) -> None:
    wire = Wire(kind)
    assert wire.send("initialize", protocolVersion="2025-06-18") == "opens 2025-06-18"
    assert wire.era.modern is False
    assert wire.send("tools/call", name="x") == "legacy 2025-06-18"
    assert wire.send("logging/setLevel", level="info") == "legacy 2025-06-18"
    assert wire.send("tasks/get") == "-32601"
    assert wire.send("server/discover") == "-32601"
    assert wire.enveloped("tools/call") == "modern 2026-07-28"
    assert wire.era.modern is False


def test_an_enveloped_initialize_is_still_legacy() -> None:
    wire = Wire(TCP)
    meta = {PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {}}
    assert wire.send("initialize", protocolVersion="2025-11-25", _meta=meta) == "opens 2025-11-25"


@pytest.mark.parametrize("method", ["ping", "authenticate", "batch", "tools/list", "tools/call"])
def test_tcp_serves_one_line_clients_before_initialize(method: str) -> None:
    wire = Wire(TCP)
    assert wire.send(method) == "legacy 2024-11-05"
    assert wire.send("initialize", protocolVersion="2024-11-05") == "opens 2024-11-05"


@pytest.mark.parametrize("method", ["ping", "authenticate", "batch"])
def test_a_bare_first_line_does_not_lock_a_modern_client_out(method: str) -> None:
    wire = Wire(TCP)
    wire.send(method)
    assert wire.era.modern is None
    assert wire.enveloped("tools/list") == "modern 2026-07-28"
    assert wire.send(method) == "legacy 2024-11-05"


def test_other_requests_wait_for_initialize() -> None:
    assert Wire(TCP).send("resources/list") == "-32602"
    assert Wire(STDIO).send("tools/list") == "-32602"
    assert Wire(STDIO).send("ping") == "legacy 2024-11-05"
    assert Wire(STDIO).send("batch") == "-32601"
    assert Wire(STDIO).send("authenticate", token="x") == "-32601"
    assert Wire(TCP).send("nope") == "-32601"


def test_a_probe_with_an_unserved_version_decides_nothing() -> None:
    wire = Wire(STDIO)
    assert wire.enveloped("server/discover", "2031-01-01") == "-32022"
    assert wire.era.modern is None
    assert wire.send("initialize", protocolVersion="2025-11-25") == "opens 2025-11-25"


def test_a_modern_request_carries_its_envelope() -> None:
    era = StreamEra(TCP, LegacySession())
    meta = {PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {"roots": {}}}
    raw = msgspec.Raw(json.dumps({"_meta": meta}).encode())
    admitted = era.admit(Request("tools/call", 1, raw))
    assert admitted.revision is MODERN
    assert admitted.meta is not None
    assert bytes(admitted.meta.client_capabilities) == b'{"roots": {}}'
    assert Revision.R2026_07_28 is MODERN
