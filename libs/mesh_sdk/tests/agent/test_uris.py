"""URI templates: which URIs fit, and what they say."""

import pytest

from mesh_sdk.agent.uris import UriTemplate


@pytest.mark.parametrize(
    ("template", "uri", "values"),
    [
        ("w://{city}/now", "w://Rome/now", {"city": "Rome"}),
        ("w://{city}/now", "w://New%20York/now", {"city": "New York"}),
        ("w://{city}/now", "w://a/b/now", None),
        ("w://{city}/now", "w:///now", None),
        ("f://{+path}", "f://a/b/c.txt", {"path": "a/b/c.txt"}),
        ("f://{path*}", "f://a/b", {"path": "a/b"}),
        ("s://q{?text,limit}", "s://q?limit=5&text=a%2Fb", {"text": "a/b", "limit": "5"}),
        ("s://q{?text,limit}", "s://q", {}),
        ("s://q{?text}", "s://q?other=1", {}),
        ("a.b://{x}", "aXb://1", None),
    ],
)
def test_uri_gives_its_values_where_it_fits(
    template: str, uri: str, values: dict[str, str] | None
) -> None:
    assert UriTemplate(template).match(uri) == values


@pytest.mark.parametrize("text", ["w://{", "w://{a}{a}", "w://{a,b}", "w://{a-b}", "w://}"])
def test_template_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="w://"):
        UriTemplate(text)
