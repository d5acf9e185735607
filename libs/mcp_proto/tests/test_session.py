import json

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.session import (
    ABSOLUTE_MS,
    IDLE_MS,
    SUBSCRIPTIONS_MAX,
    TOUCH_MS,
    Expiry,
    LegacySession,
    SessionOwner,
    SessionRecord,
    SessionState,
    expiry,
    lifetime_ms,
    touch,
)
from mcp_proto.versions import Revision

OWNER = SessionOwner(tenant="acme", principal="ann", credential_id="key:1")
NOW = 1_790_000_000_000


def opened(**params: object) -> LegacySession:
    session = LegacySession()
    session.initialize(json.dumps(params).encode(), OWNER, NOW)
    return session


def test_a_session_keeps_what_the_client_said() -> None:
    session = LegacySession()
    assert session.state is SessionState.FRESH
    assert session.revision is Revision.R2024_11_05
    info = b'{"name": "c", "version": "1", "extra": 1.0}'
    record = session.initialize(
        b'{"protocolVersion":"2025-06-18","capabilities":{"roots": {}},"clientInfo":' + info + b"}",
        OWNER,
        NOW,
    )
    assert session.state is SessionState.INITIALIZED
    assert session.revision is Revision.R2025_06_18
    assert bytes(record.capabilities) == b'{"roots": {}}'
    assert bytes(record.client_info) == info
    assert record.belongs_to(OWNER)
    assert record.created_ms == record.last_ms == NOW


@pytest.mark.parametrize(
    ("params", "revision", "capabilities"),
    [
        (
            {"protocolVersion": "2024-11-05", "clientInfo": {"name": "v", "version": "0"}},
            "2024-11-05",
            {},
        ),
        ({"protocolVersion": "2024-11-05", "capabilities": []}, "2024-11-05", {}),
        ({"protocolVersion": "2024-11-05", "capabilities": None}, "2024-11-05", {}),
        (
            {"protocolVersion": "2025-11-25", "capabilities": ["sampling", "tools", 5, {}]},
            "2025-11-25",
            {"sampling": {}},
        ),
        ({"protocolVersion": "2026-07-28", "capabilities": {}}, "2025-11-25", {}),
        ({"protocolVersion": "1.0"}, "2025-11-25", {}),
        ({}, "2024-11-05", {}),
        ({"protocolVersion": None, "capabilities": "all"}, "2024-11-05", {}),
    ],
)
def test_initialize_is_lenient_in_and_strict_out(
    params: dict[str, object], revision: str, capabilities: dict[str, object]
) -> None:
    record = opened(**params).record
    assert record.revision == revision
    assert json.loads(bytes(record.capabilities)) == capabilities


@pytest.mark.parametrize("info", [None, "x", {}, {"name": "x"}, {"name": 1, "version": "1"}, []])
def test_client_info_that_fits_no_schema_is_left_out(info: object) -> None:
    record = opened(protocolVersion="2025-11-25", clientInfo=info).record
    assert bytes(record.client_info) == b""


@pytest.mark.parametrize(
    "params",
    [b"[]", b'{"protocolVersion":5}', b'{"capabilities":{"x":"' + b"y" * 20_000 + b'"}}'],
)
def test_malformed_initialize_is_refused(params: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        LegacySession().initialize(params, OWNER, NOW)
    assert caught.value.kind is ErrorKind.PARAMS


def test_a_second_initialize_is_refused() -> None:
    with pytest.raises(MeshError) as caught:
        opened().initialize(b"{}", OWNER, NOW)
    assert caught.value.kind is ErrorKind.REQUEST


def test_another_edge_continues_a_session_from_its_record() -> None:
    session = opened(protocolVersion="2025-11-25", capabilities={"elicitation": {}})
    session.set_level(b'{"level":"warning"}')
    session.subscribe("file:///a")
    stored = msgspec.json.encode(session.record)
    other = LegacySession(msgspec.json.decode(stored, type=SessionRecord))
    assert other.record == session.record
    assert other.record.log_level == "warning"
    assert other.state is SessionState.INITIALIZED
    assert not other.record.belongs_to(
        SessionOwner(tenant="acme", principal="bob", credential_id="key:1")
    )
    assert other.record.belongs_to(
        SessionOwner(tenant="acme", principal="ann", credential_id="key:2")
    )


def test_log_levels_are_checked() -> None:
    session = opened()
    for params in (b'{"level":"loud"}', b"{}", b'{"level":3}'):
        with pytest.raises(MeshError) as caught:
            session.set_level(params)
        assert caught.value.kind is ErrorKind.PARAMS
    with pytest.raises(MeshError):
        LegacySession().set_level(b'{"level":"info"}')


def test_subscriptions_are_bounded() -> None:
    session = opened()
    for number in range(SUBSCRIPTIONS_MAX):
        session.subscribe(f"file:///{number}")
    session.subscribe("file:///0")
    with pytest.raises(MeshError) as caught:
        session.subscribe("file:///more")
    assert caught.value.kind is ErrorKind.OVERLOADED
    session.unsubscribe("file:///0")
    session.unsubscribe("file:///unknown")
    assert "file:///more" in session.subscribe("file:///more").subscriptions


def test_a_session_ends_idle_or_old() -> None:
    record = opened().record
    assert expiry(record, NOW + IDLE_MS - 1) is None
    assert expiry(record, NOW + IDLE_MS) is Expiry.IDLE
    used = msgspec.structs.replace(record, last_ms=NOW + ABSOLUTE_MS - 1)
    assert expiry(used, NOW + ABSOLUTE_MS - 1) is None
    assert expiry(used, NOW + ABSOLUTE_MS) is Expiry.ABSOLUTE
    assert lifetime_ms(record, NOW) == IDLE_MS
    assert lifetime_ms(used, NOW + ABSOLUTE_MS - 5) == 5
    assert lifetime_ms(record, NOW + ABSOLUTE_MS) == 0


def test_use_is_written_at_most_once_a_minute() -> None:
    record = opened().record
    assert touch(record, NOW + TOUCH_MS - 1) is None
    touched = touch(record, NOW + TOUCH_MS)
    assert touched is not None
    assert touched.last_ms == NOW + TOUCH_MS
