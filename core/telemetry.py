"""Export of spans to an OpenTelemetry collector, by OTLP/HTTP, where `tracing.endpoint` is set (docs/operate.md).

OpenTelemetry's bounded queue holds the spans that wait, and a thread of its own exports them. What does not fit, or
cannot be exported, is lost: nothing waits for a collector.
"""

import logging
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from core.config import TracingSettings
from core.tracing import is_sampled, span_id, trace_id
from services.threads import DaemonThread

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanContext

EXPORT_SECONDS: Final = 3.0
"""Seconds for one export, and for the last ones when the process ends."""

_log = logging.getLogger(__name__)


class Spans:
    """The spans of a process, which are exported from `start` to `stop`; threads share it."""

    _processor: "BatchSpanProcessor | None" = None
    _resource: "Resource"
    _sample_ratio = 0.0

    def start(self, service: str, settings: TracingSettings) -> None:
        """Export spans of the process called `service` from now on, if an endpoint is set; call it after a fork."""
        if settings.endpoint is None:
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            _log.error("no traces are exported: ./scripts/setup.sh run telemetry installs what is missing")
            return
        self._resource, self._sample_ratio = Resource.create({"service.name": service}), settings.sample_ratio
        exporter = OTLPSpanExporter(f"{settings.endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._processor = BatchSpanProcessor(exporter)

    def stop(self) -> None:
        """Export the spans that wait, within `EXPORT_SECONDS`."""
        processor, self._processor = self._processor, None
        if processor is not None:
            closing = DaemonThread(processor.shutdown, name="last-spans")  # its own limit is half a minute
            closing.start()
            closing.join(EXPORT_SECONDS)

    def samples(self) -> bool:
        """Return whether the spans of a new request are exported."""
        return self._processor is not None and random.random() < self._sample_ratio  # nosec B311 # noqa: S311 (a sample)

    def wants(self, traceparent: str | None) -> bool:
        """Return whether spans of this trace are exported."""
        return self._processor is not None and traceparent is not None and is_sampled(traceparent)

    def export(
        self,
        name: str,
        context: str,
        parent: str | None,
        start: float,
        end: float,
        *,
        kind: Literal["INTERNAL", "SERVER", "CONSUMER"] = "INTERNAL",
        attributes: Mapping[str, str | int | float] | None = None,
        is_error: bool = False,
    ) -> None:
        """Export a piece of work of a sampled trace, with its times in seconds of the epoch.

        `context` is its own `traceparent`, which may have been sent to other processes before it ended. `parent` is
        that of the span which caused it, None for the first span of a trace.
        """
        processor = self._processor
        if processor is None or not is_sampled(context):
            return
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.status import Status, StatusCode

        processor.on_end(
            ReadableSpan(
                name,
                _context_of(context),
                None if parent is None else _context_of(parent),
                self._resource,
                attributes,
                kind=SpanKind[kind],
                status=Status(StatusCode.ERROR if is_error else StatusCode.UNSET),
                start_time=int(start * 1e9),
                end_time=int(max(start, end) * 1e9),
            )
        )


SPANS: Final = Spans()
"""The spans of this process."""


def _context_of(traceparent: str) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(
        int(trace_id(traceparent), 16), int(span_id(traceparent), 16), is_remote=True, trace_flags=flags
    )
