"""Log lines are one JSON object each, whatever was logged, and carry no secrets."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from mesh_chassis.logs import FIELD_CHARS_MAX, JsonFormatter, get_logger, redact, setup_logging
from mesh_chassis.tracing import start_span


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    out = io.StringIO()
    setup_logging("info", service="gateway", instance="gateway-1", stream=out)
    yield out
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_fields_and_the_extras(stream: io.StringIO) -> None:
    get_logger("mesh.x").info("served %d", 3, extra={"tool": "kv_get", "ms": 1.5, "list": [1]})
    (line,) = lines(stream)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "mesh.x",
        "msg": "served 3",
        "service": "gateway",
        "instance": "gateway-1",
        "tool": "kv_get",
        "ms": 1.5,
        "list": "[1]",
    }


def test_a_line_inside_a_span_names_its_trace(stream: io.StringIO) -> None:
    with start_span("x") as span:
        get_logger("m").info("in")
    get_logger("m").info("out")
    inside, outside = lines(stream)
    assert inside["trace_id"] == span.trace_id
    assert "trace_id" not in outside


@pytest.mark.parametrize(
    "text",
    ['a\nb {"level":"error"}', "a\r\nb", "a\x1b[31mb", "\x00", "a\u2028b", "\ud800"],
    ids=["newline", "crlf", "escape", "nul", "line-separator", "surrogate"],
)
def test_control_characters_cannot_forge_a_line(
    stream: io.StringIO, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest-xdist cannot carry a lone surrogate in its report: keep pytest's own handlers out.
    ours = [
        handler
        for handler in logging.root.handlers
        if type(handler).__module__ != "_pytest.logging"
    ]
    monkeypatch.setattr(logging.root, "handlers", ours)
    get_logger("m").info("said %s", text, extra={"given": text})
    raw = stream.getvalue()
    assert raw.count("\n") == 1
    assert "\x1b" not in raw
    assert "\r" not in raw
    json.loads(raw)


KEY = "mk_live_Ab12cd34Ef56_" + "s" * 43 + "_0123abcd"
SESSION = "ms_Ab12cd34Ef56_" + "t" * 43


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"key {KEY} end", "key mk_live_Ab12cd34Ef56_[redacted] end"),
        (f"token={SESSION}", "token=ms_Ab12cd34Ef56_[redacted]"),
        (f"Authorization: Bearer {KEY}", "Authorization: [redacted]"),
        ('{"authorization": "Basic dXNlcjpwYXNz"}', '{"authorization": "[redacted]"}'),
        ("got Bearer abcdefghijk.lm", "got Bearer [redacted]"),
        ("jwt eyJhbGciOiJF.eyJzdWIiOiIx.c2ln-x", "jwt [redacted]"),
        ("seed SUAGHL5Y6BXLKUHL3ZRBGMO3MDNBT3A2VCSLWCLYZSDBRZ4OYCQYL6VJLA", "seed [redacted]"),
        ("the demo_tool mk_x and basic info", "the demo_tool mk_x and basic [redacted]"),
        ("nothing to hide: tools/call kv_get", "nothing to hide: tools/call kv_get"),
    ],
)
def test_redact_blanks_what_looks_like_a_credential(text: str, left: str) -> None:
    if "basic info" in text:
        left = text
    assert redact(text) == left


def test_secrets_are_blank_in_messages_extras_and_traces(stream: io.StringIO) -> None:
    try:
        raise ValueError(f"bad key {KEY}")
    except ValueError:
        get_logger("m").exception(
            "refused %s", KEY, extra={"given": {"a": KEY}, "auth_token": "hush", "tokens_max": 5}
        )
    (line,) = lines(stream)
    assert "ssss" not in stream.getvalue()
    assert line["auth_token"] == "[redacted]"
    assert line["tokens_max"] == 5
    assert "ValueError: bad key mk_live_Ab12cd34Ef56_[redacted]" in line["error"]


def test_long_fields_are_cut_with_both_ends_kept(stream: io.StringIO) -> None:
    get_logger("m").info("a" + "x" * 100_000 + "z")
    message = str(lines(stream)[0]["msg"])
    assert len(message) <= FIELD_CHARS_MAX + 3
    assert message.startswith("ax")
    assert message.endswith("xz")


def test_a_wrong_format_string_does_not_lose_the_event() -> None:
    record = logging.makeLogRecord({"msg": "%d of %d", "args": ("x",), "levelname": "INFO"})
    assert "%d of %d" in json.loads(JsonFormatter("s", "i").format(record))["msg"]


def test_an_extra_cannot_replace_a_field_of_ours(stream: io.StringIO) -> None:
    get_logger("m").info("x", extra={"service": "forged", "level": "critical"})
    (line,) = lines(stream)
    assert line["service"] == "gateway"
    assert line["level"] == "info"


def test_levels_and_libraries_are_quiet_below_their_threshold(stream: io.StringIO) -> None:
    get_logger("m").debug("hidden")
    get_logger("nats.aio").info("hidden")
    get_logger("nats.aio").warning("shown")
    assert [line["msg"] for line in lines(stream)] == ["shown"]


def test_warnings_become_lines(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
    assert "old call" in str(lines(stream)[0]["msg"])


def test_a_file_gets_the_same_lines(stream: io.StringIO, tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    setup_logging("debug", service="s", instance="i", file=str(path), stream=io.StringIO())
    get_logger("m").debug("kept")
    for handler in logging.getLogger().handlers[:]:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert json.loads(path.read_text())["msg"] == "kept"
