"""What a worker reports about answered images: a line for each batch, and spans of sampled traces."""

import logging
from collections.abc import Iterator, Sequence

from app_tier.task import Task
from core.messages import ClassificationResult
from core.telemetry import Span, SpanExporter
from core.tracing import child_of, trace_id
from services.clock import epoch_seconds

_log = logging.getLogger(__name__)


def report_answered(tasks: Sequence[Task[ClassificationResult]], spans: SpanExporter) -> None:
    """Log images with a sent response in one line, and export their spans."""
    if not tasks:
        return
    images = [
        {
            "image": task.payload.image_id,
            "job": task.payload.job_id,
            "trace": None if task.traceparent is None else trace_id(task.traceparent),
            "status": task.payload.status,
            "label": _outcome(task.payload),
            "tries": task.delivery.tries,
            "milliseconds": task.milliseconds,
        }
        for task in tasks
    ]
    _log.info("answered", extra={"images": images})
    now = epoch_seconds()
    for task in tasks:
        if task.traceparent is not None and spans.wants(task.traceparent):
            for span in image_spans(task, task.traceparent, now):
                spans.export(span)


def image_spans(task: Task[ClassificationResult], parent: str, now: float) -> Iterator[Span]:
    """Yield the span of an image, from the sending of its request until `now`, and those of the stages in it.

    Between two stages it waited for a thread, or for a batch.
    """
    received, result, whole = task.delivery.received, task.payload, child_of(parent)
    attributes: dict[str, str | int | float] = {
        "image": result.image_id,
        "job": result.job_id,
        "status": result.status,
        "label": _outcome(result),
        "tries": task.delivery.tries,
    }
    is_error = result.status == "failed"
    yield Span("image", whole, parent, received.sent_at, now, "CONSUMER", attributes, is_error=is_error)
    yield Span("queued", child_of(whole), whole, received.sent_at, received.first_received_at)
    for stage, ended_at in task.ended_at.items():
        yield Span(stage, child_of(whole), whole, ended_at - task.milliseconds[stage] / 1000, ended_at)
    if task.ended_at:
        yield Span("responded", child_of(whole), whole, max(task.ended_at.values()), now)


def _outcome(result: ClassificationResult) -> str:
    return (result.label or "") if result.error is None else result.error.code
