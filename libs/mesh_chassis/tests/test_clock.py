"""Both clocks have the same shape and move forward."""

from mesh_chassis.clock import SYSTEM, Clock, monotonic, now_ms
from mesh_chassis.testing.clock import FakeClock


def test_the_system_clock_agrees_with_the_functions() -> None:
    assert abs(SYSTEM.now_ms() - now_ms()) < 1000
    assert abs(SYSTEM.monotonic() - monotonic()) < 1.0


def test_the_fake_clock_stands_in_for_the_system_clock() -> None:
    fake = FakeClock()
    clock: Clock = fake
    before = (clock.now_ms(), clock.monotonic())
    fake.advance(1.5)
    assert (clock.now_ms(), clock.monotonic()) == (before[0] + 1500, before[1] + 1.5)
