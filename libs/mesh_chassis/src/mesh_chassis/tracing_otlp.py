"""Spans recorded with the OpenTelemetry SDK and sent over OTLP/HTTP.

The only module that imports OpenTelemetry; ``tracing`` imports it when an endpoint is configured.
The provider stays ours, never the global one: two services in one test do not share spans.
"""

from types import TracebackType

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from mesh_chassis.tracing import Attributes, Span, SpanKind

__all__ = ["EXPORT_TIMEOUT_S", "QUEUE_MAX", "OtlpRecorder"]

EXPORT_TIMEOUT_S = 5
"""A collector that does not answer costs a stop at most this long."""

QUEUE_MAX = 4096
"""Spans waiting for export; beyond it spans are dropped, never calls delayed."""

_KINDS = {
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
}


class _RecordedSpan(Span):
    __slots__ = ("_span",)

    def __init__(self, span: trace.Span, tracestate: str) -> None:
        context = span.get_span_context()
        super().__init__(
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}",
            tracestate,
        )
        self._span = span

    def set(self, name: str, value: str | float | bool) -> None:
        self._span.set_attribute(name, value)

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        self._span.add_event(name, dict(attributes or {}))

    def fail(self, reason: str) -> None:
        self._span.set_status(trace.StatusCode.ERROR, reason)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is not None:
            # The class name only: messages may carry arguments of the call.
            self.fail(type(error).__name__)
        self._span.end()


class OtlpRecorder:
    """Records spans and sends them in batches from a thread of its own.

    Args:
        endpoint: base URL of the receiver; spans go to ``{endpoint}/v1/traces``.
        sample_ratio: share of traces without a parent that are recorded.
        service: ``service.name`` of the resource.
        instance: ``service.instance.id`` of the resource.
    """

    def __init__(self, endpoint: str, *, sample_ratio: float, service: str, instance: str) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service, "service.instance.id": instance}),
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(
            endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE_MAX))
        self._tracer = self._provider.get_tracer("mesh")

    def start(
        self,
        name: str,
        kind: SpanKind,
        parent: str,
        attributes: Attributes | None,
        tracestate: str,
    ) -> Span:
        """Open a span; ``parent`` is a valid ``traceparent`` or ""."""
        context = None
        if parent:
            remote = trace.SpanContext(
                trace_id=int(parent[3:35], 16),
                span_id=int(parent[36:52], 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(int(parent[53:55], 16)),
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        span = self._tracer.start_span(
            name, context=context, kind=_KINDS[kind], attributes=attributes
        )
        return _RecordedSpan(span, tracestate)

    def close(self) -> None:
        """Send what is queued and stop."""
        self._provider.shutdown()
