import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError

numbers = st.integers(0, 10**15)
words = st.text(alphabet="abcXYZ019-_.=", max_size=12)


@given(
    st.builds(
        RequestEnvelope,
        method=words,
        name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        request_id=words,
        timeout_ms=numbers,
        deadline_ms=numbers,
        start_by_ms=numbers,
        context=words,
        stream=st.sampled_from(["", "1", "cli"]),
        traceparent=words.filter(bool),
        tracestate=words,
    )
)
def test_headers_give_back_the_envelope(envelope: RequestEnvelope) -> None:
    headers = envelope.to_headers()
    assert RequestEnvelope.from_headers(headers) == envelope
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert set(headers) <= {header.value for header in Header}


def test_a_bare_caller_needs_no_headers() -> None:
    assert RequestEnvelope.from_headers(None) == RequestEnvelope()
    assert RequestEnvelope.from_headers({}) == RequestEnvelope()


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Mesh-Wire": "2"}, ErrorKind.REQUEST),
        ({"Mesh-Timeout-Ms": "-1"}, ErrorKind.REQUEST),
        ({"Mesh-Timeout-Ms": "1.5"}, ErrorKind.REQUEST),
        ({"Mesh-Timeout-Ms": ""}, ErrorKind.REQUEST),
        ({"Mesh-Deadline": "9" * 17}, ErrorKind.REQUEST),
        ({"Mesh-Start-By": "\u0665"}, ErrorKind.REQUEST),
        ({"Mcp-Name": "=?base64?!!?="}, ErrorKind.HEADER_MISMATCH),
        ({"Mcp-Name": "=?base64?YQ?="}, ErrorKind.HEADER_MISMATCH),
    ],
)
def test_malformed_headers_are_refused(headers: dict[str, str], kind: ErrorKind) -> None:
    with pytest.raises(MeshError) as caught:
        RequestEnvelope.from_headers(headers)
    assert caught.value.kind is kind
