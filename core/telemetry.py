"""Export of spans to an OpenTelemetry collector, by OTLP/HTTP, if one is configured (docs/operate.md).

OpenTelemetry's packages are imported at the first span. Spans wait in a bounded queue, which a thread of its own
exports; what does not fit, or cannot be exported, is lost: nothing waits for a collector.
"""

import logging
import os
import random
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from core.config import TracingSettings
from core.tracing import is_sampled, span_id, trace_id
from services.threads import DaemonThread

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The standard's variables, which replace `tracing.endpoint`:
https://opentelemetry.io/docs/specs/otel/protocol/exporter/"""

MAX_WAITING_SPANS: Final = 8_192
"""Spans of a process that wait for their export; further ones are lost."""

EXPORT_SECONDS: Final = 3.0
"""Seconds for one export, and for the last ones when the process ends."""

_log = logging.getLogger(__name__)
_next_context: ContextVar[str] = ContextVar("next_span")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of work of a trace.

    Attributes:
        context: its own `traceparent`.
        parent: that of the span which caused it; None for the first span of a trace.
        start, end: in seconds of the epoch.
        kind: as OpenTelemetry defines it.
    """

    name: str
    context: str
    parent: str | None
    start: float
    end: float
    kind: Literal["INTERNAL", "SERVER", "CONSUMER"] = "INTERNAL"
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    is_error: bool = False


class SpanExporter:
    """Exports the spans of one process; threads share it.

    Args:
        service: name of the process.
        environment: has the standard's variables.
    """

    def __init__(self, service: str, settings: TracingSettings, environment: Mapping[str, str] = os.environ) -> None:
        self._service, self._settings = service, settings
        has_variable = any(environment.get(name) for name in ENDPOINT_VARIABLES)
        self._endpoint = None if has_variable else settings.endpoint
        self.is_enabled = has_variable or settings.endpoint is not None
        self._provider: TracerProvider | None = None
        self._lock = threading.Lock()

    def samples(self) -> bool:
        """Return whether the spans of a new request are exported."""
        return self.is_enabled and random.random() < self._settings.sample_ratio  # nosec B311 # noqa: S311 (a sample)

    def wants(self, traceparent: str | None) -> bool:
        """Return whether spans of this trace are exported."""
        return self.is_enabled and traceparent is not None and is_sampled(traceparent)

    def export(self, span: Span) -> None:
        """Export a span, if its trace is sampled; errors are logged, and the span is lost."""
        if not self.wants(span.context):
            return
        try:
            self._export(span)
        except Exception:  # noqa: BLE001 (the work that a span describes never fails because of it)
            _log.warning("a span could not be exported", exc_info=True)

    def close(self) -> None:
        """Export the spans that wait, within `EXPORT_SECONDS`."""
        with self._lock:
            provider, self._provider, self.is_enabled = self._provider, None, False
        if provider is not None:
            # OpenTelemetry's own limit is half a minute.
            closing = DaemonThread(provider.shutdown, name="last-spans")
            try:
                closing.start()
            except (RuntimeError, MemoryError):
                _log.warning("the last spans could not be exported", exc_info=True)
            else:
                closing.join(EXPORT_SECONDS)

    def _export(self, span: Span) -> None:
        provider = self._open()
        if provider is None:
            return
        from opentelemetry.trace import SpanKind, StatusCode

        # The span's id was sent to other processes before the span ended.
        _next_context.set(span.context)
        exported = provider.get_tracer("fleetsight").start_span(
            span.name,
            None if span.parent is None else _context_of(span.parent),
            SpanKind[span.kind],
            dict(span.attributes),
            start_time=_nanoseconds(span.start),
        )
        if span.is_error:
            exported.set_status(StatusCode.ERROR)
        exported.end(_nanoseconds(max(span.start, span.end)))

    def _open(self) -> "TracerProvider | None":
        """Return the provider, which is made at the first span, so after a fork; None if there can be none."""
        with self._lock:
            if self._provider is None and self.is_enabled:
                try:
                    self._provider = _provider(self._service, self._endpoint)
                except ImportError:
                    self.is_enabled = False
                    _log.error("no traces are exported: ./scripts/setup.sh run telemetry installs what is missing")
                except Exception as error:  # noqa: BLE001 (no later span would succeed: the variables stay as they are)
                    self.is_enabled = False
                    _log.warning("no traces are exported", extra={"reason": f"{type(error).__name__}: {error}"})
            return self._provider


NO_SPANS: Final = SpanExporter("none", TracingSettings(), {})
"""Exports nothing."""


def _provider(service: str, endpoint: str | None) -> "TracerProvider":
    """Return a provider that exports to `endpoint`, or to that of the standard's variables if it is None."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    class GivenIds(IdGenerator):
        """Returns the ids of the span that is being exported."""

        def generate_span_id(self) -> int:
            return int(span_id(_next_context.get()), 16)

        def generate_trace_id(self) -> int:
            return int(trace_id(_next_context.get()), 16)

    resource = Resource.create({"service.name": service})
    # Unsampled traces do not come here. The process closes the provider itself.
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=GivenIds())
    address = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
    exporter = OTLPSpanExporter(address, timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_WAITING_SPANS))
    return provider


def _context_of(parent: str) -> "Context":
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    flags = TraceFlags(TraceFlags.SAMPLED)
    ids = SpanContext(int(trace_id(parent), 16), int(span_id(parent), 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(ids))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
