"""Log lines and library warnings of a process are JSON on standard error."""

import json
import subprocess
import sys

import pytest

from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

WARNS = """
import warnings
from core.logs import configure_logging

configure_logging("worker")
warnings.warn("Corrupt EXIF data\\nof a user", stacklevel=1)
"""


def test_warnings_of_libraries_are_lines_of_the_log() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WARNS], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=True
    )
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (line["level"], line["process"], line["logger"]) == ("warning", "worker", "py.warnings")
    assert "Corrupt EXIF data" in line["message"]
