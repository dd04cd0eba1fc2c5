"""``python -m benchmarks NAME [--quick] [--json FILE]``: run one benchmark; exit status 1 when a bar is missed."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import benchmarks
from benchmarks.report import Report
from scripts.chromium import NoBrowserError

NOT_BENCHMARKS = {
    "__main__",
    "agreement",
    "bare",
    "flood",
    "in_browser",
    "measure",
    "networks",
    "relay",
    "report",
    "running",
    "signed",
    "torch_way",
}
"""Modules that benchmarks are made of."""


def names() -> list[str]:
    """Return the names of the benchmarks: every module here with a ``run``."""
    modules = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)}
    return sorted(modules - NOT_BENCHMARKS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line names.

    Returns:
        0 when every bar is held, 1 when one is missed, 2 when the browser that a benchmark needs is missing.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=names())
    parser.add_argument("--quick", action="store_true", help="fewer rounds; ends within 50 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report here")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="fleet: also draw each trace over time, here")
    options = parser.parse_args(arguments)
    if options.plots is not None and options.name != "fleet":
        parser.error(f"--plots is for the benchmark fleet; {options.name} draws none")
    more = {} if options.plots is None else {"plots": options.plots}
    try:
        report: Report = importlib.import_module(f"benchmarks.{options.name}").run(options.quick, **more)
    except NoBrowserError as error:
        print(f"{options.name}: {error}", file=sys.stderr)
        return 2
    report.show(Console())
    if options.json is not None:
        report.write(options.json)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
