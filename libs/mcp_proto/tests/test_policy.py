import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.policy import matches, permits

ALL = Grant(permissions=frozenset({"CallTools", "ReadKV"}), allow=("*",))


@pytest.mark.parametrize(
    ("grant", "permission", "answer"),
    [
        (ALL, "", None),
        (ALL, "ReadKV", None),
        (ALL, "WriteKV", "permission WriteKV"),
        (Grant(allow=("*",)), "", "permission CallTools"),
        (Grant(permissions=ALL.permissions), "", "an allow rule for time:now"),
        (Grant(permissions=ALL.permissions, allow=("kv:*", "time:n?w")), "", None),
        (Grant(permissions=ALL.permissions, allow=("Time:*",)), "", "an allow rule for time:now"),
        (
            Grant(permissions=ALL.permissions, allow=("*",), deny=("time:*",)),
            "",
            "a deny rule covers time:now",
        ),
        (
            Grant(permissions=ALL.permissions, allow=("time:now",), deny=("x", "*:now")),
            "",
            "a deny rule covers time:now",
        ),
        (Grant(), "", "an allow rule for time:now"),
    ],
)
def test_a_grant_decides(grant: Grant, permission: str, answer: str | None) -> None:
    assert permits(grant, "time", "now", permission) == answer


@given(
    st.text(alphabet="ab*?.[]^", max_size=8),
    st.text(alphabet="ab.[]^\n", max_size=6),
)
def test_globs_match_as_shells_do(pattern: str, tool: str) -> None:
    # fnmatch without its bracket classes, which these globs do not have
    expected = fnmatch.fnmatchcase(f"s:{tool}", f"s:{pattern}".replace("[", "[[]"))
    assert matches(f"s:{pattern}", "s", tool) is expected


def test_a_glob_covers_the_whole_name() -> None:
    assert not matches("kv:get", "kv", "get_all")
    assert not matches("kv:get", "kv", "get\n")
    assert not matches("v:get", "kv", "get")
    assert matches("kv:*", "kv", "a\nb")
    assert not matches("", "kv", "get")
    assert not matches("a:x|b:y", "a", "x")


def test_a_hostile_glob_takes_no_exponential_time() -> None:
    pattern = "*a" * 200 + "b"
    started = time.perf_counter()
    assert not matches(pattern, "s", "a" * 5_000)
    assert not matches("*" * 500 + "b", "s", "a" * 5_000)
    assert time.perf_counter() - started < 1.0
