"""Traces across the bus: W3C ``traceparent`` always travels, spans are recorded when asked for.

A trace id is worth having without any collector (it joins the log lines of one call), so every
span has one. The OpenTelemetry SDK costs about 20 MB and 30 µs per span; it is imported only when
an endpoint is configured. Where it is not, a span is one small object that passes its parent on.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from mesh_chassis.config import TelemetryConfig

__all__ = [
    "Attributes",
    "Recorder",
    "Span",
    "SpanKind",
    "current_traceparent",
    "is_traceparent",
    "setup_tracing",
    "shutdown_tracing",
    "start_span",
]

Attributes = Mapping[str, str | float | bool]

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_matches = _TRACEPARENT.fullmatch
_log = logging.getLogger(__name__)


class SpanKind(StrEnum):
    """Which side of a call a span is."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


class _Recording:
    """The configured exporter; there is one per process, like logging."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None


_recording = _Recording()
_current: ContextVar[str] = ContextVar("mesh_traceparent", default="")


def is_traceparent(text: str) -> bool:
    """Whether ``text`` is a valid W3C ``traceparent`` of version 00."""
    return _matches(text) is not None


def current_traceparent() -> str:
    """``traceparent`` of the span that is open here; "" outside of any."""
    return _current.get()


class Span:
    """An open span; use it as a context manager. Without a collector it records nothing.

    Attributes:
        traceparent: what to send with calls made inside this span.
        tracestate: the caller's, passed on unread; "" = none.
    """

    __slots__ = ("_token", "traceparent", "tracestate")

    def __init__(self, traceparent: str, tracestate: str) -> None:
        self.traceparent = traceparent
        self.tracestate = tracestate
        self._token: Token[str] | None = None

    @property
    def trace_id(self) -> str:
        """32 hex digits that all spans and log lines of one trace share."""
        return self.traceparent[3:35]

    def set(self, name: str, value: str | float | bool) -> None:
        """Set an attribute."""

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Note that something happened now."""

    def fail(self, reason: str) -> None:
        """Mark the span as failed; ``reason`` is public text."""

    def __enter__(self) -> Self:
        self._token = _current.set(self.traceparent)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None


class Recorder(Protocol):
    """What records spans (``tracing_otlp.OtlpRecorder``)."""

    def start(
        self,
        name: str,
        kind: SpanKind,
        parent: str,
        attributes: Attributes | None,
        tracestate: str,
    ) -> Span:
        """Open a span; ``parent`` is a valid ``traceparent`` or ""."""
        ...

    def close(self) -> None:
        """Send what is queued and stop."""
        ...


def start_span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: str = "",
    attributes: Attributes | None = None,
    tracestate: str = "",
) -> Span:
    """Open a span.

    Args:
        name: few distinct values, e.g. ``tools/call fs``.
        kind: server for work done for a caller, client around a call to another.
        parent: the caller's ``traceparent``; "" or malformed = the span open here, else a new
            trace.
        attributes: recorded at the start.
        tracestate: the caller's, to be passed on with it.
    """
    if not parent or _matches(parent) is None:
        parent = _current.get()
        tracestate = ""
    recorder = _recording.recorder
    if recorder is not None:
        return recorder.start(name, kind, parent, attributes, tracestate)
    return Span(parent or next(_unrecorded), tracestate)


_IDS_AT_ONCE = 256


def _roots() -> Iterator[str]:
    """Parents of new traces that nobody records; ids are made many at a time, and never zero.

    Flag 00 = not recorded, and whoever hears it follows that decision.
    """
    while True:
        block = os.urandom(23 * _IDS_AT_ONCE).hex()
        for at in range(0, len(block), 46):
            yield f"00-1{block[at : at + 31]}-1{block[at + 31 : at + 46]}-00"


_unrecorded = _roots()


def setup_tracing(
    config: TelemetryConfig, *, service: str, instance: str, env: Mapping[str, str] | None = None
) -> bool:
    """Begin to record, if an endpoint is configured.

    Args:
        config: table ``[telemetry]``; its endpoint wins over ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        service: name in traces unless the configuration has one.
        instance: recorded as ``service.instance.id``.
        env: the environment; None = that of the process.

    Returns:
        Whether spans are recorded.
    """
    env = os.environ if env is None else env
    endpoint = config.otlp_endpoint or env.get(ENDPOINT_VARIABLE, "")
    if not endpoint:
        return False
    # Imported here because it costs 20 MB, which a service without a collector does not pay.
    from mesh_chassis.tracing_otlp import OtlpRecorder  # noqa: PLC0415

    shutdown_tracing()
    _recording.recorder = OtlpRecorder(
        endpoint,
        sample_ratio=config.sample_ratio,
        service=config.service_name or service,
        instance=instance,
    )
    _log.info("recording spans", extra={"endpoint": endpoint, "ratio": config.sample_ratio})
    return True


def shutdown_tracing() -> None:
    """Send what is queued and stop recording; blocks up to a few seconds."""
    recorder, _recording.recorder = _recording.recorder, None
    if recorder is not None:
        recorder.close()
