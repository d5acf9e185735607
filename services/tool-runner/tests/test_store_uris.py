"""One spelling of a URI is the right one, and whatever a key is, it comes back from its URI."""

from urllib.parse import urljoin

import pytest

from tool_runner.core.store_uris import ARTIFACTS_ROOT, is_canonical, uri_of, wanted_of

NAMES = (
    "a", "a b", "a/b", "..", "../b", "a/../b", "a/./b", "//", "a?b=1", "a#b", "%2e", "ключ", "😀",
    "tasks:high", "*", "\n", "\x00", "a+b", "x" * 256,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_name_comes_back_from_its_uri(name: str) -> None:
    uri = uri_of(ARTIFACTS_ROOT, name)
    assert uri.isascii()
    assert uri.isprintable()
    wanted = wanted_of(ARTIFACTS_ROOT, uri)
    assert wanted is not None
    assert wanted.name == name
    assert is_canonical(ARTIFACTS_ROOT, uri)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("..", "//")])
def test_uri_survives_libraries_that_take_dots_away(name: str) -> None:
    path = uri_of(ARTIFACTS_ROOT, name).removeprefix(ARTIFACTS_ROOT)
    assert urljoin("http://h/", f"http://h/{path}") == f"http://h/{path}"


@pytest.mark.parametrize(
    ("uri", "name"),
    [("a b", "a b"), ("%61", "a"), ("a%2fb", "a/b"), ("a?offset=5", "a"), ("..", "..")],
)
def test_other_spellings_are_read_and_not_watched(uri: str, name: str) -> None:
    wanted = wanted_of(ARTIFACTS_ROOT, ARTIFACTS_ROOT + uri, "offset")
    assert wanted is not None
    assert wanted.name == name
    assert is_canonical(ARTIFACTS_ROOT, ARTIFACTS_ROOT + uri) is (uri == "..")


@pytest.mark.parametrize(
    "uri",
    [
        "mesh://events/a",
        "mesh://artifact/a",
        "http://artifacts/a",
        ARTIFACTS_ROOT + "%ff",
        ARTIFACTS_ROOT + "a?offset=-1",
        ARTIFACTS_ROOT + "a?offset=1&offset=2",
        ARTIFACTS_ROOT + "a?tenant=other",
        ARTIFACTS_ROOT + "a?offset=" + "9" * 20,
    ],
)
def test_what_names_nothing_is_none(uri: str) -> None:
    assert wanted_of(ARTIFACTS_ROOT, uri, "offset") is None
