"""Shares of a tenant: taken and given back, once however often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.contracts.vm_spawner import QuotaRecord, Shape
from mcp_proto.errors import MeshError
from vm_spawner.core.quota import GRACE_MS, QuotaLimits, admit, recount, release

SHAPE = Shape(cpu=2.0, vcpu=2, mem_mib=512)
LIMITS = QuotaLimits(machines=3, vcpu=5, mem_mib=4096, spawns_per_minute=4)


def test_share_is_taken_once_and_given_back_once() -> None:
    once = admit(QuotaRecord(), "a", SHAPE, LIMITS, 1_000)
    assert admit(once, "a", SHAPE, LIMITS, 2_000) == once
    assert list(once.held) == ["a"]
    assert release(release(once, "a"), "a").held == {}


@pytest.mark.parametrize(
    ("limits", "name", "current"),
    [
        (QuotaLimits(machines=2), "machines", 2),
        (QuotaLimits(vcpu=5), "vcpu", 4),
        (QuotaLimits(mem_mib=1500), "memMiB", 1024),
        (QuotaLimits(spawns_per_minute=2), "spawnsPerMinute", 2),
    ],
)
def test_limit_that_is_reached_is_named_with_what_is_taken(
    limits: QuotaLimits, name: str, current: int
) -> None:
    record = QuotaRecord()
    for vm in ("a", "b"):
        record = admit(record, vm, SHAPE, limits, 1_000)
    with pytest.raises(MeshError) as caught:
        admit(record, "c", SHAPE, limits, 2_000)
    told = caught.value.data
    assert (told["reason"], told["resource"], told["current"]) == ("limit", name, current)


def test_minute_goes_by() -> None:
    limits = QuotaLimits(spawns_per_minute=1)
    record = release(admit(QuotaRecord(), "a", SHAPE, limits, 1_000), "a")
    with pytest.raises(MeshError) as caught:
        admit(record, "b", SHAPE, limits, 31_000)
    assert caught.value.retry_after_s == pytest.approx(30.0)
    assert admit(record, "b", SHAPE, limits, 61_001)


def test_recount_drops_what_no_machine_stands_for_and_adds_what_was_forgotten() -> None:
    record = admit(QuotaRecord(), "dead", SHAPE, LIMITS, 1_000)
    record = admit(record, "young", SHAPE, LIMITS, 1_000 + GRACE_MS)
    mended = recount(record, {"alive": SHAPE}, 1_000 + GRACE_MS)
    assert set(mended.held) == {"young", "alive"}
    assert recount(mended, {"alive": SHAPE, "young": SHAPE}, 2_000 + GRACE_MS) is mended


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=40))
def test_shares_are_those_of_the_machines_that_hold_them(steps: list[tuple[str, bool]]) -> None:
    record, expected = QuotaRecord(), set[str]()
    for at, (vm, takes) in enumerate(steps):
        if takes:
            try:
                record = admit(record, vm, SHAPE, QuotaLimits(spawns_per_minute=1000), at)
                expected.add(vm)
            except MeshError:
                pass
        else:
            record = release(record, vm)
            expected.discard(vm)
        assert set(record.held) == expected
