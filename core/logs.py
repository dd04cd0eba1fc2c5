"""Logging as JSON lines on standard error, so that nothing a user sends can forge a line."""

import json
import logging
import sys
from datetime import UTC, datetime

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
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(process: str, level: int = logging.INFO) -> None:
    """Send every log record and warning of this process to standard error as JSON lines that name `process`."""
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=level, handlers=[to_stderr], force=True)
    logging.captureWarnings(True)  # of libraries, which may quote a file of a user's
    logging.getLogger("botocore").setLevel(logging.WARNING)
