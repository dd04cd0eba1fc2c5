"""Logging as JSON lines on standard error, so that nothing a user sends can forge a line.

A line of a thread that works for a request has the request's trace (`core/tracing.py`). docs/operate.md has the
meaning of the levels and the fields.
"""

import faulthandler
import json
import logging
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from core.tracing import current_traceparent, trace_id

LogLevel = Literal["debug", "info", "warning", "error"]
LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warning", "error")
ProcessLevel = Literal["debug", "info", "warning"]
"""Minimum level of a process: no configuration hides warnings."""

METRICS_LOGGER: Final = "fleetsight.metrics"
AUDIT_LOGGER: Final = "fleetsight.audit"
"""Loggers of lines that are written at every level: CloudWatch makes metrics of the former."""

LIBRARIES: Final = ("authlib", "botocore", "urllib3")
"""Loggers of libraries that log warnings only: the details of a call contain its signature."""

LINE_FIELDS: Final = ("at", "level", "process", "logger", "message", "exception")
"""Fields of a line with a fixed place where lines are shown; the others follow by name."""

_OWN = frozenset(vars(logging.makeLogRecord({})))


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; what was passed as `extra` stands beside the message."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (traceparent := current_traceparent()) is not None:
            line["trace"] = trace_id(traceparent)
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def parse_log_line(text: str) -> Mapping[str, Any] | None:
    """Return the fields of a line that a `JsonFormatter` has written; None for a line of another program.

    The text is untrusted: fields may have any value.
    """
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and "message" in line else None


def log_line_time(line: Mapping[str, Any]) -> datetime | None:
    """Return when a line was written, in UTC, or None if it does not say so."""
    try:
        return datetime.fromisoformat(str(line.get("at"))).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def configure_logging(process: str) -> None:
    """Send every log record and warning of this process to standard error as JSON lines that name `process`."""
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(JsonFormatter(process))
    logging.basicConfig(handlers=[to_stderr], force=True)
    set_level("info")
    logging.captureWarnings(True)  # of libraries, which may quote a file of a user's
    show_stacks_on_signal()


def show_stacks_on_signal() -> None:
    """Print where each thread is to standard error when this process gets SIGUSR1: `kill -USR1 PID`, if it hangs."""
    faulthandler.register(signal.SIGUSR1)


def set_level(level: ProcessLevel) -> None:
    """Log lines of this level and above."""
    for logger, minimum in levels_of(level).items():
        logging.getLogger(logger).setLevel(minimum)


def levels_of(level: ProcessLevel) -> dict[str, str]:
    """Return the minimum level of each logger that has one, by its name; the root logger's is empty."""
    libraries = dict.fromkeys(LIBRARIES, "WARNING")
    return {"": level.upper(), METRICS_LOGGER: "INFO", AUDIT_LOGGER: "INFO", **libraries}
