"""Old clients are asked in the words of their revision, and told which server asks."""

from typing import Any

import msgspec
import pytest

from gateway.core.clientrequests import older_params
from mcp_proto.types.inputs import InputRequest
from mcp_proto.versions import Revision


def params_of(
    method: str, params: object, revision: Revision = Revision.R2025_11_25, server: str = "disk"
) -> dict[str, Any]:
    raw = msgspec.Raw(b"" if params is None else msgspec.json.encode(params))
    asked = InputRequest(method=method, params=raw)
    return msgspec.json.decode(older_params(asked, revision, server=server, token="g.1"))


def test_question_says_which_server_asks_and_can_be_extended() -> None:
    made = params_of("roots/list", None)
    assert made == {"_meta": {"progressToken": "g.1", "mesh/server": "disk"}}
    made = params_of("roots/list", {"_meta": {"progressToken": 9, "own": 1}}, server="")
    assert made == {"_meta": {"progressToken": "g.1", "own": 1}}


@pytest.mark.parametrize(
    ("revision", "mode"), [(Revision.R2025_06_18, None), (Revision.R2025_11_25, "form")]
)
def test_form_mode_is_named_where_it_has_a_name(revision: Revision, mode: str | None) -> None:
    made = params_of("elicitation/create", {"mode": "form", "message": "ü?"}, revision)
    assert made.get("mode") == mode
    assert made["message"] == "ü?"


def test_link_of_a_modern_server_gets_the_id_that_old_clients_require() -> None:
    made = params_of("elicitation/create", {"mode": "url", "message": "m", "url": "u"})
    assert len(made["elicitationId"]) == 32
    made = params_of("elicitation/create", {"mode": "url", "elicitationId": "own"})
    assert made["elicitationId"] == "own"


def test_message_of_several_blocks_becomes_several_messages_before_2025_11_25() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    single = {"role": "assistant", "content": blocks[0]}
    asked = {"messages": [{"role": "user", "content": blocks}, single], "maxTokens": 5}
    made = params_of("sampling/createMessage", asked, Revision.R2025_06_18)
    assert made["messages"] == [
        {"role": "user", "content": blocks[0]},
        {"role": "user", "content": blocks[1]},
        single,
    ]
    assert params_of("sampling/createMessage", asked)["messages"] == asked["messages"]
    odd = {"messages": "x"}
    assert params_of("sampling/createMessage", odd, Revision.R2025_06_18)["messages"] == "x"
