"""Tools are found by what their definitions say."""

import time

import msgspec
import pytest

from gateway.core.search import QUERY_TERMS_MAX, Index, document, terms_of
from gateway.core.search_words import stem


def tool(name: str, description: str = "", **properties: object) -> bytes:
    schema = {"type": "object", "properties": properties}
    return msgspec.json.encode({"name": name, "description": description, "inputSchema": schema})


def found(query: str, *entries: bytes, limit: int = 5) -> list[int]:
    index = Index(map(document, entries))
    return [hit.position for hit in index.search(query, limit)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("creates", "created"),
        ("creating", "creation"),
        ("queries", "query"),
        ("boxes", "box"),
        ("searches", "search"),
        ("running", "run"),
        ("files", "file"),
    ],
)
def test_forms_of_a_word_have_one_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


@pytest.mark.parametrize("word", ["s3", "aws", "status", "class", "überblick"])
def test_stem_leaves_what_is_no_ending(word: str) -> None:
    assert stem(word) in {word, word.removesuffix("s")}


def test_names_are_found_by_their_parts_however_they_are_written() -> None:
    for name in ("getUserById", "get_user_by_id", "get-user-by-id", "HTTPGetUserById"):
        assert found("user", tool("other"), tool(name)) == [1]


def test_a_product_name_with_capitals_is_found_as_it_is_typed() -> None:
    assert found("GitHub issue", tool("x"), tool("github__create_issue")) == [1]


def test_a_name_outweighs_a_description_and_that_an_argument() -> None:
    entries = (
        tool("a", "text", mail={"type": "string"}),
        tool("b", "sends mail"),
        tool("send_mail"),
        tool("c", "other", x={"type": "string", "description": "the mail"}),
    )
    assert found("mail", *entries) == [2, 1, 0, 3]


def test_enum_values_and_nested_arguments_are_found() -> None:
    nested = {"type": "object", "properties": {"zebra": {"type": "string"}}}
    listed = {"type": "array", "items": {"type": "string", "enum": ["giraffe"]}}
    assert found("zebra", tool("a"), tool("b", animal=nested)) == [1]
    assert found("giraffe", tool("a"), tool("b", animal=listed)) == [1]


def test_the_beginning_of_a_word_is_enough() -> None:
    assert found("kube", tool("a"), tool("kubernetes_get")) == [1]


def test_a_word_with_the_same_meaning_is_found_after_the_word_itself() -> None:
    assert found("folder", tool("list_directory"), tool("folder_list")) == [1, 0]


def test_a_rare_word_counts_for_more_than_a_frequent_one() -> None:
    entries = [tool(f"list_{n}") for n in range(20)]
    assert found("list quasar", *entries, tool("quasar"))[0] == 20


def test_words_that_say_nothing_find_nothing() -> None:
    assert terms_of("what is it that you would do") == []
    assert found("the of and", tool("the_of_and")) == []


def test_a_query_may_be_any_text() -> None:
    assert len(terms_of(" ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(99)))
               ) == QUERY_TERMS_MAX  # fmt: skip
    for query in ("", "\0", "😀", "((((", "a" * 5_000, "\ud800"):
        assert found(query, tool("a_b")) == found(query, tool("a_b"))


@pytest.mark.parametrize(
    "entry",
    [
        b'{"name":"odd_thing","inputSchema":true}',
        b'{"name":"odd_thing","inputSchema":{"properties":[1]}}',
        b'{"name":"odd_thing","description":7,"title":null}',
        b'{"name":"odd_thing","inputSchema":{"properties":{"a":{"enum":"x"}}}}',
        b'{"name":"odd_thing","annotations":[1]}',
    ],
)
def test_a_strange_definition_is_found_by_its_name(entry: bytes) -> None:
    assert found("odd thing", tool("x"), entry) == [1]


def test_a_schema_that_nests_without_end_is_read_to_a_depth() -> None:
    schema = b'{"properties":{"a":' * 100 + b"{}" + b"}}" * 100
    assert found("deep", b'{"name":"deep","inputSchema":%b}' % schema) == [0]


def test_search_looks_only_among_given_positions_and_keeps_ties_in_order() -> None:
    index = Index(document(tool(f"same_{n}")) for n in range(10))
    assert [hit.position for hit in index.search("same", 3)] == [0, 1, 2]
    assert [hit.position for hit in index.search("same", 9, [7, 3])] == [3, 7]


def test_2000_tools_are_indexed_and_searched_without_being_felt() -> None:
    entries = [
        tool(f"server{n % 20}__do_thing_{n}", "Does a thing to another thing, and says so. " * 5,
             path={"type": "string", "description": "Where it is."}, mode={"enum": ["a", "b"]})
        for n in range(2_000)
    ]  # fmt: skip
    began = time.process_time()
    index = Index(map(document, entries))
    indexed = time.process_time() - began
    began = time.process_time()
    assert len(index.search("do something with a path", 20)) == 20
    # Bounds of a slow, shared machine; docs/tool-search.md has the measured figures.
    assert indexed < 0.5
    assert time.process_time() - began < 0.1
