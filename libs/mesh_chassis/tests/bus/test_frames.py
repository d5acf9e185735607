"""Header blocks, subjects and error bodies."""

import pytest

from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.frames import (
    call_block,
    check_subject,
    decode_error,
    decode_headers,
    encode_error,
    encode_headers,
    error_headers,
    frame_headers,
    message_id,
    repliable,
)


def test_header_block_reads_back_as_it_was_written() -> None:
    headers = {"Mesh-Req": "01J", "Mcp-Name": "a: b", "traceparent": "00-x"}
    assert decode_headers(encode_headers(headers)) == headers


def test_header_block_of_no_responders_has_its_status() -> None:
    block = b"NATS/1.0 503\r\nNats-Subject: x\r\n\r\n"
    assert decode_headers(block) == {"Status": "503", "Nats-Subject": "x"}


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb"])
def test_header_value_with_a_line_break_is_refused(value: str) -> None:
    with pytest.raises(MeshError) as raised:
        encode_headers({"A": value})
    assert raised.value.kind is ErrorKind.REQUEST


@pytest.mark.parametrize("name", ["a b", "a:b", "", "ä"])
def test_header_with_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(MeshError):
        encode_headers({name: "x"})


def test_header_block_over_its_limit_is_too_large() -> None:
    with pytest.raises(MeshError) as raised:
        encode_headers({"Mesh-Ctx": "x" * 2048})
    assert raised.value.kind is ErrorKind.TOO_LARGE


@pytest.mark.parametrize(
    "subject", ["", "a..b", ".a", "a.", "a.*", "a.>", "a b", "a\r\nb", "a\x00"]
)
def test_subject_that_matches_nothing_or_the_wrong_thing_is_refused(subject: str) -> None:
    with pytest.raises(MeshError) as raised:
        check_subject(subject)
    assert raised.value.outcome is Outcome.NOT_EXECUTED


def test_subject_of_512_bytes_passes_and_of_513_does_not() -> None:
    check_subject("a" * 512)
    with pytest.raises(MeshError) as raised:
        check_subject("a" * 513)
    assert raised.value.kind is ErrorKind.TOO_LARGE


def test_frame_headers_have_frame_and_number_first() -> None:
    assert frame_headers("end", 7) == b"NATS/1.0\r\nMesh-Frame: end\r\nMesh-Seq: 7\r\n\r\n"
    more = frame_headers("ack", 0, {"Mesh-Instance": "r1"})
    assert more.startswith(b"NATS/1.0\r\nMesh-Frame: ack\r\nMesh-Seq: 0\r\n")


def test_error_crosses_the_bus_with_kind_outcome_and_retry_hint() -> None:
    error = MeshError(ErrorKind.NOT_FOUND, "no such tool", retry_after_s=0.5, data={"tool": "x"})
    headers = error_headers(error)
    back = decode_error(encode_error(error, "id"), headers["Nats-Service-Error-Code"])
    assert (back.kind, back.message, back.data) == (error.kind, "no such tool", {"tool": "x"})
    assert (back.outcome, back.retry_after_s) == (Outcome.NOT_EXECUTED, 0.5)


def test_error_header_is_printable_ascii_whatever_the_message_says() -> None:
    headers = error_headers(MeshError(ErrorKind.INTERNAL, "a\r\nb\u00e4" + "x" * 500))
    assert headers["Nats-Service-Error"].isprintable()
    assert headers["Nats-Service-Error"].isascii()
    encode_headers(headers)


def test_unreadable_error_of_a_foreign_service_becomes_internal() -> None:
    assert decode_error(b"boom", "500").kind is ErrorKind.INTERNAL


@pytest.mark.parametrize(
    ("payload", "expected"),
    [(b'{"id":7,"x":[1]}', 7), (b'{"id":"a"}', "a"), (b"nope", None), (b'{"id":{}}', None)],
)
def test_message_id_is_read_where_it_can_be(payload: bytes, expected: object) -> None:
    assert message_id(payload) == expected


def test_reply_subjects_that_would_be_requests_in_our_name_are_refused() -> None:
    assert repliable(b"_INBOX.abc.1")
    assert repliable(b"")
    assert not repliable(b"mesh.v1.acme.call.fs.delete")
    assert not repliable(b"$JS.API.STREAM.DELETE.KV_x")


_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def block_of(envelope: RequestEnvelope, request_id: str = "01J") -> bytes | None:
    return call_block(envelope, request_id, timeout_ms=30_000, deadline_ms=77, start_by_ms=55)


@pytest.mark.parametrize("traceparent", ["", _TRACE])
def test_call_block_says_what_the_envelope_says(traceparent: str) -> None:
    envelope = RequestEnvelope(
        method="tools/call", name="größe", context="k.body.sig", traceparent=traceparent
    )
    for _ in range(2):
        block = block_of(envelope)
        assert block is not None
        read = RequestEnvelope.from_headers(decode_headers(block))
        assert (read.method, read.name, read.context) == ("tools/call", "größe", "k.body.sig")
        assert (read.request_id, read.timeout_ms, read.stream) == ("01J", 30_000, "1")
        assert (read.deadline_ms, read.start_by_ms) == (77, 55)
        assert read.traceparent == traceparent


class _More(RequestEnvelope, frozen=True, kw_only=True):
    """An envelope with headers of its own."""


@pytest.mark.parametrize(
    ("envelope", "request_id"),
    [
        (RequestEnvelope(tracestate="a=1", traceparent=_TRACE), "01J"),
        (RequestEnvelope(), "01J\r\nMesh-Ctx: forged"),
        (RequestEnvelope(traceparent="00-x\r\nMesh-Ctx: forged"), "01J"),
        (RequestEnvelope(context="c" * 1900), "01J"),
        (_More(), "01J"),
    ],
)
def test_call_block_leaves_what_is_unusual_to_the_full_encoder(
    envelope: RequestEnvelope, request_id: str
) -> None:
    assert block_of(envelope, request_id) is None


def test_call_block_refuses_a_method_with_a_line_break() -> None:
    with pytest.raises(MeshError):
        block_of(RequestEnvelope(method="a\r\nMesh-Ctx: forged"))
