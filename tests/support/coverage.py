"""A pytest plugin that measures branch coverage: `COVERAGE_DIR=folder pytest -p tests.support.coverage`.

`python -m tests.support.coverage REPORT MINIMUM` ends with status 1 if less than `MINIMUM` percent of the branches in
Slipcover's merged report were taken.

Each process of pytest writes a file into the folder. If PYTHONPATH has the folder `tests/support/measured`, so do
commands and the local cloud that tests start as processes.

Slipcover puts probes into the code that is imported and takes them out again once they have been reached, so tests
take a fifth longer. coverage.py would double their time, since Python 3.11 has no `sys.monitoring`.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from slipcover import FileMatcher, ImportManager, Slipcover

ROOT = Path(__file__).parents[2]
SOURCES = [str(ROOT / name) for name in ("services", "core", "localcloud", "app_tier", "web_tier", "ami", "scripts")]


def measure(*, unloaded: bool) -> Callable[[], None]:
    """Measure from now on; return the function that writes what has been reached.

    Args:
        unloaded: whether files that were never imported count as missed. To list them takes a second.
    """
    matcher = FileMatcher()
    for source in SOURCES:
        matcher.addSource(source)
    # After so many calls of probes that have been called before, Slipcover visits all functions to remove such
    # probes. With its default of 50, these visits take longer than the calls that they save.
    probes = Slipcover(d_miss_threshold=1_000, branch=True, source=SOURCES if unloaded else [])
    # Before any of the sources is imported, and until the process ends.
    ImportManager(probes, matcher).__enter__()

    def write() -> None:
        file = Path(os.environ["COVERAGE_DIR"]) / f"{os.getpid()}.json"
        file.write_text(json.dumps(probes.get_coverage()), encoding="utf-8")

    return write


if __name__ == "tests.support.coverage":  # pytest loads this file; `sitecustomize` runs it under another name
    write = measure(unloaded=True)


def pytest_sessionfinish() -> None:
    """Write before this process reports its end to pytest-xdist, which kills it 10 seconds later."""
    write()


if __name__ == "__main__":
    report, minimum = sys.argv[1:]
    summary = json.loads(Path(report).read_text(encoding="utf-8"))["summary"]
    share = 100 * summary["covered_branches"] / (summary["covered_branches"] + summary["missing_branches"])
    print(f"{share:.1f} % of the branches were taken; at least {minimum} % must be")  # noqa: T201 - a command
    sys.exit(share < float(minimum))
