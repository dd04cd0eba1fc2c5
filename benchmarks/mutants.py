"""Share of mutants that the unit tests kill, in the modules that decide, accept, record and reconcile.

A mutant is the program with one operator, constant or argument changed. mutmut makes them all and runs for each the
tests that reach the changed function; a mutant is killed if one of them fails or does not end. `[tool.mutmut]` in
pyproject.toml names the modules and the tests. Results are kept in `mutants/`: another run repeats only what has
changed since. `.venv/bin/python -m mutmut show NAME` prints a surviving mutant.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

from benchmarks.house import ROOT
from benchmarks.report import Bar, Report

AREAS = {
    "decision": ("autoscaler.decide.", "autoscaler.deadline.", "autoscaler.policies."),
    "acceptance": ("uploads.ingest.",),
    "recording": ("controller.job_counts.", "controller.result_recorder."),
    "reconciling": ("controller.reconciler.", "controller.lost_images."),
}
"""The modules of each area, in the package `web_tier`."""

KILLED = frozenset({"killed", "timeout"})
MIN_KILLED = 0.85


def run(quick: bool) -> Report:
    """Make the mutants and test them, which takes some minutes; with `quick` only those of `find_lost`.

    Raises:
        RuntimeError: mutmut could not test the mutants.
    """
    only = ["web_tier.controller.lost_images.x_find_lost*"] if quick else []
    done = subprocess.run(
        (sys.executable, "-m", "mutmut", "run", *only), cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise RuntimeError(f"mutmut failed:\n{done.stdout.decode()[-2000:]}")
    listed = subprocess.run(
        (sys.executable, "-m", "mutmut", "results", "--all", "true"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    results = list(parse_results(listed.splitlines()))
    print("\n".join(f"{status}: {name}" for name, status in results if status not in KILLED))
    counts = {area: Counter(status for name, status in results if name.startswith(prefixes(area))) for area in AREAS}
    tested = {area: count for area, count in counts.items() if count}
    figures = {f"mutants of the {area}": float(count.total()) for area, count in tested.items()}
    bars = [
        Bar(
            f"{area}: share of killed mutants",
            sum(count[each] for each in KILLED) / count.total(),
            at_least=MIN_KILLED,
        )
        for area, count in tested.items()
    ]
    return Report("mutants", figures, tuple(bars))


def prefixes(area: str) -> tuple[str, ...]:
    """Return what the names of an area's mutants begin with."""
    return tuple(f"web_tier.{module}" for module in AREAS[area])


def parse_results(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Yield name and status of each mutant that was tested, from the output of `mutmut results`."""
    for line in lines:
        name, _, status = line.strip().partition(": ")
        if status and status != "not checked":
            yield name, status
