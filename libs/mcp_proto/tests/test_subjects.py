import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto import subjects
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import Kind, decode_token, encode_token, parse

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(names)
def test_any_name_survives_as_one_token(name: str) -> None:
    token = encode_token(name)
    assert decode_token(token) == name
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", token)
    assert token != "_"


@given(names, names)
def test_two_names_never_share_a_token(first: str, second: str) -> None:
    assert (encode_token(first) == encode_token(second)) == (first == second)


@pytest.mark.parametrize(
    "token", ["", "_", "=", "=4", "=4g", "=61", "=5f", "a.b", "é", "=FF", "a b", "*", ">"]
)
def test_a_token_that_no_encoder_writes_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match=r"token|utf-8|decode"):
        decode_token(token)


@pytest.mark.parametrize(
    ("subject", "parts"),
    [
        (subjects.call("acme", "notes", "a.b"), ("acme", Kind.CALL, ("notes", "a.b"))),
        (
            subjects.rpc("acme", "notes", "resources/templates/list"),
            ("acme", Kind.RPC, ("notes", "resources", "templates", "list")),
        ),
        (subjects.instance("_", "r-1", "ping"), ("_", Kind.INST, ("r-1", "ping"))),
        (subjects.event("acme", "updated", "notes"), ("acme", Kind.EVT, ("updated", "notes"))),
        (subjects.task("acme", "log", "swarm_1"), ("acme", Kind.TASK, ("log", "swarm_1"))),
        (subjects.task("acme", "agent", "a", "b.c"), ("acme", Kind.TASK, ("agent", "a", "b.c"))),
        (subjects.blob("acme", "r-1", "b"), ("acme", Kind.BLOB, ("r-1", "b"))),
        (subjects.gateway("acme", "tools/list"), ("acme", Kind.GW, ("tools", "list"))),
        (subjects.service("registry", "put"), ("_", Kind.SVC, ("registry", "put"))),
    ],
)
def test_every_subject_is_parsed_back(
    subject: str, parts: tuple[str, Kind, tuple[str, ...]]
) -> None:
    parsed = parse(subject)
    assert (parsed.tenant, parsed.kind, parsed.names) == parts


def test_rpc_and_gw_subjects_name_their_method() -> None:
    assert parse(subjects.rpc("t", "s", "resources/read")).method == "resources/read"
    assert parse(subjects.gateway("t", "tools/call")).method == "tools/call"


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "mesh",
        "mesh.v1.acme.call",
        "mesh.v2.acme.call.a.b",
        "mesh.v1.acme.nope.a.b",
        "mesh.v1..call.a.b",
        "x.v1.acme.call.a.b",
        "mesh.v1.acme.call.*.b",
    ],
)
def test_a_foreign_subject_is_refused(subject: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - several texts, one meaning
        parse(subject)


def test_names_over_the_limit_are_too_large() -> None:
    subjects.call("acme", "s", "x" * 128)
    for tool, kind in (("x" * 129, ErrorKind.TOO_LARGE), ("é" * 128, ErrorKind.TOO_LARGE)):
        with pytest.raises(MeshError) as caught:
            subjects.call("acme", "s", tool)
        assert caught.value.kind is kind
    for tool in ("", "\ud800"):
        with pytest.raises(MeshError) as caught:
            subjects.call("acme", "s", tool)
        assert caught.value.kind is ErrorKind.PARAMS


def test_wildcards_are_only_for_subscribing() -> None:
    assert subjects.call(subjects.ANY, "notes", subjects.ANY) == "mesh.v1.*.call.notes.*"
    assert subjects.rpc(subjects.ANY, "notes", subjects.REST) == "mesh.v1.*.rpc.notes.>"
    assert encode_token("*") == "=2A"
    assert encode_token(">") == "=3E"


def test_stored_work_has_an_id_of_one_or_more_tokens() -> None:
    assert subjects.task(subjects.ANY, "log", subjects.ANY) == "mesh.v1.*.task.log.*"
    assert subjects.task("acme", "agent", "a", subjects.REST) == "mesh.v1.acme.task.agent.a.>"
    assert subjects.task("acme", "log", "*") == "mesh.v1.acme.task.log.=2A"
    for ids in ((), ("",), ("a", "")):
        with pytest.raises(MeshError) as caught:
            subjects.task("acme", "log", *ids)
        assert caught.value.kind is ErrorKind.PARAMS


def test_a_tool_named_like_a_wildcard_is_only_a_name() -> None:
    assert subjects.call("acme", "notes", "*") == "mesh.v1.acme.call.notes.=2A"
    assert subjects.rpc("acme", "notes", ">") == "mesh.v1.acme.rpc.notes.=3E"
    assert subjects.instance("acme", "r1", ">") == "mesh.v1.acme.inst.r1.=3E"
