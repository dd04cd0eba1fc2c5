"""The whole system with nothing to do: its CPU time, the AWS requests of an idle hour, and its reaction afterwards.

CPU time is measured before the first image, when no job is open. The requests are those that the local cloud has
recorded, with their cost on AWS beside the cost that `core.cost.at_rest` gives for the same settings. The reaction is
the time from an upload to the start of the first worker, for a fleet that has just scaled down and for one at rest,
in turns: fewer requests at rest must not delay the first image.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.billed_calls import EXTENSION, Billed, Call, Record, recording
from benchmarks.end_to_end import draw
from benchmarks.report import Bar, Report
from benchmarks.running import PATIENCE_SECONDS, Bench, running
from core.cost import SECONDS_AN_HOUR, at_rest

SETTLE_SECONDS: Final = 3.0
WINDOW_SECONDS: Final = 30.0
QUICK_WINDOW_SECONDS: Final = 15.0
RECENT_SECONDS: Final = 1.5
"""How long an active fleet has had no worker: longer than its description is reused."""
REST_SECONDS: Final = 6.0
"""How long a fleet at rest has had no worker."""
ROUNDS: Final = 8
QUICK_ROUNDS: Final = 2
START_POLL_SECONDS: Final = 0.002
RESULT_POLL_SECONDS: Final = 0.02
SUPERVISOR_SECONDS: Final = 0.5
"""Time between two looks of `scripts/run.sh` at its processes, as in its own loop."""
MAX_CORE: Final = 0.01
MAX_REACTION_RATIO: Final = 1.5
"""Of medians of a few rounds: a poll falls anywhere into its interval, so they differ by a third without a reason."""


def run(quick: bool) -> Report:
    """Measure half a minute of rest and eight pairs of reactions; `quick` 15 seconds and two pairs."""
    window = QUICK_WINDOW_SECONDS if quick else WINDOW_SECONDS
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        content = draw(home / "images", 1).files[0].read_bytes()
        with (
            recording(home / "calls") as record,
            running(home / "system", {}, extensions=[EXTENSION]) as bench,
        ):
            cpu, calls = at_idle(bench, record, window)
            react(bench, content)  # the first image of a system loads what it needs
            at_once, rested = [], []
            for _ in range(QUICK_ROUNDS if quick else ROUNDS):
                bench.wait_for_workers(0)
                time.sleep(RECENT_SECONDS)
                at_once.append(react(bench, content))
                time.sleep(REST_SECONDS)
                rested.append(react(bench, content))
            config = bench.system.config
    figures = {f"{name}_core_percent": 100 * share for name, share in cpu.items()}
    figures["all_core_percent"] = 100 * sum(cpu.values())
    figures |= {f"{', '.join(call)}, an hour": billed.calls for call, billed in sorted(calls.items())}
    requests = sum(calls.values(), Billed()).requests
    figures["dollars_a_month"] = 24 * 30 * requests.dollars(config.prices)
    for name, reactions in (("at_once", at_once), ("rested", rested)):
        figures[f"{name}_start_s"] = statistics.median(reactions)
    counted, assumed = requests.total, at_rest(config.controller).total
    bars = (
        Bar("cores that the whole system uses with nothing to do", sum(cpu.values()), at_most=MAX_CORE),
        Bar("billed requests of an idle hour ÷ those of core.cost", counted / assumed, at_least=0.9, at_most=1.1),
        Bar(
            "upload to first worker, after a rest ÷ just after the last worker",
            figures["rested_start_s"] / figures["at_once_start_s"],
            at_most=MAX_REACTION_RATIO,
        ),
    )
    return Report("idle", figures, bars)


def at_idle(bench: Bench, record: Record, seconds: float) -> tuple[dict[str, float], Mapping[Call, Billed]]:
    """Return the cores that each process uses, and the billed calls of an hour.

    This process stands for `scripts/run.sh`, the supervisor.
    """
    _supervise(bench, SETTLE_SECONDS)
    record.take()
    took, used = bench.used_during(lambda: _supervise(bench, seconds))
    calls = {call: billed * (SECONDS_AN_HOUR / took) for call, billed in record.take().items()}
    shares = {("supervisor" if name == "client" else name): cpu / took for name, cpu in used.items()}
    return shares, calls


def react(bench: Bench, content: bytes) -> float:
    """Send one image to a fleet without workers; return the seconds until its worker starts.

    Raises:
        TimeoutError: it has no result after `PATIENCE_SECONDS`.
    """
    bench.wait_for_workers(0)
    folder, job = bench.system.state_dir / "instances", bench.api.create_job("idle")
    known, sent = set(folder.glob("*")), time.monotonic()
    started = 0.0
    bench.api.add_images(job, [("sign.png", content)])
    while not (started and bench.api.status(job)["done"]):
        if time.monotonic() > sent + PATIENCE_SECONDS:
            raise TimeoutError(f"the image has no result after {PATIENCE_SECONDS:.0f} s")
        if not started and set(folder.glob("*")) - known:
            started = time.monotonic() - sent
        time.sleep(RESULT_POLL_SECONDS if started else START_POLL_SECONDS)
    return started


def _supervise(bench: Bench, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        bench.system.supervisor.failed.wait(min(left, SUPERVISOR_SECONDS))
