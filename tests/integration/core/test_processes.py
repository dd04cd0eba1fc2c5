"""What each process sets up: ids of its own, and log lines in JSON."""

import json
import multiprocessing
import subprocess
import sys

import pytest

from core.ids import new_id
from tests.support.waiting import DEADLINE_SECONDS


def test_a_forked_process_makes_ids_of_its_own() -> None:
    with multiprocessing.get_context("fork").Pool(1) as child:
        theirs = set(child.apply(_hundred_ids))
    assert theirs.isdisjoint(_hundred_ids())


def _hundred_ids() -> list[str]:
    return [new_id() for _ in range(100)]


WARNS = """
import warnings
from core.logs import configure_logging

configure_logging("worker")
warnings.warn("Corrupt EXIF data\\nof a user", stacklevel=1)
"""


@pytest.mark.processes
def test_warnings_of_libraries_are_lines_of_the_log() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WARNS], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=True
    )
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (line["level"], line["process"], line["logger"]) == ("warning", "worker", "py.warnings")
    assert "Corrupt EXIF data" in line["message"]
