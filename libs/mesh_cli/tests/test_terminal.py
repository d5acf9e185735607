"""What people read."""

import pytest

from mesh_cli import terminal


def test_table_aligns_columns_and_trims_lines() -> None:
    text = terminal.table(("A", "LONG"), [("wide cell", ""), ("x", "y")])

    assert text.splitlines() == ["A          LONG", "wide cell", "x          y"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.000_512, "512µs"), (0.0032, "3.2ms"), (4.12, "4.1s"), (3700, "1h01m"), (600, "10m")],
)
def test_duration_is_short(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(-1, "unlimited"), (12, "12 B"), (1536, "1.5 KiB"), (3 * 1024**3, "3.0 GiB")]
)
def test_quantity_is_short(size: int, text: str) -> None:
    assert terminal.quantity(size) == text


def test_pretty_leaves_text_that_is_no_json() -> None:
    assert terminal.pretty(b"not json") == "not json"
    assert terminal.pretty(b'{"a":1}') == '{\n  "a": 1\n}'
