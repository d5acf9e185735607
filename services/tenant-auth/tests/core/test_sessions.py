"""Sessions end when idle or old, whatever the broker's TTL says."""

from tenant_auth.core import sessions
from tenant_auth.core.sessions import Lifetimes, LoginRecord, LoginState


def login(key_expires_ms: int = 0, **lifetimes: int) -> LoginRecord:
    return sessions.opened(
        login_id="a",
        tenant="acme",
        principal="ann",
        key_id="k",
        key_expires_ms=key_expires_ms,
        mac="m",
        pepper="p",
        now_ms=1_000,
        lifetimes=Lifetimes(**lifetimes),
    )


def test_session_is_idle_after_half_an_hour_without_use() -> None:
    record = login()
    assert sessions.state_of(record, 1_000 + 1_800_000 - 1) is LoginState.ACTIVE
    assert sessions.state_of(record, 1_000 + 1_800_000) is LoginState.IDLE
    used = sessions.touched(record, 1_000 + 1_000_000)
    assert sessions.state_of(used, 1_000 + 1_800_000) is LoginState.ACTIVE


def test_session_ends_after_twelve_hours_however_much_it_is_used() -> None:
    record = login()
    end = 1_000 + 12 * 3_600_000
    assert sessions.state_of(sessions.touched(record, end - 1), end - 1) is LoginState.ACTIVE
    assert sessions.state_of(sessions.touched(record, end - 1), end) is LoginState.ENDED


def test_session_never_outlives_its_key() -> None:
    assert login(key_expires_ms=5_000).ends_ms == 5_000


def test_use_is_written_once_a_minute_and_never_backwards() -> None:
    record = login()
    assert not sessions.needs_touch(record, 1_000 + 59_999)
    assert sessions.needs_touch(record, 1_000 + 60_000)
    assert sessions.touched(record, 500).used_ms == 1_000
    assert sessions.needs_touch(login(idle_s=4), 2_000)


def test_ttl_covers_the_rest_and_is_never_zero() -> None:
    record = login()
    assert sessions.ttl_s(record) == 1_860
    late = sessions.touched(record, record.ends_ms - 5_500)
    assert sessions.ttl_s(late) == 66
    assert sessions.ttl_s(login(key_expires_ms=1)) >= 1
