"""The whole system with nothing to do: its CPU time, the AWS requests of an idle hour, and its reaction afterwards.

CPU time is measured before the first image, when no job is open. The requests are those that the local cloud has
counted, with their cost on AWS beside the cost that `core.cost.at_rest` gives for the same settings. The reaction is
the time from an upload to the start of the first worker, for a fleet that has just scaled down and for one at rest,
in turns: fewer requests at rest must not delay the first image.
"""

import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.end_to_end import draw
from benchmarks.measure import Usage, cpu_seconds_between, usages
from benchmarks.report import Bar, Report
from benchmarks.running import PATIENCE_SECONDS, SERVICES, Bench, running
from core.cost import SECONDS_AN_HOUR, Requests, at_rest
from localcloud.clients import ControlClient

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
_KIND: Final = {
    ("s3", "PUT"): "s3_put",
    ("s3", "LIST"): "s3_put",
    ("s3", "GET"): "s3_get",
    ("s3", "HEAD"): "s3_get",
    ("sqs", ""): "sqs",
    ("dynamodb", "PutItem"): "table_write",
    ("dynamodb", "UpdateItem"): "table_write",
    ("dynamodb", "DeleteItem"): "table_write",
    ("dynamodb", "BatchWriteItem"): "table_write",
    ("dynamodb", ""): "table_read",
}
"""The field of `Requests` for a service and an operation, or for all other operations of a service."""
SETTINGS: Final = {"FLEETSIGHT__RETENTION__REPEAT_DAYS": "0"}
"""The same image is sent again and again, and needs a worker each time."""
MAX_CORE: Final = 0.01
MAX_REACTION_RATIO: Final = 1.5
"""Of medians of a few rounds: a poll falls anywhere into its interval, so they differ by a third without a reason."""


@dataclass(frozen=True)
class Reaction:
    """Seconds from the upload of an image until the first worker starts, and until its result."""

    start_s: float
    result_s: float


def run(quick: bool) -> Report:
    """Measure half a minute of rest and eight pairs of reactions; `quick` 15 seconds and two pairs."""
    window = QUICK_WINDOW_SECONDS if quick else WINDOW_SECONDS
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        content = draw(home / "images", 1).files[0].read_bytes()
        with running(home / "system", SETTINGS) as bench:
            cpu, requests = at_idle(bench, window)
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
    figures |= {f"{call}, an hour": count for call, count in sorted(requests.items())}
    dollars = billed(requests).dollars(config.prices)
    figures["dollars_a_month"] = 24 * 30 * dollars
    for name, reactions in (("at_once", at_once), ("rested", rested)):
        figures[f"{name}_start_s"] = statistics.median(each.start_s for each in reactions)
        figures[f"{name}_result_s"] = statistics.median(each.result_s for each in reactions)
    counted, assumed = billed(requests).total, at_rest(config.controller).total
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


def at_idle(bench: Bench, seconds: float) -> tuple[dict[str, float], Counter[str]]:
    """Return the cores that each process uses, and the AWS requests of an hour, by service and operation."""
    _supervise(bench, SETTLE_SECONDS)
    calls, before, began = _calls(bench), _usages(bench), time.monotonic()
    _supervise(bench, seconds)
    after, took, more = _usages(bench), time.monotonic() - began, _calls(bench)
    shares = {name: cpu_seconds_between(before[name], used) / took for name, used in after.items()}
    return shares, Counter({call: round(count * SECONDS_AN_HOUR / took) for call, count in (more - calls).items()})


def billed(calls: Mapping[str, int]) -> Requests:
    """Return the calls, named by service and operation, as AWS bills them: EC2's are free, items below 1 KB."""
    billed_as = Counter[str]()
    for call, count in calls.items():
        service, _, operation = call.partition(" ")
        billed_as[_KIND.get((service, operation), _KIND.get((service, ""), "free"))] += count
    del billed_as["free"]
    return Requests(**billed_as)


def react(bench: Bench, content: bytes) -> Reaction:
    """Send one image to a fleet without workers; return how long its worker and its result take."""
    bench.wait_for_workers(0)
    folder, job = bench.system.state_dir / "instances", bench.api.create_job("idle")
    known, sent = set(folder.glob("*")), time.monotonic()
    deadline = sent + PATIENCE_SECONDS
    bench.api.add_images(job, [("sign.png", content)])

    def wait_until(condition: Callable[[], object], pause: float) -> float:
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the image has no result after {PATIENCE_SECONDS:.0f} s")
            time.sleep(pause)
        return time.monotonic() - sent

    started = wait_until(lambda: set(folder.glob("*")) - known, START_POLL_SECONDS)
    return Reaction(started, wait_until(lambda: bench.api.status(job)["done"], RESULT_POLL_SECONDS))


def _supervise(bench: Bench, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        bench.system.supervisor.failed.wait(min(left, SUPERVISOR_SECONDS))


def _usages(bench: Bench) -> dict[str, dict[int, Usage]]:
    """Return what each process of the system has used; this one stands for `scripts/run.sh`, the supervisor."""
    pids = {name: bench.system.supervisor.pid(name) for name in SERVICES}
    found = {name: usages([pid]) for name, pid in pids.items() if pid is not None}
    return found | {"supervisor": usages([os.getpid()], below=False)}


def _calls(bench: Bench) -> Counter[str]:
    with closing(ControlClient(bench.system.endpoint_url)) as client:
        return Counter(client.get("calls")["calls"])
