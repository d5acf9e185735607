"""The Synadia Agent Protocol: what its SDK writes is read here, and the reverse."""

import msgspec
import pytest
from synadia_ai.agents import decode, messages

from mcp_proto import agent_protocol as wire
from mcp_proto.agent_protocol import AgentName, Attachment
from mcp_proto.errors import ErrorKind, MeshError


def test_subjects_are_those_of_the_protocol() -> None:
    name = AgentName("helper", "acme", "main")
    assert name.problem() is None
    assert name.subject("prompt") == "agents.prompt.helper.acme.main"
    assert name.subject("hb") == "agents.hb.helper.acme.main"


@pytest.mark.parametrize(
    "name",
    [
        AgentName("Helper", "acme", "main"),
        AgentName("help_er", "acme", "main"),
        AgentName("helper", "a.b", "main"),
        AgentName("helper", "*", "main"),
        AgentName("helper", "acme", ""),
        AgentName("helper", "acme", "x" * 65),
        AgentName("helper", "acme", "main\n"),
    ],
)
def test_tokens_that_are_none_are_named(name: AgentName) -> None:
    assert name.problem()


def test_the_sdk_reads_our_chunks() -> None:
    file = Attachment("a.txt", "aGk=")
    for chunk in (wire.ACK, wire.status("é"), wire.response("hi"), wire.response("", (file,))):
        assert messages.decode_chunk(chunk) is not None
    read = messages.decode_chunk(wire.response("hi", (file,)))
    assert isinstance(read, messages.ResponseChunk)
    assert read.attachments is not None
    assert read.attachments[0].to_bytes() == b"hi"
    assert decode(msgspec.json.encode(wire.Prompt(prompt="a"))).prompt == "a"


def test_chunks_of_the_sdk_are_read() -> None:
    for made, kind in (
        (messages.StatusChunk(status="ack"), "status"),
        (messages.ResponseChunk(text="ack"), "response"),
        (messages.QueryChunk(id="1", reply_subject="r", prompt="ack"), "query"),
    ):
        chunk = wire.chunk_of(messages.encode_chunk(made))
        assert chunk is not None
        assert (chunk.kind, chunk.text) == (kind, "ack")
    assert wire.chunk_of(b'{"type":"later","data":{}}') is None


@pytest.mark.parametrize(
    "payload", [b"hi", b"[]", b"{}", b'{"type":7}', b'{"type":"status","data":{}}',
                b'{"type":"response","data":{"txt":""}}', b'{"type":"query","data":"a"}']
)  # fmt: skip
def test_a_malformed_chunk_is_told(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.chunk_of(payload)


@pytest.mark.parametrize(
    ("payload", "prompt"),
    [(b"hello", "hello"), (b' \n{"prompt":"a","session":"x"}', "a"), ("é [".encode(), "é [")],
)
def test_a_prompt_is_json_or_text(payload: bytes, prompt: str) -> None:
    assert wire.prompt_of(payload).prompt == prompt == decode(payload).prompt


@pytest.mark.parametrize("payload", [b"", b"{", b'{"prompt":""}', b'{"text":"a"}', b"\xff"])
def test_what_is_no_prompt_is_refused(payload: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        wire.prompt_of(payload)
    assert caught.value.kind is ErrorKind.PARAMS


@pytest.mark.parametrize(
    ("text", "size"), [("1MB", 2**20), (" 512 kb", 2**19), ("7B", 7), ("7", None), ("-1B", None)]
)
def test_sizes_are_read(text: str, size: int | None) -> None:
    assert wire.bytes_of(text) == size


def service_record(subject: str, **more: object) -> bytes:
    endpoint = {"name": "prompt", "subject": subject, "metadata": {"max_payload": "2KB"}}
    return msgspec.json.encode({"name": "agents", "id": "1", "endpoints": [endpoint], **more})


def test_agent_of_a_record_has_the_bounds_of_both_sides() -> None:
    record = service_record("agents.prompt.a.b.c", description="x" * 5_000)
    found = wire.found_of(record, 1_000_000)
    assert found is not None
    assert (found.agent, found.owner, found.session) == ("a", "b", "c")
    assert (found.bytes_max, len(found.description), found.attachments) == (2048, 1_000, False)
    narrow = wire.found_of(record, 100)
    assert narrow is not None
    assert narrow.bytes_max == 100


@pytest.mark.parametrize(
    "record",
    [
        b"{",
        b"x" * 100_000,
        service_record("mesh.v1.acme.call.kv.kv_get"),
        service_record("agents.prompt.a.b.*"),
        service_record("agents.hb.a.b.c"),
        service_record("agents.prompt.a.b.c.d"),
        service_record("agents.prompt.a.b.c", metadata={"mesh": "helper:ask"}),
        service_record("agents.prompt.a.b.c", name="others"),
        service_record("agents.prompt.a.b.c", endpoints=[]),
    ],
)
def test_record_that_names_no_agent_of_the_protocol_is_none(record: bytes) -> None:
    assert wire.found_of(record, 1_000_000) is None
