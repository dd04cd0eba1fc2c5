"""A collector of OTLP/HTTP on loopback, which keeps the spans that it receives."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.servers import serving


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as the collector sees it; ids are hexadecimal, times nanoseconds of the epoch."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    kind: int
    is_error: bool
    attributes: dict[str, Any]


@dataclass
class OtlpCollector:
    """Attributes: url: base URL; status: of the next answers; headers: of each request."""

    url: str = ""
    status: int = 200
    headers: list[dict[str, str]] = field(default_factory=list)
    _spans: list[ReceivedSpan] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spans(self) -> list[ReceivedSpan]:
        """Return the spans so far, by their start."""
        with self._lock:
            return sorted(self._spans, key=lambda each: each.start)

    def receive(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Keep the spans of a request; return the status to answer."""
        if path != "/v1/traces":
            return 404
        with self._lock:
            self.headers.append(headers)
            if self.status == 200:
                self._spans += _spans_in(ExportTraceServiceRequest.FromString(body))
        return self.status


@contextmanager
def otlp_collector() -> Iterator[OtlpCollector]:
    """Run a collector in a thread."""
    collector = OtlpCollector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(collector.receive(self.path, dict(self.headers), body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as collector.url:
        yield collector


def _spans_in(request: Any) -> Iterator[ReceivedSpan]:
    for of_resource in request.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield ReceivedSpan(
                    resource["service.name"],
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.kind,
                    span.status.code == 2,
                    _values(span.attributes),
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
