"""Measures the coverage of a command or the local cloud. Python imports this at start if PYTHONPATH has its folder.

A process that is killed is not measured.
"""

import atexit
import os
import sys
from pathlib import Path
from runpy import run_path

MODULE = sys.orig_argv[2] if sys.orig_argv[1:2] == ["-m"] else ""

if "COVERAGE_DIR" in os.environ and MODULE.startswith(("localcloud", "scripts.")):
    # Not the packages that it uses: other tests reach those, and to measure them would delay each process.
    write = run_path(str(Path(__file__).parents[1] / "coverage.py"))["measure"]([MODULE.partition(".")[0]])
    exit_at_once = os._exit

    def write_and_exit(status: int) -> None:
        """Write what was reached, then exit without cleaning up."""
        try:
            write()
        finally:
            exit_at_once(status)

    os._exit = write_and_exit  # type: ignore[assignment]
    atexit.register(write)
