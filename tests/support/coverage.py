"""A pytest plugin that measures branch coverage: `COVERAGE_DIR=folder pytest -n 2 -p tests.support.coverage`.

`python -m tests.support.coverage FOLDER MINIMUM` reports what all processes together reached. It ends with status 1
if that is less than `MINIMUM` percent of the branches.

Each process of pytest-xdist that runs tests writes a file into the folder. If PYTHONPATH has the folder
`tests/support/measured`, so do commands and the local cloud that tests start as processes.

Slipcover puts probes into the code that is imported and takes them out again once they have been reached, so tests
take a fifth longer. coverage.py would double their time, since Python 3.11 has no `sys.monitoring`.
"""

import ast
import gc
import json
import marshal
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import CodeType, FrameType, ModuleType

from slipcover import FileMatcher, ImportManager, Slipcover, merge_coverage, print_coverage
from slipcover.branch import preinstrument
from slipcover.importer import SlipcoverLoader

ROOT = Path(__file__).parents[2]
SOURCES = ("services", "core", "localcloud", "app_tier", "web_tier", "ami", "client/fleetsight_client", "scripts")


def measure(sources: Iterable[str]) -> Callable[[], None]:
    """Measure these packages from now on; return the function that writes what has been reached.

    Each process puts probes into the measured modules when it imports them, so measure no package without need.
    """
    SlipcoverLoader.exec_module = _load_measured
    sys._current_frames = _current_frames
    matcher = FileMatcher()
    matcher.addOmit("*/tests/*")
    for source in sources:
        matcher.addSource(str(ROOT / source))
    # After so many calls of probes that have been called before, Slipcover visits all functions to remove such
    # probes. With its default of 50, these visits take longer than the calls that they save.
    probes = Slipcover(d_miss_threshold=1_000, branch=True)
    # Before any of the sources is imported, and until the process ends.
    ImportManager(probes, matcher).__enter__()

    def write() -> None:
        file = Path(os.environ["COVERAGE_DIR"]) / f"{os.getpid()}.json"
        # Renamed when it is whole: a test may kill this process while it writes.
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(probes.get_coverage()), encoding="utf-8")
        unfinished.replace(file)

    return write


def _current_frames(original: Callable[[], dict[int, FrameType]] = sys._current_frames) -> dict[int, FrameType]:
    """Return the frames of all threads, which Slipcover asks for, without a collection of garbage meanwhile.

    Before Python 3.12, a collection in this call ends in a deadlock if it runs Python code, as Hypothesis's callback:
    https://github.com/python/cpython/issues/106883
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return original()
    finally:
        if was_enabled:
            gc.enable()


def _load_measured(loader: SlipcoverLoader, module: ModuleType) -> None:
    """Load a module as Slipcover's loader does, but let the processes of a run compile each file once."""
    source = loader.origin.read_bytes()
    digest = sha256(b"%s\0%s" % (bytes(loader.origin), source)).hexdigest()
    file = Path(os.environ["COVERAGE_DIR"]) / f"{digest}.code"
    try:
        code: CodeType = marshal.loads(file.read_bytes())  # noqa: S302 (a process of this run has written it)
    except OSError:
        code = compile(preinstrument(ast.parse(source)), str(loader.origin), "exec")
        with suppress(OSError):  # of a process that may not write
            unfinished = file.with_suffix(f".{os.getpid()}.unfinished")
            unfinished.write_bytes(marshal.dumps(code))
            unfinished.replace(file)
    loader.sci.register_module(module)
    exec(loader.sci.instrument(code), module.__dict__)  # noqa: S102 (as an import does)


# `sitecustomize` loads this file under another name. The main process of pytest-xdist runs no tests.
if __name__ == "tests.support.coverage" and "PYTEST_XDIST_WORKER" in os.environ:
    write = measure(SOURCES)

    def pytest_sessionfinish() -> None:
        """Write before this process reports its end to pytest-xdist, which kills it 10 seconds later."""
        write()


if __name__ == "__main__":
    folder, minimum = sys.argv[1:]
    # Begins with all files, since those that no process imported count as missed.
    total = Slipcover(branch=True, source=[str(ROOT / source) for source in SOURCES]).get_coverage()
    total["files"] = {name: lines for name, lines in total["files"].items() if "/tests/" not in name}
    for file in Path(folder).glob("*.json"):
        measured = json.loads(file.read_text(encoding="utf-8"))
        # The client is imported by a symbolic link, and `total` has the names of the real files.
        files = measured["files"].items()
        measured["files"] = {os.path.relpath(os.path.realpath(name)): lines for name, lines in files}
        merge_coverage(total, measured)
    print_coverage(total, skip_covered=True)
    summary = total["summary"]
    share = 100 * summary["covered_branches"] / (summary["covered_branches"] + summary["missing_branches"])
    print(f"{share:.1f} % of the branches were taken; at least {minimum} % must be")  # noqa: T201 - a command
    sys.exit(share < float(minimum))
