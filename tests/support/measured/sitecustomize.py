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
    measurement = run_path(str(Path(__file__).parents[1] / "coverage.py"))["Measurement"](
        Path(os.environ["COVERAGE_DIR"])
    )
    measurement.begin()
    exit_at_once = os._exit

    def write_and_exit(status: int) -> None:
        """Write what was taken, then exit without cleaning up."""
        try:
            measurement.write()
        finally:
            exit_at_once(status)

    os._exit = write_and_exit  # type: ignore[assignment]
    atexit.register(measurement.write)
