"""A pytest plugin that measures branch coverage: `COVERAGE_DIR=folder pytest -p tests.support.coverage`.

Each process of pytest writes a file into the folder; processes that tests start are not measured.

Slipcover puts probes into the code that is imported and takes them out again once they have been reached, so tests
take a fifth longer. coverage.py would double their time, since Python 3.11 has no `sys.monitoring`.
"""

import json
import os
from pathlib import Path

from slipcover import FileMatcher, ImportManager, Slipcover

ROOT = Path(__file__).parents[2]
SOURCES = [str(ROOT / name) for name in ("services", "core", "localcloud", "app_tier", "web_tier", "ami", "scripts")]

_matcher = FileMatcher()
for _source in SOURCES:
    _matcher.addSource(_source)
# After so many calls of probes that have been called before, Slipcover visits all functions to remove such probes.
# With its default of 50, these visits take longer than the calls that they save.
_probes = Slipcover(d_miss_threshold=1_000, branch=True, source=SOURCES)
# Before any of the sources is imported, and until the process ends.
ImportManager(_probes, _matcher).__enter__()


def pytest_sessionfinish() -> None:
    """Write what this process has reached. Once it has reported its end, pytest-xdist kills it after 10 seconds."""
    file = Path(os.environ["COVERAGE_DIR"]) / f"{os.getpid()}.json"
    file.write_text(json.dumps(_probes.get_coverage()), encoding="utf-8")
