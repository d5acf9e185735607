"""What only root can do: asked of a kernel that is not this host's."""

import fcntl
import os
import random
import struct
import time

import pytest

from mesh_sdk.guest import kernel


def test_entropy_is_credited_and_taken_up_by_this_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, bytes]] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda _fd, number, data=b"": asked.append((number, data)))
    state = random.getstate()
    try:
        assert kernel.reseed(b"e" * 32) == ""
        one = random.random()
        assert kernel.reseed(b"e" * 32) == ""
        assert random.random() != one
    finally:
        random.setstate(state)
    assert asked[0] == (0x40085203, struct.pack("ii", 256, 32) + b"e" * 32)
    assert asked[1] == (0x5207, b"")


def test_what_is_refused_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(time, "clock_settime", refuse)
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert kernel.set_clock(1.0) == "clock: Operation not permitted"
    assert kernel.reseed(bytes(32)) == "randomness of the kernel: Operation not permitted"
    assert kernel.give("/no/such/port", os.getuid()) == "/no/such/port: No such file or directory"
