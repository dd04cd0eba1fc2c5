"""``python -m benchmarks NAME [--quick] [--json FILE] [--write]``: run one benchmark.

The exit status is 1 when a bar is missed. Without a name it prints the names.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.report import Report
from services.errors import FleetsightError

BENCHMARKS: Final = {
    "capacity": "images a second that one controller records, for 1, 20 and 100 jobs",
    "coldstart": "a worker's start to its first prediction, beside torch",
    "cost": "the calls to AWS for a million images, by component and operation, with their price",
    "end_to_end": "batches of 100 and 2,000 images and their forecasts, also with a state, and single images",
    "fleet": "the policies of the fleet in simulated time, with the bars of their costs",
    "growth": "jobs of 1,000, 10,000 and 100,000 images: time, CPU and memory of an image",
    "idle": "CPU time and AWS requests of a system with nothing to do",
    "photos": "photos through API, command and browser, beside a bare pipeline",
}
"""What each benchmark measures, by its module."""

OPTIONAL_PACKAGES: Final = {
    "coldstart": ("torch", ("torch", "torchvision")),
    "cost": ("test", ("playwright",)),
    "photos": ("test", ("playwright",)),
}
"""The section of requirements/ that a benchmark needs beside `run`, and the packages of that section."""


class MissingPackageError(FleetsightError):
    """Raised when a benchmark needs a package that is not installed; the message says how to install it."""


def load(name: str) -> Callable[[bool], Report]:
    """Return the function that runs the benchmark `name`.

    Raises:
        MissingPackageError: a package that it needs is not installed.
    """
    section, packages = OPTIONAL_PACKAGES.get(name, ("", ()))
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackageError(f"not installed: {', '.join(missing)}; run ./scripts/setup.sh run {section}")
    run: Callable[[bool], Report] = importlib.import_module(f"benchmarks.{name}").run
    return run


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run one benchmark. The exit status is 1 when a bar is missed, 2 when the benchmark cannot run.",
        epilog="\n".join(["benchmarks:", *(f"  {name:<11} {what}" for name, what in BENCHMARKS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("name", nargs="?", choices=BENCHMARKS, metavar="NAME", help="one of the names below")
    options.add_argument("--quick", action="store_true", help="fewer rounds; ends within two minutes")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the report here")
    options.add_argument("--write", action="store_true", help="also put the tables of `cost` into the documentation")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line names, or print the names if it names none.

    Returns:
        0 when every bar is held, 1 when one is missed, 2 when a benchmark cannot run: what it needs is missing.
    """
    command_line = parser()
    options = command_line.parse_args(arguments)
    if options.name is None:
        command_line.print_help()
        return 0
    if options.write and (options.name != "cost" or options.quick):
        command_line.error("--write needs a whole run of `cost`: the documentation has tables of no other")
    try:
        report = load(options.name)(options.quick)
    except FleetsightError as error:
        print(f"{options.name}: {error}", file=sys.stderr)
        return 2
    report.show(Console())
    if options.json is not None:
        report.write(options.json)
    if options.write and report.part is not None:
        report.part.write()
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
