"""One run from start to end: the system comes up, a batch goes through it, and it serves until told to stop."""

import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from app_tier.bundle.errors import BundleError
from app_tier.bundle.load import load_bundle
from app_tier.bundle.s3 import in_s3
from scripts.client import ApiClient, ApiError
from scripts.run.batch import Batch, InterruptedBatchError, Summary
from scripts.run.cost import Cost, cost_of
from scripts.run.display import LiveBar, show_summary
from scripts.run.images import Images
from scripts.run.sign_in import MailSlot, how_to_sign_in
from scripts.run.system import ROOT, StartError, System

FLEET_END_SECONDS = 30.0
"""With --once: how long after its last image the fleet may take to end itself, beyond the workers' idle time."""

COST_SECONDS = 3.0
"""How long the summary waits for the bill of workers that have answered."""

FIGURES = (
    *("job_id", "started_at", "images", "right", "wrong", "failed", "lost"),
    *("images_per_second", "peak_workers", "first_result_s", "last_result_s"),
)
"""What of a summary `--json` writes."""


@dataclass
class Session:
    """A system and the batch that is sent through it; `stop` is set when the command is told to end."""

    system: System
    images: Images
    console: Console
    stop: threading.Event
    client: ApiClient = field(init=False)
    _mails: MailSlot = field(init=False)

    def __post_init__(self) -> None:
        """Make the client of the page to come; with sign-in it gets a user at the start."""
        self.client = self.system.api()
        self._mails = MailSlot(self.system.mails, self._print)

    def run(self, *, once: bool, json_file: Path | None) -> int:
        """Run everything; return the exit status.

        Raises:
            StartError: when the system does not come up, or ends by itself.
            InterruptedBatchError: when told to stop in the middle of the batch.
            ApiError: when the API refuses the batch for good.
        """
        try:
            self._start()
            summary = self._classify()
            self._report(summary, json_file)
            if once:
                self._await_the_fleet_end(FLEET_END_SECONDS + self.system.config.worker.idle_seconds)
                return 0 if summary.ok else 1
            self._serve(summary)
            return 0
        finally:
            self.client.close()
            self.system.stop()

    def _start(self) -> None:
        self._check_bundle()
        if self.system.config.worker.engine == "torch":
            subprocess.run([str(ROOT / "scripts" / "setup.sh"), "run", "torch"], check=True)
        self.system.start()
        self.client = self.system.api()
        count = len(self.images.files)
        self.console.print(f"Fleetsight is at {self.system.url}. {count} images are on their way through it.")
        if self.system.sign_in is not None:
            self._print(how_to_sign_in(self.system.sign_in))
        if self.system.switches:
            self._print(f"The local cloud is at {self.system.endpoint_url}: {', '.join(self.system.switches)}")

    def _print(self, sentence: str) -> None:
        """Print what may hold anything, in one line that can be copied."""
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _check_bundle(self) -> None:
        """Find out now what every worker would find out, refuse, and be replaced for."""
        bundle = self.system.config.worker.bundle
        try:
            if place := in_s3(bundle):
                raise StartError(
                    f"worker.bundle: {place} cannot be here, where buckets begin empty: name a folder or zip"
                )
            load_bundle(ROOT / bundle)
        except BundleError as error:
            raise StartError(f"worker.bundle: {error}") from error

    def _classify(self) -> Summary:
        with LiveBar(self.console) as bar:
            try:
                # Kept, or the page of the first batch would show a placeholder for each image.
                return Batch(self.client, self.images, bar.show, self._interrupted, keep=True).run()
            except InterruptedBatchError:
                self._check()
                raise

    def _interrupted(self) -> bool:
        return self.stop.is_set() or self.system.supervisor.failed.is_set()

    def _check(self) -> None:
        """Raise `StartError` once the system has ended by itself."""
        if self.system.supervisor.failed.is_set():
            raise StartError(self.system.supervisor.failure)

    def _report(self, summary: Summary, json_file: Path | None) -> None:
        cost = self._cost(summary.job_id)
        show_summary(self.console, summary, cost)
        if json_file is not None:
            figures = {name: getattr(summary, name) for name in FIGURES}
            json_file.write_text(json.dumps({**figures, "cost_dollars": round(cost.dollars, 6)}, indent=2) + "\n")

    def _cost(self, job_id: str) -> Cost:
        """Return what the batch has cost; the controller tells of its instances a look after the last answer."""
        deadline = time.monotonic() + COST_SECONDS
        while True:
            cost = cost_of(self.client.status(job_id))
            is_told = cost.billed_seconds > 0 or not cost.requests_dollars
            if is_told or time.monotonic() > deadline or self.stop.wait(0.1):
                return cost

    def _serve(self, summary: Summary) -> None:
        self.console.print(f"The page is at {self.system.url}")
        self.console.print(f"This batch is at {self.system.url}/jobs/{summary.job_id}")
        self.console.print("Everything is in this command's memory and ends with it: Ctrl-C.")
        self._await_the_fleet_end(float("inf"))
        while not self.stop.wait(0.5):
            self._check()
            self._show_mails()

    def _show_mails(self) -> None:
        if self.system.sign_in is not None:
            self._mails.empty()

    def _await_the_fleet_end(self, seconds: float) -> None:
        """Wait up to `seconds` until the workers have ended themselves, and say so."""
        started = time.monotonic()
        while (waited := time.monotonic() - started) < seconds:
            if self.stop.wait(0.1):
                return
            self._check()
            self._show_mails()
            if ended := self._fleet_ended():
                self.console.print(f"The fleet ended itself: {ended} in {waited:.1f} s.")
                return
        self.console.print(f"The fleet has not ended itself within {seconds:.0f} s; it ends with this command.")

    def _fleet_ended(self) -> str | None:
        """Return the peak and the present number of workers once it is at its minimum; None before."""
        try:
            fleet = self.client.fleet()
        except ApiError:
            return None  # the web tier is being started again
        if fleet is None or fleet["running"] + fleet["pending"] > self.system.config.fleet.min_workers:
            return None
        return f"{fleet['peak_workers']} → {fleet['running']}"
