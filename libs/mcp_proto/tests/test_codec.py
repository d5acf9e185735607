import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.codec import (
    decode_as,
    decode_batch,
    decode_message,
    encode,
    encode_error,
    encode_notification,
    encode_request,
    encode_response,
    is_batch,
)
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.jsonrpc import ErrorResponse, Message, Notification, Request, Response
from mcp_proto.types.tools import CallToolParams


def request(**members: str) -> bytes:
    """A message from raw JSON members; the usual ones are filled in, "-" leaves one out."""
    usual = {"jsonrpc": '"2.0"', "id": "1", "method": '"ping"'}
    pairs = {**usual, **members}
    return ("{" + ",".join(f'"{k}":{v}' for k, v in pairs.items() if v != "-") + "}").encode()


def failure(data: bytes) -> MeshError:
    with pytest.raises(MeshError) as caught:
        decode_message(data)
    return caught.value


def outcome_of(data: bytes) -> Message | MeshError:
    try:
        return decode_message(data)
    except MeshError as error:
        return error


def test_the_decoder_keeps_params_byte_for_byte_when_a_request_arrives() -> None:
    params = b'{ "a" : 1.50, "u":"\\u00e9\\/", "n": 12345678901234567890123 }'
    message = decode_message(
        b' {"jsonrpc": "2.0", "id":"x","method":"tools/call","params":' + params + b"}\r"
    )
    assert isinstance(message, Request)
    assert (message.method, message.id, bytes(message.params)) == ("tools/call", "x", params)
    assert message.tenant_id is msgspec.UNSET


def test_the_decoder_tells_the_four_messages_apart() -> None:
    assert decode_message(request()) == Request("ping", 1)
    assert decode_message(request(id="-")) == Notification("ping")
    answer = decode_message(request(method="-", result='{"a":1}'))
    assert isinstance(answer, Response)
    assert (answer.id, bytes(answer.result)) == (1, b'{"a":1}')
    refused = decode_message(request(method="-", error='{"code":-1,"message":"m","data":[1]}'))
    assert refused == ErrorResponse(1, ErrorObject(-1, "m", [1]))
    assert decode_message(
        request(method="-", id="null", error='{"code":-1,"message":"m"}')
    ) == ErrorResponse(None, ErrorObject(-1, "m"))


def test_the_decoder_reads_members_of_earlier_clients_when_present() -> None:
    message = decode_message(request(tenant_id='"acme"', user_id='"u1"', extra="[]"))
    assert isinstance(message, Request)
    assert (message.tenant_id, message.user_id) == ("acme", "u1")
    assert failure(request(tenant_id="5")).kind is ErrorKind.REQUEST


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("0", 0),
        ("-1", -1),
        (str(2**63 - 1), 2**63 - 1),
        (str(-(2**63)), -(2**63)),
        ('"1"', "1"),
        ('""', ""),
        ('"\\u00e9"', "é"),
        ('"' + "x" * 512 + '"', "x" * 512),
    ],
)
def test_an_id_comes_back_with_its_json_type(raw: str, value: str | int) -> None:
    message = decode_message(request(id=raw))
    assert isinstance(message, Request)
    assert message.id == value
    assert type(message.id) is type(value)
    assert json.loads(encode_response(message.id, b"{}"))["id"] == value


@pytest.mark.parametrize(
    "raw",
    [
        "null",
        "true",
        "1.5",
        "1.0",
        "1e3",
        str(2**63),
        str(2**64),
        "9" * 30,
        "[]",
        "{}",
        '"' + "x" * 513 + '"',
    ],
)
def test_the_decoder_refuses_an_id_that_would_change_on_the_way_back(raw: str) -> None:
    error = failure(request(id=raw))
    assert error.kind is ErrorKind.REQUEST
    assert error.code == -32600
    assert error.request_id is None


@pytest.mark.parametrize(
    "data",
    [
        request(jsonrpc='"1.0"'),
        request(jsonrpc="2.0"),
        request(jsonrpc="-"),
        request(method="-"),
        request(method="null"),
        request(method="5"),
        request(method='""'),
        request(method='"' + "m" * 129 + '"'),
        request(params='"text"'),
        request(params="5"),
        request(result="{}"),
        request(method="-", result="{}", error='{"code":1,"message":""}'),
        request(method="-", error='{"code":"1","message":""}'),
        request(method="-", error="1e999"),
        b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}',
        b'{"jsonrpc":"2.0","id":1,"method":"a","params":{},"params":{"x":1}}',
        b'{"jsonrpc":"2.0","id":1,"method":"a","par\\u0061ms":{},"params":{"x":1}}',
        b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"a"}',
        b'{"jsonrpc":"2.0","id":1,"Method":"a"}',
        b'{"jsonrpc":"2.0","id":1,"method":"a",' + b'"x":1,' * 40 + b'"y":1}',
        b'{"jsonrpc":"2.0","id":1,"method":"a",' + b'"x":1,' * 20_000 + b'"y":1}',
    ],
)
def test_the_decoder_refuses_an_envelope_that_readers_could_take_differently(data: bytes) -> None:
    error = failure(data)
    assert error.kind is ErrorKind.REQUEST
    if b'"x":1,"x"' not in data:
        assert error.request_id == 1


@pytest.mark.parametrize(
    "data",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}',
        b'{"jsonrpc":"2.0","id":1,"\\u0069d":2,"method":"a"}',
        b'{"jsonrpc":"2.0","\\u0069\\u0064":"a","method":"a","id":2}',
    ],
)
def test_the_decoder_refuses_two_ids_however_they_are_spelled(data: bytes) -> None:
    assert failure(data).kind is ErrorKind.REQUEST


def test_a_case_changed_member_never_acts() -> None:
    message = decode_message(
        b'{"jsonrpc":"2.0","id":1,"method":"a","ID":2,"Params":{"x":1},"METHOD":"b"}'
    )
    assert isinstance(message, Request)
    assert (message.id, message.method, bytes(message.params)) == (1, "a", b"")


def test_null_params_of_old_clients_count_as_absent() -> None:
    assert decode_message(request(params="null")) == Request("ping", 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"hello",
        b"\xef\xbb\xbf" + request(),
        request() + b"\x00",
        b"\x00",
        request() + request(),
        request(params='{"a":NaN}'),
        request(params='{"a":Infinity}'),
        request(params='{"a":-Infinity}'),
        request(params='{"a":01}'),
        request(params='{"a":"\x01"}'),
        request(params='{"a":1,}'),
        request(params='{"a":tru}'),
        b"[1,2",
        b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\xc3\x28"}}',
    ],
)
def test_what_is_no_json_text_is_a_parse_error(data: bytes) -> None:
    error = failure(data)
    assert (error.kind, error.code) == (ErrorKind.PARSE, -32700)


@pytest.mark.parametrize("data", [b"[]", b"[" + request() + b"]", b'"text"', b"5", b"null"])
def test_what_is_no_object_is_an_invalid_request(data: bytes) -> None:
    assert failure(data).kind is ErrorKind.REQUEST


def test_deep_raw_params_never_escape_as_a_foreign_exception() -> None:
    deep = b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + b"[" * 1500 + b"]" * 1500 + b"}"
    assert failure(deep).kind is ErrorKind.REQUEST


@given(
    st.binary(max_size=60) | st.text(alphabet='{}[]",:12ainulte\\ud0"', max_size=60).map(str.encode)
)
def test_no_input_makes_the_decoder_raise_anything_but_a_mesh_error(data: bytes) -> None:
    for candidate in (data, b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + data + b"}"):
        outcome = outcome_of(candidate)
        if isinstance(outcome, MeshError):
            assert outcome.kind in {ErrorKind.PARSE, ErrorKind.REQUEST}
        else:
            json.loads(candidate)


def test_a_batch_gives_each_item_its_own_answer() -> None:
    good, bad = request(), request(jsonrpc='"1"', id="7")
    items = decode_batch(b" [" + good + b"," + bad + b",5," + request(id="-") + b"]")
    assert items[0] == Request("ping", 1)
    assert isinstance(items[1], MeshError)
    assert items[1].request_id == 7
    assert isinstance(items[2], MeshError)
    assert items[3] == Notification("ping")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[]", ErrorKind.REQUEST),
        (b"[" + b",".join([request()] * 101) + b"]", ErrorKind.REQUEST),
        (request(), ErrorKind.REQUEST),
        (b"[1,", ErrorKind.PARSE),
        (b'["\xff"]', ErrorKind.PARSE),
    ],
)
def test_a_bad_batch_is_refused_as_a_whole(data: bytes, kind: ErrorKind) -> None:
    with pytest.raises(MeshError) as caught:
        decode_batch(data)
    assert caught.value.kind is kind


def test_a_batch_holds_up_to_a_hundred_messages() -> None:
    assert len(decode_batch(b"[" + b",".join([request()] * 100) + b"]")) == 100
    assert is_batch(b"\r\n [")
    assert not is_batch(request())


def test_the_encoder_writes_what_the_decoder_reads() -> None:
    params = b'{"a":[1, 2]}'
    assert decode_message(encode_request("m", "i", params)) == Request(
        "m", "i", msgspec.Raw(params)
    )
    assert decode_message(encode_request("m", 1)) == Request("m", 1)
    assert decode_message(encode_notification("n", msgspec.Raw(params))) == Notification(
        "n", msgspec.Raw(params)
    )
    assert decode_message(encode_notification("n")) == Notification("n")
    assert decode_message(encode_response(5, b"[]")) == Response(5, msgspec.Raw(b"[]"))
    error = MeshError(ErrorKind.DENIED, "no", data={"grant": "ReadKV"}, retry_after_s=0.25)
    answer = decode_message(encode_error(None, error))
    assert isinstance(answer, ErrorResponse)
    assert answer.id is None
    assert answer.error.data == {
        "grant": "ReadKV",
        "outcome": "not_executed",
        "retryAfterMs": 250,
    }


def test_outgoing_json_never_holds_nan() -> None:
    assert encode({"a": float("nan"), "b": float("inf")}) == b'{"a":null,"b":null}'
    error = MeshError(ErrorKind.INTERNAL, "x", data={"n": float("nan")})
    assert b"NaN" not in encode_error(1, error)


def test_decode_as_names_the_member_that_does_not_fit() -> None:
    params = decode_as(b'{"name":"t","arguments":{"a":1},"unknown":1}', CallToolParams)
    assert (params.name, bytes(params.arguments)) == ("t", b'{"a":1}')
    for data in (b'{"name":5}', b"{}", b"", b"[]", b'{"name":"\xff"}', b"{"):
        with pytest.raises(MeshError) as caught:
            decode_as(data, CallToolParams)
        assert caught.value.kind is ErrorKind.PARAMS
    with pytest.raises(MeshError, match=r"\$\.name"):
        decode_as(b'{"name":5}', CallToolParams)


@pytest.mark.parametrize(
    ("data", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"x":"\xff"}}', 5),
        (b'{"jsonrpc":"2.0","id":"a","method":"x","params":' + b"[" * 2_000, "a"),
        (b'{"id":6,"method":"x","params":[' + b"[]," * 200_001 + b"1]}", 6),
        (b'{"jsonrpc":"2.0","id":7,"method":', 7),
        (b'{"jsonrpc":"2.0","method":"x","params":{"id":8,', None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":', None),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', None),
        (b"[" * 2_000, None),
    ],
)
def test_message_that_cannot_be_decoded_is_answered_under_its_id_where_it_shows(
    data: bytes, request_id: str | int | None
) -> None:
    assert failure(data).request_id == request_id


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}',
        b'{"params":{"a":[1]},"method":"x/y","id":"k","jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","id":-9223372036854775808,"method":"m","params":{"b":"\\u0041"}}',
    ],
)
def test_a_compact_request_reads_like_the_same_one_with_blanks(line: bytes) -> None:
    spaced = line.replace(b'":', b'" : ').replace(b",", b" , ")

    assert decode_message(line) == msgspec.structs.replace(
        decode_message(spaced), params=decode_message(line).params
    )


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping","params":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{},"params":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b","params":{}}',
        b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"b","params":{}}',
        b'{"jsonrpc":"2.0","\\u0069d":3,"id":1,"method":"b","params":{}}',
        b'{"jsonrpc":"2.1","id":1,"method":"b","params":{}}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"b","params":{}}',
        b'{"jsonrpc":"2.0","id":null,"method":"b","params":{}}',
        b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"b","params":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"","params":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"b","params":7}',
    ],
)
def test_a_compact_request_that_two_readers_could_read_differently_is_refused(line: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        decode_message(line)

    assert caught.value.kind is ErrorKind.REQUEST
