"""Tests of gateway.core.eras, gateway.core.answers and gateway.core.requests."""

import msgspec
import pytest

from gateway.core import eras
from gateway.core.answers import UPSTREAM_INFO, AnsweredError, Signature, result_of
from gateway.core.eras import Filter
from gateway.core.merge import ListKind
from gateway.core.requests import budget_s, optional_text, text_member
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.jsonrpc import Request
from mcp_proto.versions import Revision

INFO = "io.modelcontextprotocol/serverInfo"
SIGNATURE = Signature(b'{"name":"gw","version":"1"}')
DISCOVER = msgspec.json.encode(
    {
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {"listChanged": True}, "completions": {}, "extensions": {}},
        "instructions": "hi",
        "_meta": {INFO: {"name": "gw", "version": "1"}},
    }
)


def test_initialize_says_what_discover_says_in_the_words_of_the_revision() -> None:
    oldest = msgspec.json.decode(eras.initialize_result(DISCOVER, Revision.R2024_11_05))
    assert oldest == {
        "protocolVersion": "2024-11-05",
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {"name": "gw", "version": "1"},
        "instructions": "hi",
    }
    newest = msgspec.json.decode(eras.initialize_result(DISCOVER, Revision.R2025_11_25))
    assert "completions" in newest["capabilities"]


def test_each_changed_list_is_told_once_and_only_if_wanted() -> None:
    kinds = frozenset({ListKind.RESOURCES, ListKind.TEMPLATES, ListKind.TOOLS})
    told = [msgspec.json.decode(one) for one in eras.notices(kinds)]
    assert [one["method"] for one in told] == [
        "notifications/tools/list_changed",
        "notifications/resources/list_changed",
    ]
    wanted = [eras.notices(kinds, Filter(prompts_list_changed=True), 1)]
    assert wanted == [[]]
    (one,) = eras.notices(kinds, Filter(tools_list_changed=True), "1")
    assert msgspec.json.decode(one)["params"]["_meta"] == {
        "io.modelcontextprotocol/subscriptionId": "1"
    }


def test_a_listener_is_told_what_is_honoured() -> None:
    wanted = eras.listen_filter(
        b'{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}}'
    )
    told = msgspec.json.decode(eras.acknowledged(eras.honoured(wanted, frozenset()), 3))
    assert told["params"]["notifications"] == {"toolsListChanged": True}
    told = msgspec.json.decode(eras.acknowledged(eras.honoured(wanted, frozenset({"a:b"})), 3))
    assert told["params"]["notifications"]["resourceSubscriptions"] == ["a:b"]
    with pytest.raises(MeshError):
        eras.listen_filter(b"{}")


def test_claims_select_but_never_authorise() -> None:
    eras.check_claims(Request("x", 1), tenant="a", principal="p")
    eras.check_claims(Request("x", 1, tenant_id="a", user_id="p"), tenant="a", principal="p")
    for request in (Request("x", 1, tenant_id="b"), Request("x", 1, user_id="q")):
        with pytest.raises(MeshError) as caught:
            eras.check_claims(request, tenant="a", principal="p")
        assert caught.value.kind is ErrorKind.DENIED


@pytest.mark.parametrize(
    "result",
    [
        b'{"resultType":"complete","content":[ 1.0 ]}',
        b'{"content":[ 1.0 ],"resultType":"complete"}',
        b'{"content":[ 1.0 ]}',
        b'{"content":[ 1.0 ],"_meta":null}',
        b'{"content":[ 1.0 ],"_meta":{"own":1}}',
        b'{ "resultType" : "complete" , "content":[ 1.0 ]}',
    ],
)
def test_a_result_is_signed_and_keeps_what_its_server_wrote(result: bytes) -> None:
    signed = SIGNATURE.sign(msgspec.Raw(result), "fs")
    assert b"[ 1.0 ]" in signed
    read = msgspec.json.decode(signed)
    assert read["resultType"] == "complete"
    assert read["_meta"][INFO] == {"name": "gw", "version": "1"}


def test_the_upstreams_own_name_goes_beside_ours() -> None:
    result = msgspec.json.encode({"resultType": "complete", "_meta": {INFO: {"name": "up"}}})
    meta = msgspec.json.decode(SIGNATURE.sign(msgspec.Raw(result), "fs"))["_meta"]
    assert meta == {INFO: {"name": "gw", "version": "1"}, UPSTREAM_INFO: {"name": "up"}}


@pytest.mark.parametrize("result", [b"[]", b"1", b'"x"'])
def test_a_result_that_is_no_object_is_an_upstream_error(result: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        SIGNATURE.sign(msgspec.Raw(result), "fs")
    assert (caught.value.kind, caught.value.outcome) == (ErrorKind.UPSTREAM, Outcome.EXECUTED)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff", b'{"a":' * 2_000])
def test_an_answer_that_cannot_be_read_has_run(body: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        result_of(body, "fs")
    assert (caught.value.kind, caught.value.outcome) == (ErrorKind.UPSTREAM, Outcome.EXECUTED)


def test_an_error_of_the_server_travels_as_it_is() -> None:
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-1234,"message":"own","data":[1]}}'
    with pytest.raises(AnsweredError) as caught:
        result_of(body, "fs")
    rendered = caught.value.to_object()
    assert (rendered.code, rendered.message, rendered.data) == (-1234, "own", [1])
    assert caught.value.kind is ErrorKind.UPSTREAM


def test_members_are_texts_or_refused() -> None:
    assert text_member(b'{"name":"a"}', "name") == "a"
    assert optional_text(b"{}", "cursor") is None
    for params in (b"{}", b"", b'{"name":1}', b'{"name":"a","name":"b"}', b'{"name":null}'):
        with pytest.raises(MeshError) as caught:
            text_member(params, "name")
        assert caught.value.kind is ErrorKind.PARAMS


def test_a_budget_stays_within_its_bounds() -> None:
    assert budget_s(0, 30) == 30
    assert budget_s(5, 30) == 5
    assert budget_s(9_999, 30, 300) == 300
    assert budget_s(0, 9_999, 300) == 300


def test_listen_that_names_a_hundred_thousand_things_costs_as_much_as_a_thousand() -> None:
    many = [f"r:{at}" for at in range(100_000)]
    wanted = {"resourceSubscriptions": many, "taskIds": many}
    found = eras.listen_filter(msgspec.json.encode({"notifications": wanted}))
    assert found.resource_subscriptions == found.task_ids == tuple(many[: eras.NAMED_MAX])
