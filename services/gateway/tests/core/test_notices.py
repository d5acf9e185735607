"""Notifications of a request: progress passes, logs by the caller's own level."""

from typing import Any

import msgspec
import pytest

from gateway.core.notices import scoped


def heard(notice: bytes, level: str) -> list[Any]:
    told: list[bytes] = []
    deliver = scoped(told.append, level, "notes")
    assert deliver is not None
    deliver(notice)
    return [msgspec.json.decode(one) for one in told]


def log(level: str, **members: object) -> bytes:
    params = {"level": level, "data": {"a": 1}, **members}
    return msgspec.json.encode(
        {"jsonrpc": "2.0", "method": "notifications/message", "params": params}
    )


def test_progress_passes_byte_for_byte() -> None:
    told: list[bytes] = []
    notice = b'{"jsonrpc":"2.0", "method":"notifications/progress","params":{"progress":1}}'
    deliver = scoped(told.append, "", "notes")
    assert deliver is not None
    deliver(notice)
    assert told == [notice]
    assert scoped(None, "debug", "notes") is None


@pytest.mark.parametrize(
    ("wanted", "level", "passes"),
    [
        ("", "emergency", False),
        ("warning", "info", False),
        ("warning", "warning", True),
        ("debug", "info", True),
        ("debug", "made up", True),
    ],
)
def test_a_log_passes_from_the_level_its_caller_asked_for(
    wanted: str, level: str, passes: bool
) -> None:
    assert bool(heard(log(level), wanted)) is passes


def test_the_logger_says_which_server_speaks() -> None:
    assert heard(log("error"), "debug")[0]["params"] == {
        "level": "error",
        "data": {"a": 1},
        "logger": "notes",
    }
    assert heard(log("error", logger="db"), "debug")[0]["params"]["logger"] == "notes/db"


def test_a_method_that_is_spelt_with_escapes_is_no_way_around() -> None:
    notice = log("debug").replace(b"notifications/message", b"notifications\\u002fmessage")
    assert heard(notice, "") == []
    assert heard(b'{"method":"notifications/message","params":1}', "debug") == []
