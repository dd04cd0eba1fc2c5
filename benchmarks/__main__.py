"""``python -m benchmarks NAME [--quick] [--json FILE]``: run one benchmark; exit status 1 when a bar is missed.

``python -m benchmarks peers DIR`` runs the system that DIR describes beside this one.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from app_tier.bundle import BundleError
from benchmarks.report import Report
from scripts.chromium import NoBrowserError
from services.errors import FleetsightError

BENCHMARKS: Final = {
    "aws_costs": "aws_costs.run",
    "capacity": "capacity.run",
    "capacity_check": "capacity_check.run",
    "client": "client.run",
    "coldstart": "coldstart.run",
    "decode": "decode.run",
    "embedded_calls": "embedded_cloud.run_calls",
    "embedded_cloud": "embedded_cloud.run",
    "end_to_end": "end_to_end.run",
    "engine": "engine.run",
    "fairness": "fairness.run",
    "first_run": "first_run.run",
    "fleet": "fleet.run",
    "fleet_runs": "fleet_runs.run",
    "growth": "growth.run",
    "house": "house.run",
    "idle": "idle.run",
    "local_fleet": "fleet_runs.run_local",
    "mutants": "mutants.run",
    "packs": "packs.run",
    "peers": "peers.run",
    "queue_kinds": "fleet_runs.run_queue_kinds",
    "recovery": "recovery.run",
    "s3_job": "s3_job.run",
    "state": "state.run",
    "ten_thousand": "ten_thousand.run",
    "worker": "worker.run",
    "worker_memory": "fleet_runs.run_worker_memory",
}
"""The module and function of each benchmark, by its name."""


def load(name: str) -> Callable[..., Report]:
    """Return the function that runs the benchmark `name`."""
    module, _, function = BENCHMARKS[name].partition(".")
    run: Callable[..., Report] = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return run


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("name", choices=BENCHMARKS)
    options.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="peers: the folder with peer.yaml")
    options.add_argument("--quick", action="store_true", help="fewer rounds; ends within a minute")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the report here")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line names.

    Returns:
        0 when every bar is held, 1 when one is missed, 2 when a benchmark cannot run: what it needs is missing.
    """
    command_line = parser()
    options = command_line.parse_args(arguments)
    if (options.name == "peers") is (options.folder is None):
        command_line.error("peers needs the folder of a peer, python -m benchmarks peers DIR; others take none")
    more = {} if options.folder is None else {"folder": options.folder}
    try:
        report = load(options.name)(options.quick, **more)
    except (NoBrowserError, FleetsightError, BundleError) as error:
        print(f"{options.name}: {error}", file=sys.stderr)
        return 2
    report.show(Console())
    if options.json is not None:
        report.write(options.json)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
