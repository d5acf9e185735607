"""Signing keys are made, used and dropped without a refused client."""

from mcp_proto.contracts.tenant_auth import SealedKey
from mesh_chassis.keyring import KEYS_MAX
from tenant_auth.core.rotation import LEAD_S, LINGER_S, plan, sealing_linger_s

DAY_S = 86_400
DAY = DAY_S * 1000


def key(kid: str, use_from_ms: int) -> SealedKey:
    return SealedKey(
        kid=kid, public=b"", sealed=b"", created_ms=use_from_ms, use_from_ms=use_from_ms
    )


def test_first_key_signs_at_once() -> None:
    first = plan((), now_ms=DAY, every_s=DAY_S)
    assert (first.make, first.use_from_ms, first.drop) == ("k0000086401", DAY - 2_000, ())


def test_nothing_happens_while_the_key_is_young() -> None:
    calm = plan((key("k0000000001", 0),), now_ms=DAY - LEAD_S * 1000 - 1, every_s=DAY_S)
    assert (calm.make, calm.drop) == ("", ())
    assert calm.next_ms == DAY - LEAD_S * 1000


def test_next_key_is_published_a_lead_before_it_signs() -> None:
    now = DAY - LEAD_S * 1000
    renewed = plan((key("k0000000001", 0),), now_ms=now, every_s=DAY_S)
    assert renewed.make == "k0000000002"
    assert renewed.use_from_ms == DAY
    waiting = plan((key("k0000000002", DAY), key("k0000000001", 0)), now_ms=now, every_s=DAY_S)
    assert (waiting.make, waiting.drop) == ("", ())


def test_old_key_stays_until_its_last_token_has_expired() -> None:
    ring = (key("k0000000001", 0), key("k0000000002", DAY))
    gone = DAY + LINGER_S * 1000
    assert plan(ring, now_ms=gone - 1, every_s=DAY_S).drop == ()
    assert plan(ring, now_ms=gone - 1, every_s=DAY_S).next_ms == gone
    assert plan(ring, now_ms=gone, every_s=DAY_S).drop == ("k0000000001",)


def test_numbers_are_never_used_twice() -> None:
    ring = (key("k0000000009", 0), key("k0000000010", 5))
    assert plan(ring, now_ms=2 * DAY, every_s=DAY_S).make == "k0000000011"


def test_key_overdue_after_a_long_stop_is_replaced_with_the_full_lead() -> None:
    late = plan((key("k0000000001", 0),), now_ms=30 * DAY, every_s=DAY_S)
    assert late.make == "k0000000002"
    assert late.use_from_ms == 30 * DAY + LEAD_S * 1000
    assert late.drop == ()


def test_keys_that_nobody_can_open_are_replaced_at_once() -> None:
    ring = (key("k0000000001", 0), key("k0000000002", DAY + 5))
    mended = plan(ring, unusable={"k0000000001", "k0000000002"}, now_ms=DAY, every_s=DAY_S)
    assert (mended.make, mended.use_from_ms) == ("k0000000003", DAY - 2_000)
    assert mended.drop == ("k0000000002",)
    half = plan(ring, unusable={"k0000000001"}, now_ms=DAY, every_s=DAY_S)
    assert half.make == ""


def test_sealing_keys_stay_for_the_life_of_what_they_sealed_and_fit_the_ring() -> None:
    assert sealing_linger_s(30 * DAY_S) == 7 * DAY_S
    for every_s in (3_600, DAY_S, 400 * DAY_S):
        kept = sealing_linger_s(every_s) / every_s + 2
        assert kept < KEYS_MAX / 2
        assert sealing_linger_s(every_s) >= LINGER_S
    ring = (key("k0000000001", 0), key("k0000000002", DAY))
    gone = DAY + 7 * DAY
    linger_s = sealing_linger_s(DAY_S)
    assert plan(ring, now_ms=gone - 1, every_s=DAY_S, linger_s=linger_s).drop == ()
    assert plan(ring, now_ms=gone, every_s=DAY_S, linger_s=linger_s).drop == ("k0000000001",)
