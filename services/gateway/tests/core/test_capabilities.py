"""A client is asked only for what it declared and its revision knows."""

import msgspec
import pytest

from gateway.core.capabilities import known_to, missing
from mcp_proto.types.inputs import InputRequest
from mcp_proto.versions import Revision

FULL = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {"tools": {}, "context": {}, "x": 1},
    "roots": {"listChanged": True},
    "experimental": {"y": 2},
}


@pytest.mark.parametrize(
    ("revision", "elicitation", "sampling"),
    [
        (Revision.R2024_11_05, None, {"x": 1}),
        (Revision.R2025_03_26, None, {"x": 1}),
        (Revision.R2025_06_18, {"form": {}}, {"x": 1}),
        (Revision.R2025_11_25, FULL["elicitation"], FULL["sampling"]),
    ],
)
def test_each_revision_keeps_what_it_knows(
    revision: Revision, elicitation: object, sampling: object
) -> None:
    kept = msgspec.json.decode(known_to(revision, msgspec.json.encode(FULL)))
    assert kept.get("elicitation") == elicitation
    assert kept["sampling"] == sampling
    assert (kept["roots"], kept["experimental"]) == (FULL["roots"], FULL["experimental"])


@pytest.mark.parametrize("odd", [b"", b"{}", b'{"sampling":true}', b'{"elicitation":null}'])
def test_odd_capabilities_of_hand_written_clients_do_no_harm(odd: bytes) -> None:
    for revision in Revision:
        assert isinstance(msgspec.json.decode(known_to(revision, odd)), dict)


def asked(method: str, **params: object) -> InputRequest:
    return InputRequest(method=method, params=msgspec.Raw(msgspec.json.encode(params)))


FORM = asked("elicitation/create", message="?")
URL = asked("elicitation/create", mode="url", url="x")
SAMPLE = asked("sampling/createMessage", messages=[])
TOOLS = asked("sampling/createMessage", messages=[], tools=[])
CHOICE = asked("sampling/createMessage", messages=[], toolChoice={})


@pytest.mark.parametrize(
    ("capabilities", "one", "needed"),
    [
        ({"elicitation": {}}, FORM, None),
        ({"elicitation": {"form": {}}}, FORM, None),
        ({"elicitation": {"url": {}}}, FORM, {"elicitation": {"form": {}}}),
        ({"elicitation": {"url": {}}}, URL, None),
        ({"elicitation": {}}, URL, {"elicitation": {"url": {}}}),
        ({}, FORM, {"elicitation": {"form": {}}}),
        ({"elicitation": {}}, asked("elicitation/create", mode="voice"), {}),
        ({"elicitation": {}}, asked("elicitation/create", mode=5), {}),
        ({"sampling": {}}, SAMPLE, None),
        ({}, SAMPLE, {"sampling": {}}),
        ({"sampling": {}}, TOOLS, {"sampling": {"tools": {}}}),
        ({"sampling": {}}, CHOICE, {"sampling": {"tools": {}}}),
        ({"sampling": {"tools": {}}}, TOOLS, None),
        ({"roots": {}}, InputRequest(method="roots/list"), None),
        ({}, InputRequest(method="roots/list"), {"roots": {}}),
        ({"tools": {}}, asked("tools/call"), {}),
    ],
)
def test_question_names_the_capability_that_is_missing(
    capabilities: object, one: InputRequest, needed: object
) -> None:
    assert missing(msgspec.json.encode(capabilities), one) == needed


def test_capabilities_that_cannot_be_read_declare_nothing() -> None:
    assert missing(b'{"sampling":true}', SAMPLE) == {"sampling": {}}
