"""Memory of finished calls."""

import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.finished import ENTRIES_MAX, KEEP_S, RESULT_MAX, FinishedCalls

KEY = ("mesh.v1.acme.call.fs.read", "01J")


def test_result_is_found_for_a_minute_and_not_longer() -> None:
    memory = FinishedCalls()
    memory.keep(KEY, 1, 0.0, b"r", None)
    found = memory.find(KEY, 1, KEEP_S - 1)
    assert found is not None
    assert found.body == b"r"
    assert memory.find(KEY, 1, KEEP_S) is None


def test_key_used_for_another_body_is_refused() -> None:
    memory = FinishedCalls()
    memory.keep(KEY, 1, 0.0, b"r", None)
    with pytest.raises(MeshError) as raised:
        memory.find(KEY, 2, 0.0)
    assert raised.value.kind is ErrorKind.REQUEST


def test_result_too_large_to_keep_still_counts_as_executed() -> None:
    memory = FinishedCalls()
    memory.keep(KEY, 1, 0.0, b"x" * (RESULT_MAX + 1), None)
    with pytest.raises(MeshError) as raised:
        memory.find(KEY, 1, 0.0)
    assert raised.value.outcome is Outcome.EXECUTED


def test_call_that_provably_did_not_run_is_not_remembered() -> None:
    memory = FinishedCalls()
    memory.keep(KEY, 1, 0.0, b"", MeshError(ErrorKind.OVERLOADED, "busy"))
    assert memory.find(KEY, 1, 0.0) is None


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    memory = FinishedCalls()
    for number in range(ENTRIES_MAX + 10):
        memory.keep(("s", str(number)), 1, 0.0, b"r", None)
    assert len(memory) == ENTRIES_MAX
    assert memory.find(("s", "0"), 1, 0.0) is None
    assert memory.find(("s", str(ENTRIES_MAX + 9)), 1, 0.0) is not None
