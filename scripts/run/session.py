"""One run from start to end: the system starts, classifies a batch, and serves until it is stopped."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app_tier.bundle import Bundle
from core.format import plural
from fleetsight_client.api import ApiClient, ApiError
from fleetsight_client.console import Console
from fleetsight_client.retries import GaveUpError, PatientCalls, StoppedError
from scripts.client import FleetClient
from scripts.run.batch import (
    PATIENCE_SECONDS,
    AwsCost,
    Batch,
    BatchProgress,
    BatchSummary,
    InterruptedBatchError,
    job_cost,
)
from scripts.run.images import ImageSet
from scripts.run.sign_in import sign_in_instructions
from scripts.run.system import ROOT, StartError, System

FLEET_END_SECONDS = 30.0
"""With --once: the longest wait for the fleet to scale down after the last image, beyond the workers' idle time."""

COST_SECONDS = 3.0
"""The longest wait of the summary until the cost of the workers is known."""

JSON_FIELDS = (
    *("job_id", "started_at", "images", "right", "wrong", "no_truth", "failed", "lost"),
    *("images_per_second", "peak_workers", "first_result_s", "last_result_s"),
)
"""Fields of the summary that `--json` writes."""


class LiveBar(Progress):
    """Shows the progress of a batch: a bar on a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            BarColumn(bar_width=18),  # the whole line fits into 80 columns
            TextColumn(
                "uploaded {task.fields[batch].uploaded:>3} waiting {task.fields[batch].waiting:>3} "
                "classified {task.fields[batch].classified:>3} workers {task.fields[batch].workers:>2}"
            ),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._last_line = ""
        self._batch = self.add_task("batch", total=None, batch=BatchProgress(total=0))

    def show(self, progress: BatchProgress) -> None:
        """Show the progress."""
        self.update(self._batch, total=progress.total, completed=progress.classified, batch=progress)
        line = (
            f"uploaded {progress.uploaded} of {progress.total}, waiting {progress.waiting}, "
            f"classified {progress.classified}, workers {progress.workers}"
        )
        if self.disable and line != self._last_line:
            print(line, file=sys.stdout, flush=True)
        self._last_line = line


def show_summary(console: Console, summary: BatchSummary, cost: AwsCost, truth_source: str = "") -> None:
    """Print a table of the batch's results, then its first wrong and failed images."""
    title = f"{summary.images} images, {summary.model}{truth_source and f', true labels from {truth_source}'}"
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    if summary.right is None:
        verdicts = [(label, str(count)) for label, count in summary.labels.most_common(10)]
    else:
        verdicts = [("right", str(summary.right)), ("wrong", str(summary.wrong))]
    if summary.no_truth:
        verdicts.append(("no true label", str(summary.no_truth)))
    for row in (
        *verdicts,
        ("failed", str(summary.failed)),
        ("lost", str(summary.lost)),
        ("images/s", f"{summary.images_per_second:.1f}"),
        ("peak workers", str(summary.peak_workers)),
        ("first result", f"{summary.first_result_s:.2f} s"),
        ("last result", f"{summary.last_result_s:.2f} s"),
        ("would have cost", str(cost)),
    ):
        table.add_row(*row)
    console.print(table)
    for name, true, answered in summary.mistakes[:10]:
        console.print(f"wrong: {name} is {true!r}, answered {answered!r}")
    for name, reason in summary.failures[:10]:
        console.print(f"failed: {name}: {reason}")


@dataclass
class RunSession:
    """A system and a batch that it classifies, if there are `images`.

    Attributes:
        instructions: returns what else to print once the system has started.
        offered: a bundle that jobs may name beside the configured one.
        is_batch_for_offered: whether the batch names it.
    """

    system: System
    images: ImageSet | None
    console: Console
    stop: threading.Event
    instructions: Callable[[System], str] | None = None
    offered: Bundle | None = None
    is_batch_for_offered: bool = False
    client: ApiClient = field(init=False)
    _batch_model: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Create the client of the API; with a development provider, `run` replaces it by the operator's client."""
        self.client = self.system.api()

    def run(self, *, once: bool = False, json_file: Path | None = None) -> int:
        """Run everything; return the exit status.

        Args:
            once: end after the batch.
            json_file: file for the summary.

        Raises:
            StartError: the system does not start, or ends by itself.
            InterruptedBatchError: the command was stopped before the end of the batch.
            ApiError: the API rejects the batch at every attempt.
        """
        try:
            self._start()
            if self.images is not None:
                summary = self._classify(self.images)
                cost = self._cost(summary.job_id)
                show_summary(self.console, summary, cost, self.images.truth_source)
                if json_file is not None:
                    figures = {name: getattr(summary, name) for name in JSON_FIELDS}
                    figures["cost_dollars"] = round(cost.dollars, 6)
                    json_file.write_text(json.dumps(figures, indent=2) + "\n")
                if once:
                    self._await_scale_down(FLEET_END_SECONDS + self.system.config.worker.idle_seconds)
                    return 0 if summary.ok else 1
                self._print(f"The page is at {self.system.url}")
                self._print(f"This job is at {self.system.url}/jobs/{summary.job_id}")
            state = self.system.state
            kept = "nothing is saved" if state is None else f"everything stays in {state.folder.path}"
            self._print(f"Press Ctrl-C to stop; {kept}.")
            if self.images is not None:
                self._await_scale_down(float("inf"))
            while not self.stop.wait(0.5):
                self._check()
            return 0
        finally:
            self.client.close()
            self.system.stop()

    def _start(self) -> None:
        if self.system.config.worker.engine == "torch":
            subprocess.run([str(ROOT / "scripts" / "setup.sh"), "run", "torch"], check=True)
        self.system.start()
        self.client = self.system.api()
        batch = f" Classifying {plural(len(self.images.files), 'image')}." if self.images is not None else ""
        self._print(f"Fleetsight is at {self.system.url}.{batch}")
        self._print(self.system.fleet_words)
        if (issuer := self.system.config.auth.issuer) is not None:
            self._print(sign_in_instructions(issuer, self.system.token))
        if self.instructions is not None:
            self._print(self.instructions(self.system))
        if self.offered is not None:
            self._offer(self.offered)
        if self.system.switches:
            self._print(f"The local cloud is at {self.system.endpoint_url}: {', '.join(self.system.switches)}")

    def _offer(self, bundle: Bundle) -> None:
        """Offer a bundle to jobs beside the model of new jobs.

        Raises:
            InterruptedBatchError: the command was stopped.
            StartError: the batch needs it, and the API rejects it or does not answer for `PATIENCE_SECONDS`.
        """
        calls = PatientCalls(self.stop, patience_seconds=PATIENCE_SECONDS)
        with closing(FleetClient(self.system.url, token=self.client.token)) as operator:
            try:
                name = str(calls.call(lambda: operator.add_model(str(bundle.folder.absolute()), None))["name"])
                default = calls.call(operator.models)["default"]
            except StoppedError as error:
                raise InterruptedBatchError("the start was interrupted") from error
            except (ApiError, GaveUpError) as error:
                problem = f"the model {bundle.name} is not offered: {error}"
                if self.is_batch_for_offered:  # another model would answer the batch wrongly
                    raise StartError(problem) from error
                self._print(f"fleetsight: {problem}")
                return
        self._batch_model = name if self.is_batch_for_offered else None
        self._print(f"Models: {default} for new jobs, {name} {'for this job' if self._batch_model else 'by name'}.")

    def _print(self, sentence: str) -> None:
        """Print arbitrary text unwrapped, so that it can be copied."""
        self.console.print(sentence, soft_wrap=True)

    def _classify(self, images: ImageSet) -> BatchSummary:
        failed = self.system.supervisor.failed
        with LiveBar(self.console) as bar:
            # The images are kept: else the page of the first batch would show placeholders.
            batch = Batch(
                self.client,
                images,
                bar.show,
                lambda: self.stop.is_set() or failed.is_set(),
                keep=True,
                model=self._batch_model,
            )
            try:
                return batch.run()
            except InterruptedBatchError:
                self._check()
                raise

    def _check(self) -> None:
        """Raise `StartError` if the system has ended by itself."""
        if self.system.supervisor.failed.is_set():
            raise StartError(self.system.supervisor.failure)

    def _cost(self, job_id: str) -> AwsCost:
        """Return the cost of the batch; the controller publishes it a moment after the last result."""
        deadline, cost, is_known = time.monotonic() + COST_SECONDS, AwsCost(), False
        while True:
            with suppress(ApiError):  # the supervisor restarts the web tier
                cost = job_cost(self.client.status(job_id))
                is_known = cost.billed_seconds > 0 or not cost.requests_dollars
            if is_known or time.monotonic() > deadline or self.stop.wait(0.1):
                return cost

    def _await_scale_down(self, seconds: float) -> None:
        """Wait up to `seconds` until the fleet has scaled down to its minimum, and report it."""
        started = time.monotonic()
        while (waited := time.monotonic() - started) < seconds:
            if self.stop.wait(0.1):
                return
            self._check()
            try:
                fleet = self.client.fleet()
            except ApiError:
                continue  # the supervisor restarts the web tier
            if fleet is not None and fleet["running"] + fleet["pending"] <= self.system.config.fleet.min_workers:
                self._print(f"Fleet scaled down to {fleet['running']} in {waited:.1f} s.")
                return
        self._print(f"The fleet has not scaled down within {seconds:.0f} s; it ends with this command.")
