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
        (ALL, "WriteKV", "the caller lacks permission WriteKV"),
        (Grant(allow=("*",)), "", "the caller lacks permission CallTools"),
        (Grant(permissions=ALL.permissions), "", "no allow rule covers time:now"),
        (Grant(permissions=ALL.permissions, allow=("kv:*", "time:n?w")), "", None),
        (
            Grant(permissions=ALL.permissions, allow=("Time:*",)),
            "",
            "no allow rule covers time:now",
        ),
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
        (Grant(), "", "no allow rule covers time:now"),
    ],
)
def test_a_grant_decides(grant: Grant, permission: str, answer: str | None) -> None:
    denial = permits(grant, "time", "now", permission)
    assert (denial.reason if denial is not None else None) == answer


@pytest.mark.parametrize(
    ("grant", "missing"),
    [
        (Grant(allow=("*",)), "permission CallTools"),
        (Grant(), "an allow rule for time:now"),
        (Grant(allow=("*",), deny=("*",)), "a grant without a deny rule for time:now"),
    ],
)
def test_a_denial_names_the_missing_grant(grant: Grant, missing: str) -> None:
    denial = permits(grant, "time", "now", "")
    assert denial is not None
    assert denial.missing == missing


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
