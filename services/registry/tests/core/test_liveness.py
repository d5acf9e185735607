"""Absent heartbeats make an instance lost; only an unanswered ping makes it dead."""

from mcp_proto.contracts.registry import InstanceRecord
from registry.core.liveness import Liveness, server_label, split_label

TTL_S = 20.0


def record(instance: str, *servers: str) -> InstanceRecord:
    return InstanceRecord(
        service="tool-runner", instance=instance, version="1", servers=dict.fromkeys(servers, "h")
    )


def view(count: int) -> Liveness:
    made = Liveness(ttl_s=TTL_S)
    for n in range(count):
        made.beat(f"k{n}", record(f"r{n}", "_.notes", f"acme.own{n}"))
    return made


def test_labels_go_both_ways_and_servers_may_hold_dots() -> None:
    assert split_label(server_label("_", "a.b")) == ("_", "a.b")
    assert split_label("nodot") is None
    assert split_label(".x") is None
    assert split_label("x.") is None


def test_single_loss_is_verified_at_once_even_in_a_small_fleet() -> None:
    live = view(2)
    live.lose("k0", 0.0)
    assert not live.frozen(0.0)
    assert live.to_verify(0.0) == ("k0",)
    assert live.serving("_", "notes") == ("r0", "r1")
    assert live.bury("k0") is not None
    assert live.serving("_", "notes") == ("r1",)
    assert live.served() == {("_", "notes"), ("acme", "own1")}


def test_servers_that_files_declare_are_known_while_their_instance_is() -> None:
    live = view(1)
    live.beat("k1", InstanceRecord(
        service="tool-runner", instance="r1", version="1", declared=("_.broken", "nodot")
    ))  # fmt: skip
    assert live.declared() == {("_", "broken")}
    assert live.serving("_", "broken") == ()
    live.lose("k1", 0.0)
    live.bury("k1")
    assert live.declared() == frozenset()


def test_beat_after_the_loss_saves_the_instance() -> None:
    live = view(1)
    live.lose("k0", 0.0)
    live.beat("k0", record("r0", "_.notes"))
    assert live.to_verify(0.0) == ()
    assert live.bury("k0") is None
    assert live.serving("_", "notes") == ("r0",)


def test_mass_loss_inside_one_ttl_freezes_for_one_ttl() -> None:
    live = view(10)
    live.lose("k0", 0.0)
    live.lose("k1", 1.0)
    assert not live.frozen(1.0)
    live.lose("k2", 2.0)
    assert live.frozen(2.0)
    assert live.to_verify(2.0) == ()
    assert live.to_verify(2.0 + TTL_S) == ("k0", "k1", "k2")


def test_slow_losses_do_not_freeze() -> None:
    live = view(10)
    for n in range(6):
        live.lose(f"k{n}", n * (TTL_S + 0.1))
        assert not live.frozen(n * (TTL_S + 0.1))


def test_frozen_view_believes_no_absence_until_the_freeze_is_over() -> None:
    live = view(3)
    live.freeze(5.0)
    live.lose("k0", 6.0)
    assert live.lost == {"k0"}
    assert live.to_verify(6.0) == ()
    assert live.serving("_", "notes") == ("r0", "r1", "r2")
    assert live.to_verify(5.0 + TTL_S) == ("k0",)


def test_unknown_and_repeated_losses_count_once() -> None:
    live = view(2)
    live.lose("nobody", 0.0)
    live.lose("k0", 0.0)
    live.lose("k0", 0.0)
    assert not live.frozen(0.0)
