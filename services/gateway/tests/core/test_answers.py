"""The gateway's signature on results, and how a large one is read."""

import msgspec
import pytest

from gateway.core.answers import Signature
from gateway.core.sealed_state import carries_input, may_ask
from mcp_proto.errors import ErrorKind, MeshError

SIGNATURE = Signature(b'{"name":"mesh","version":"1"}')
INFO = "io.modelcontextprotocol/serverInfo"
SMALL, LARGE = "x", "x" * 300_000


@pytest.mark.parametrize("wrap", [bytes, msgspec.Raw])
@pytest.mark.parametrize("text", [SMALL, LARGE])
@pytest.mark.parametrize(
    "head",
    [
        b'"resultType":"complete",',
        b"",
        b'"_meta":{"a":1},',
        b'"_meta":null,',
        b'"resultType":"complete","\\u005fmeta":{"a":1},',
    ],
)
def test_gateway_signs_a_large_result_like_a_small_one(head, text, wrap):
    result = wrap(b'{%b"content":[{"type":"text","text":"%b"}]}' % (head, text.encode()))
    signed = msgspec.json.decode(SIGNATURE.sign(result, "s"))
    meta = signed["_meta"]
    assert meta.pop(INFO) == {"name": "mesh", "version": "1"}
    assert meta == ({"a": 1} if b"a" in head and b"null" not in head and b"1" in head else {})
    assert signed["resultType"] == "complete"
    assert signed["content"][0]["text"] == text


@pytest.mark.parametrize("text", [SMALL, LARGE])
def test_gateway_refuses_to_sign_what_is_no_object(text):
    with pytest.raises(MeshError) as caught:
        SIGNATURE.sign(b'["%b"]' % text.encode(), "s")
    assert caught.value.kind is ErrorKind.UPSTREAM


@pytest.mark.parametrize("text", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("kind", "asks"),
    [
        (b'"resultType":"input_required",', True),
        (b'"resultType":"input\\u005frequired",', True),
        (b'"\\u0072esultType":"input_required",', True),
        (b'"resultType":"complete",', False),
    ],
)
def test_question_in_a_result_is_seen_whatever_its_size(kind, asks, text):
    result = b'{%b"a":"%b"}' % (kind, text.encode())
    assert may_ask(result) is asks
    assert may_ask(msgspec.Raw(result)) is asks


@pytest.mark.parametrize("text", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("member", "carries"),
    [
        (b'"requestState":"s",', True),
        (b'"inputResponses":{},', True),
        (b'"request\\u0053tate":"s",', True),
        (b'"other":"\\\\u",', False),
    ],
)
def test_answers_in_params_are_seen_whatever_their_size(member, carries, text):
    params = b'{%b"a":"%b"}' % (member, text.encode())
    assert carries_input(params) is carries
    assert carries_input(msgspec.Raw(params)) is carries
