"""URIs of resources inside results, as the client's endpoint lists them."""

import json

import pytest

from gateway.core.relinking import bounded_completion, relinked, relisted
from gateway.core.routing import Item

LISTED = {"file:///a": "mesh://two/a"}
LINK = b'{"type":"resource_link","uri":"file:///a","n":1.0}'
EMBEDDED = b'{"type":"resource","resource":{"uri":"file:///a","text":"1.0"},"x":1.50}'
TEXT = b'{"type" : "text","text":"file:///a is no \\"resource\\""}'


def test_links_and_embedded_resources_get_their_listed_uri() -> None:
    result = b'{"content":[%b,%b,%b],"isError":false}' % (TEXT, LINK, EMBEDDED)
    changed = relinked(result, LISTED)
    text, link, embedded = json.loads(changed)["content"]
    assert link["uri"] == embedded["resource"]["uri"] == "mesh://two/a"
    assert TEXT in changed
    assert b'"n":1.0' in changed
    assert b'"x":1.50' in changed
    assert text["text"].startswith("file:///a")


@pytest.mark.parametrize("content", [EMBEDDED, b"[" + EMBEDDED + b"]"])
def test_a_prompt_gets_its_listed_uris(content: bytes) -> None:
    result = b'{"messages":[{"role":"user","content":%b}]}' % content
    assert b"mesh://two/a" in relinked(result, LISTED)
    assert b"file:///a" not in relinked(result, LISTED)


@pytest.mark.parametrize(
    "result",
    [
        b'{"content":[%b]}' % TEXT,
        b'{"content":[{"type":"resource_link","uri":"file:///b"}],"z" : 1}',
        b'{"content":3,"x":"resource"}',
        b'{"content":[{"type":"resource","resource":7}]}',
        b'{"messages":[{"content":"resource"}]}',
        b'["resource"]',
    ],
)
def test_what_has_no_such_uri_keeps_its_bytes(result: bytes) -> None:
    assert relinked(result, LISTED) == result


def test_a_read_resource_comes_back_under_the_uri_it_was_asked_by() -> None:
    resource = Item(listed="mesh://two/a", server="two", name="file:///a", entry=b"")
    result = b'{"contents":[{"uri":"file:///a","text":"x"},{"uri":"file:///b","n":1.0}]}'
    changed = relisted(result, resource)
    assert [one["uri"] for one in json.loads(changed)["contents"]] == ["mesh://two/a", "file:///b"]
    assert b'"n":1.0' in changed
    assert relisted(b'{"contents":7}', resource) == b'{"contents":7}'


def test_a_completion_has_at_most_a_hundred_values() -> None:
    few = b'{"completion":{"values":["a"],"total":1}}'
    assert bounded_completion(few) == few
    many = json.dumps({"completion": {"values": ["v"] * 150, "total": 150}}).encode()
    completion = json.loads(bounded_completion(many))["completion"]
    assert (len(completion["values"]), completion["hasMore"], completion["total"]) == (
        100,
        True,
        150,
    )
    for odd in (b"{}", b"[]", b'{"completion":{"values":1}}'):
        assert bounded_completion(odd) == odd
