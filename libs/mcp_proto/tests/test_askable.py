"""Which questions a client takes, by what it declared."""

import pytest

from mcp_proto.askable import can_be_asked

FORM = b'{"method":"elicitation/create","params":{"mode":"form","message":"m"}}'
LINK = b'{"method":"elicitation/create","params":{"mode":"url"}}'
SAMPLE = b'{"method":"sampling/createMessage","params":{"messages":[]}}'
TOOLS = b'{"method":"sampling/createMessage","params":{"tools":[]}}'


@pytest.mark.parametrize(
    ("capabilities", "takes"),
    [
        (b"{}", ()),
        (b'{"elicitation":{}}', (FORM,)),
        (b'{"elicitation":{"form":{},"url":{}}}', (FORM, LINK)),
        (b'{"elicitation":{"url":{}}}', (LINK,)),
        (b'{"sampling":{}}', (SAMPLE,)),
        (b'{"sampling":{"tools":{}}}', (SAMPLE, TOOLS)),
        (b"7", ()),
    ],
)
def test_client_takes_what_it_declared(capabilities: bytes, takes: tuple[bytes, ...]) -> None:
    asked = {one for one in (FORM, LINK, SAMPLE, TOOLS) if can_be_asked(capabilities, one)}
    assert asked == set(takes)


@pytest.mark.parametrize("request_", [b"", b"{}", b'{"method":"ping"}', b'{"method":7}'])
def test_what_is_no_question_is_asked_of_nobody(request_: bytes) -> None:
    assert not can_be_asked(b'{"elicitation":{},"sampling":{},"roots":{}}', request_)
