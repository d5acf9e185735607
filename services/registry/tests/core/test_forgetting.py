"""A catalogue is forgotten only when nobody served it for long and nothing brings it back."""

from registry.core.forgetting import LastServed

A, B = ("_", "a"), ("acme", "b")


def due(last: LastServed, now_s: float, *, served: tuple = (), kept: tuple = ()) -> list:
    return last.due({A, B}, served=served, kept=kept, now_s=now_s, forget_after_s=600.0)


def test_entry_seen_first_gets_the_whole_time() -> None:
    last = LastServed()
    assert due(last, 1000.0) == []
    assert due(last, 1599.9) == []
    assert due(last, 1600.0) == [A, B]


def test_served_and_defined_entries_stay() -> None:
    last = LastServed()
    due(last, 0.0)
    assert due(last, 700.0, served=(A,), kept=(B,)) == []
    assert due(last, 1299.0, kept=(B,)) == []
    assert due(last, 1300.0, kept=(B,)) == [A]


def test_registration_counts_as_served() -> None:
    last = LastServed()
    due(last, 0.0)
    last.note(A, 500.0)
    assert due(last, 700.0) == [B]


def test_memory_of_vanished_entries_is_bounded() -> None:
    last = LastServed()
    for n in range(100):
        last.note(("_", f"s{n}"), 0.0)
    due(last, 601.0)
    assert len(last) == 2
