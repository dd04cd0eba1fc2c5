"""Lets `run.sh` fork the processes of its system: a start takes a third of the CPU time.

Python imports this at start if PYTHONPATH has its folder and the root of the checkout.
"""

import os
import sys
from pathlib import Path
from runpy import run_path

if "COVERAGE_DIR" in os.environ:  # Python imports only one module of this name
    run_path(str(Path(__file__).parents[1] / "measured" / "sitecustomize.py"))

if sys.orig_argv[1:4] == ["-P", "-m", "scripts.run"]:
    from tests.support.forked_system import FORK_SERVER_VARIABLE, fork_from

    fork_from(os.environ[FORK_SERVER_VARIABLE])
