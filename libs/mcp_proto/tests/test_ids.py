import re

import pytest

from mcp_proto.ids import handle, is_instance_id, is_server_name, is_tenant_id, ulid


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (is_tenant_id, ["a", "acme-1", "-", "x" * 40], ["", "_", "A", "a.b", "a\n", "x" * 41, "é"]),
        (
            is_server_name,
            ["a", "file.sys", "a-b_c", "X" * 40],
            ["", "_a", "a_", "a__b", "a:b", "a\n", "X" * 41, ".a"],
        ),
        (is_instance_id, ["gateway-1", "_", "x" * 64], ["", "a.b", "a b", "x" * 65, "a\n"]),
    ],
)
def test_names_are_checked_whole(check: object, good: list[str], bad: list[str]) -> None:
    assert callable(check)
    assert all(check(name) for name in good)
    assert not any(check(name) for name in bad)


def test_ulids_sort_by_time_and_keep_their_bits() -> None:
    assert ulid(0, b"\0" * 10) == "0" * 26
    assert ulid(2**48 - 1, b"\xff" * 10) == "7" + "Z" * 25
    made = [ulid(now, b"\x55" * 10) for now in (1, 2, 1_790_000_000_000)]
    assert made == sorted(made)
    with pytest.raises(ValueError, match="10 random"):
        ulid(0, b"")


def test_handles_cannot_be_guessed() -> None:
    made = handle("task", 1_790_000_000_000, b"\xff" * 16)
    assert re.fullmatch(r"task_1790000000000_[0-9a-z]{25}", made)
    assert handle("task", 1, b"\1" * 16) != handle("task", 1, b"\2" * 16)
    with pytest.raises(ValueError, match="16 random"):
        handle("task", 1, b"x")
