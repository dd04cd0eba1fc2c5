"""Log lines: the trace of a line, and what each level writes."""

import json
import logging
from collections.abc import Iterator

import pytest

from core.logs import AUDIT_LOGGER, LIBRARIES, METRICS_LOGGER, JsonFormatter, ProcessLevel, set_level
from core.tracing import use_traceparent

LEVELS = ("debug", "info", "warning", "error")


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    """Restore the levels of this process."""
    loggers = [logging.getLogger(name) for name in ("", METRICS_LOGGER, AUDIT_LOGGER, *LIBRARIES)]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize(("level", "written"), [("debug", LEVELS), ("info", LEVELS[1:]), ("warning", LEVELS[2:])])
def test_lines_below_the_level_are_not_written(
    level: ProcessLevel, written: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    set_level(level)
    for each in LEVELS:
        getattr(logging.getLogger("web_tier.x"), each)(each)
    assert tuple(caplog.messages) == written


@pytest.mark.parametrize("level", ["debug", "warning"])
def test_metrics_and_audit_lines_are_always_written_and_details_of_calls_never(
    level: ProcessLevel, caplog: pytest.LogCaptureFixture
) -> None:
    set_level(level)
    for name in (METRICS_LOGGER, AUDIT_LOGGER, "botocore.auth", "urllib3.connectionpool"):
        logging.getLogger(name).info(name)
    assert caplog.messages == [METRICS_LOGGER, AUDIT_LOGGER]


def test_a_line_has_the_trace_of_its_thread_unless_it_has_its_own() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "hello", (), None)
    assert "trace" not in json.loads(JsonFormatter("web").format(record))
    with use_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"):
        assert json.loads(JsonFormatter("web").format(record))["trace"] == "4bf92f3577b34da6a3ce929d0e0e4736"
        record.trace = "own"
        assert json.loads(JsonFormatter("web").format(record))["trace"] == "own"
