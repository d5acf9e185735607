"""The life of a machine, and its id."""

import itertools

import pytest

from mcp_proto.contracts.vm_spawner import LIVE, STABLE, Desired, MachineState
from vm_spawner.core.machine import (
    NEXT,
    RANDOM_BYTES,
    STATUS,
    ImpossibleError,
    ended,
    is_live,
    is_over,
    is_vm_id,
    moved,
    requested,
    tail,
    vm_id,
    wanted_gone,
)

FIRST = requested("vm-1", "acme", Desired(ttl_s=10), host="vm-1", boot="b", now_ms=1_000)
WAY: tuple[MachineState, ...] = ("admitted", "creating", "booting", "handshake", "ready")


def at(state: MachineState):  # type: ignore[no-untyped-def]
    record = FIRST
    for one in WAY[: WAY.index(state) + 1]:
        record = moved(record, one)
    return record


def test_every_state_has_a_word_and_what_follows_it() -> None:
    assert set(NEXT) == set(STATUS)
    assert set().union(*NEXT.values()) <= set(NEXT)
    assert {state for state, after in NEXT.items() if not after} == {"stopped", "failed", "lost"}
    assert {"stopped", "failed", "lost"} | LIVE == set(NEXT)
    assert set(NEXT) >= STABLE


@pytest.mark.parametrize(("was", "to"), list(itertools.product(NEXT, NEXT)))
def test_only_what_follows_follows(was: MachineState, to: MachineState) -> None:
    record = FIRST
    if was != "requested":
        path = {"parked": "handshake", "paused": "ready", "draining": "ready"}
        via = path.get(was)
        if was in WAY:
            record = at(was)
        elif was in ("stopped", "failed", "lost"):
            record = ended(
                moved(at("ready"), "draining"), was, code="asked", reason="x", now_ms=2_000
            )
        else:
            assert via is not None
            record = moved(at(via), was)  # type: ignore[arg-type]
    if to in NEXT[was]:
        assert moved(record, to).observed.state == to
    else:
        with pytest.raises(ImpossibleError):
            moved(record, to)


def test_every_living_state_can_end() -> None:
    for state in LIVE:
        assert {"failed", "lost"} <= NEXT[state]


def test_end_keeps_reason_phase_and_console() -> None:
    record = ended(
        at("booting"),
        "failed",
        code="boot_timeout",
        reason="slow",
        phase="hello",
        console=b"last words",
        now_ms=5_000,
    )
    now = record.observed
    assert (now.code, now.phase, now.console, now.ended_ms) == (
        "boot_timeout",
        "hello",
        "last words",
        5_000,
    )
    assert is_over(record)
    assert not is_live(record)


def test_console_keeps_its_end_and_no_half_character() -> None:
    assert tail("ä".encode() * 10_000) == "ä" * 8192
    assert tail(b"x" + "ä".encode() * 8192).startswith("ä")


def test_machine_should_go_when_asked_or_when_its_time_is_over() -> None:
    ready = moved(at("handshake"), "ready", started_ms=2_000)
    assert wanted_gone(ready, 11_999) == ""
    assert wanted_gone(ready, 12_000) == "ttl"


@pytest.mark.parametrize("text", ["", "-a", "a_b", "a.b", "a/b", "../a", "a" * 65, "ä", "a b"])
def test_what_is_no_id_is_refused(text: str) -> None:
    assert not is_vm_id(text)


def test_made_ids_are_ids_and_differ() -> None:
    made = {vm_id("mcp-agent", bytes([n]) * RANDOM_BYTES) for n in range(100)}
    assert len(made) == 100
    assert all(is_vm_id(one) and len(one) == len("mcp-agent-") + 22 for one in made)
    with pytest.raises(ValueError, match="random bytes"):
        vm_id("mcp-agent", b"short")
