import re

from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.ids import is_server_name
from mcp_proto.names import is_listed_name, listed_name

servers = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,39}", fullmatch=True).filter(is_server_name)
tools = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=130)
    | st.from_regex(r"[a-z_]{1,70}", fullmatch=True)
    | st.from_regex(r"a?__[a-z2-7]{16}", fullmatch=True)
)


@given(servers, tools)
def test_every_tool_gets_a_legal_name(server: str, tool: str) -> None:
    name = listed_name(server, tool)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)
    assert is_listed_name(name)
    assert name == listed_name(server, tool)
    assert is_listed_name(listed_name(server, tool, prefixed=False))


@given(servers, tools, servers, tools)
def test_two_tools_never_share_a_name(s1: str, t1: str, s2: str, t2: str) -> None:
    assert (listed_name(s1, t1) == listed_name(s2, t2)) == ((s1, t1) == (s2, t2))


def test_names_stay_readable() -> None:
    assert listed_name("time", "get_current_time") == "time__get_current_time"
    assert listed_name("kv", "kv_get", prefixed=False) == "kv_get"
    assert listed_name("a", "x" * 61) == "a__" + "x" * 61
    assert re.fullmatch(r"a__x{43}__[a-z2-7]{16}", listed_name("a", "x" * 62))
    assert re.fullmatch(r"fs__read_file__[a-z2-7]{16}", listed_name("fs", "read file"))


def test_a_tool_cannot_take_the_name_of_another_tools_short_form() -> None:
    short = listed_name("fs", "read file")
    imposter = short.removeprefix("fs__")
    assert listed_name("fs", imposter) != short
