r"""Log lines as JSON on stderr: one event is one line, whatever a caller put into it.

Standard logging does the routing, so libraries' records come out alike; msgspec does the
encoding, so a line break or a control character inside a message arrives escaped and cannot forge
a line. Credentials are recognised by shape and blanked in everything that is written, because a
rule "do not log secrets" holds only where it cannot be forgotten.
"""

import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import IO

import msgspec

from mesh_chassis.tracing import current_traceparent

__all__ = [
    "FIELD_CHARS_MAX",
    "JsonFormatter",
    "get_logger",
    "redact",
    "set_level",
    "setup_logging",
]

FIELD_CHARS_MAX = 8 * 1024
"""Characters of one text field; longer ones are cut. A stack trace of 60 frames fits."""

REDACTED = "[redacted]"

_SECRETS = re.compile(
    r"""(?ix)
    \b(mk_[a-z0-9]+_[a-z0-9]{6,}|ms_[a-z0-9]{6,})_[a-z0-9_]+                  # own keys and tokens
    | (?P<head>\b(?:proxy-)?authorization["']?\s*[:=]\s*["']?)[^\s"',;}]+(?:\s+[^\s"',;}]+)?
    | (?P<scheme>\b(?:bearer|basic)\s+)[a-z0-9._~+/=-]{6,}
    | \beyJ[a-z0-9_-]{8,}\.[a-z0-9_-]{8,}(?:\.[a-z0-9_-]*)?                   # JWT, Mesh-Ctx
    | \bS[OAUNCX][A-Z2-7]{56}\b                                               # NATS seeds
    """
)
_SECRET_NAMES = re.compile(
    r"(?i)(authorization|password|passwd|secret|token|api[_-]?key|credential|cookie|seed)$"
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_encoder = msgspec.json.Encoder(enc_hook=str)


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; the same as ``logging.getLogger``."""
    return logging.getLogger(name)


def redact(text: str) -> str:
    """``text`` with everything that looks like a credential blanked.

    Own keys keep prefix and id (``mk_live_Ab12cd34Ef56_[redacted]``), which name a key without
    giving it away.
    """
    return _SECRETS.sub(_blank, text)


def _blank(found: re.Match[str]) -> str:
    if found[1]:
        return f"{found[1]}_{REDACTED}"
    return f"{found['head'] or found['scheme'] or ''}{REDACTED}"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    Fields: ``ts`` (RFC 3339, UTC), ``level``, ``logger``, ``msg``, ``service``, ``instance``,
    ``trace_id`` inside a span, ``error`` (stack trace), and every ``extra`` of the call.

    Args:
        service: constant field.
        instance: constant field.
    """

    def __init__(self, service: str, instance: str) -> None:
        super().__init__()
        self._service = service
        self._instance = instance

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "ts": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": _text(_message(record)),
            "service": self._service,
            "instance": self._instance,
        }
        trace = current_traceparent()
        if trace:
            line["trace_id"] = trace[3:35]
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = REDACTED if _SECRET_NAMES.search(name) else _clean(value)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = _text("".join(traceback.format_exception(*record.exc_info)))
        elif record.stack_info:
            line["error"] = _text(record.stack_info)
        return _encoder.encode(line).decode()


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # A wrong format string must not lose the event.
        return f"{record.msg} {record.args}"


def _text(text: str) -> str:
    if len(text) > FIELD_CHARS_MAX:
        # Both ends: a trace says at its end what happened, a message at its beginning.
        half = FIELD_CHARS_MAX // 2
        text = f"{text[:half]} … {text[-half:]}"
    # Lone surrogates would make the encoder fail, and with it the line.
    return redact(text).encode(errors="replace").decode()


def _clean(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text(value if isinstance(value, str) else repr(value))


def setup_logging(
    level: str, *, service: str, instance: str, file: str = "", stream: IO[str] | None = None
) -> None:
    """Send all logging of the process to stderr as JSON lines; replaces earlier set-ups.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        service: constant field of every line.
        instance: constant field of every line.
        file: also append to this file; "" = none.
        stream: instead of stderr.

    Raises:
        OSError: the file cannot be opened.
    """
    formatter = JsonFormatter(service, instance)
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr)]
    if file:
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    set_level(level)
    logging.captureWarnings(capture=True)


def set_level(level: str) -> None:
    """Write nothing below ``level`` (``debug``, ``info``, ``warning`` or ``error``) from now on."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    # Chatty below warning, and their debug lines quote payloads.
    for name in ("nats", "asyncio", "urllib3", "uvicorn", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
