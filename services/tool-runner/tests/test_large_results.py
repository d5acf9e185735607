"""What of a result is stored, what stays, and what stands in between."""

import base64
from typing import Any

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.core.large_results import (
    ALL,
    PARTS_MAX,
    STRUCTURED,
    Plan,
    Range,
    Stored,
    fitted,
    parts_of,
    range_of,
)

LIMIT = 50_000
BIG = "x" * 60_000
BIG_BASE64 = base64.b64encode(BIG.encode()).decode()


def result(*content: object, **members: object) -> bytes:
    return msgspec.json.encode({"resultType": "complete", "content": content, **members})


def text(value: str) -> dict[str, object]:
    return {"type": "text", "text": value}


def stored(plan: Plan) -> dict[int, Stored]:
    return {
        part.place: Stored(
            uri=f"mesh://results/r{part.place}",
            size=len(part.body),
            sha256="0" * 64,
            expires="2026-11-22T00:00:00Z",
        )
        for part in plan.parts
    }


def fit(before: bytes, *, method: str = "tools/call", promised: bool = False) -> Any:
    plan = parts_of(method, before, LIMIT)
    after = fitted(method, before, plan, stored(plan), promised=promised)
    assert len(after) <= LIMIT
    return msgspec.json.decode(after)


def test_only_the_large_items_go_and_the_rest_stays_where_it_was() -> None:
    image = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
    after = fit(result(text("before"), text(BIG), image, _meta={"a": 1}))
    kinds = [one["type"] for one in after["content"]]
    assert kinds == ["text", "text", "resource_link", "image"]
    assert after["content"][1]["text"] == "before"
    assert after["_meta"] == {"a": 1}
    assert "isError" not in after


def test_the_largest_items_go_first() -> None:
    plan = parts_of("tools/call", result(text("y" * 40_000), text(BIG)), LIMIT)
    assert [part.place for part in plan.parts] == [1]


@pytest.mark.parametrize(
    ("block", "body", "kind"),
    [
        (text(BIG + "é\n"), (BIG + "é\n").encode(), "text/plain; charset=utf-8"),
        (
            {"type": "image", "data": BIG_BASE64, "mimeType": "image/png"},
            BIG.encode(),
            "image/png",
        ),
        (
            {"type": "resource", "resource": {"uri": "a:b", "mimeType": "text/csv", "text": BIG}},
            BIG.encode(),
            "text/csv",
        ),
        (
            {"type": "resource", "resource": {"uri": "a:b", "blob": BIG_BASE64}},
            BIG.encode(),
            "application/octet-stream",
        ),
    ],
)
def test_the_value_is_stored_not_its_json(block: object, body: bytes, kind: str) -> None:
    (part,) = parts_of("tools/call", result(block), LIMIT).parts
    assert (part.body, part.mime_type) == (body, kind)


def test_what_cannot_be_read_is_stored_as_its_json() -> None:
    for block in ({"type": "image", "data": "%" + BIG}, {"type": "odd", "x": BIG}):
        (part,) = parts_of("tools/call", result(block), LIMIT).parts
        assert msgspec.json.decode(part.body) == block
        assert part.mime_type == "application/json"


def test_content_goes_before_structured_content() -> None:
    data = {"rows": "y" * 30_000}
    before = result(text(msgspec.json.encode(data).decode()), structuredContent=data)
    after = fit(before, promised=True)
    assert after["structuredContent"] == data
    assert "isError" not in after


def test_structured_content_that_repeats_the_text_is_stored_once() -> None:
    data = {"rows": BIG}
    same = text(msgspec.json.encode(data).decode())
    plan = parts_of("tools/call", result(same, structuredContent=data), LIMIT)
    assert plan.structured
    assert [part.place for part in plan.parts] == [0]


def test_a_broken_promise_is_an_error_a_client_can_read() -> None:
    before = result(text("small"), structuredContent={"rows": BIG})
    kept = fit(before, promised=False)
    assert "structuredContent" not in kept
    assert "isError" not in kept
    broken = fit(before, promised=True)
    assert broken["isError"] is True
    assert broken["content"][-1]["type"] == "resource_link"
    (part,) = parts_of("tools/call", before, LIMIT).parts
    assert part.place == STRUCTURED


def test_many_large_items_are_stored_as_one() -> None:
    before = result(*(text("y" * 9_000) for _ in range(PARTS_MAX + 20)))
    (part,) = parts_of("tools/call", before, LIMIT).parts
    assert part.place == ALL
    assert len(msgspec.json.decode(part.body)) == PARTS_MAX + 20
    assert len(fit(before)["content"]) == 2


def test_a_result_large_for_another_reason_is_refused_as_executed() -> None:
    odd = b'{"content":7,"x":"%b"}' % BIG.encode()
    for one in (result(text("a"), _meta={"x": BIG}), odd):
        with pytest.raises(MeshError) as refused:
            parts_of("tools/call", one, LIMIT)
        assert refused.value.kind is ErrorKind.TOO_LARGE
        assert refused.value.outcome is Outcome.EXECUTED


def test_a_prompt_keeps_its_messages() -> None:
    messages = [
        {"role": "user", "content": text(BIG)},
        {"role": "assistant", "content": text("ok")},
    ]
    after = fit(msgspec.json.encode({"messages": messages}), method="prompts/get")
    assert after["messages"][0]["content"]["type"] == "resource_link"
    assert after["messages"][0]["role"] == "user"
    assert after["messages"][1] == messages[1]


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("mesh://results/result_1_a", Range("result_1_a", None, None)),
        ("mesh://results/r?offset=5", Range("r", 5, None)),
        ("mesh://results/r?offset=5&length=7", Range("r", 5, 7)),
        ("mesh://results/r?length=7", Range("r", 0, 7)),
        ("mesh://results/r?offset=-1", None),
        ("mesh://results/r?offset=1&offset=2", None),
        ("mesh://results/r?offset=1&x=2", None),
        ("mesh://results/r?offset=", None),
        ("mesh://results/r?offset=9999999999999", None),
        ("mesh://results/", None),
        ("mesh://results/../x", None),
        ("mesh://results/r#x", None),
        ("file:///etc/passwd", None),
    ],
)
def test_only_well_formed_ranges_are_understood(uri: str, asked: Range | None) -> None:
    assert range_of(uri) == asked
