"""A campaign: the whole system, while calls fail and processes are killed; afterwards every image is checked.

It starts the system, classifies images without faults, sends them again under faults, ends the faults, and checks.
"""

import json
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from localcloud.clients import ControlClient
from localcloud.options import Switches
from scripts.demo_model.signs import samples
from scripts.run.system import System, free_port
from services.errors import FleetsightError
from tests.chaos.client import ChaosClient, wait_for_results
from tests.chaos.judge import CampaignVerdict, Evidence, check_images
from tests.chaos.strikes import Striker

DISTINCT_IMAGES: Final = 200
"""The number of distinct images; they are sent repeatedly under different names."""

PATIENCE_SECONDS: Final = 240.0
"""After this time without progress once all faults have ended, missing images are lost."""

TRUTH_SECONDS: Final = 60.0
"""The same limit for the classification without faults."""

VISIBILITY_SECONDS: Final = 6

SETTINGS: Final[Mapping[str, str]] = {
    "FLEETSIGHT__QUEUES__VISIBILITY_TIMEOUT_SECONDS": str(VISIBILITY_SECONDS),
    "FLEETSIGHT__CONTROLLER__LEASE_SECONDS": "2",
    "FLEETSIGHT__CONTROLLER__RECONCILE_SECONDS": "2",
    "FLEETSIGHT__CONTROLLER__LOST_AFTER_SECONDS": "15",
    "FLEETSIGHT__WORKER__IDLE_SECONDS": "2",
    "FLEETSIGHT__FLEET__MAX_WORKERS": "4",
}
"""Short times, so that dead processes are replaced soon."""

FAULTS: Final[Sequence[Mapping[str, object]]] = (
    {"kind": "unavailable", "share": 0.02},
    {"kind": "lost_reply", "share": 0.01},
    {"kind": "reset", "share": 0.01},
    {"kind": "repeated", "share": 0.01},
    {"kind": "slow", "seconds": 0.2, "share": 0.02},
    # Between any two calls of a worker and of the controller: between two writes, too.
    {"kind": "killed_before", "tier": "worker", "share": 0.001},
    {"kind": "killed_after", "tier": "worker", "share": 0.001},
    {"kind": "killed_before", "tier": "controller", "share": 0.0005},
    {"kind": "killed_after", "tier": "controller", "share": 0.0005},
    {"kind": "killed_after", "tier": "web", "share": 0.0005},
)
"""The faults of calls without a scenario: seven of a hundred calls fail."""


class ModelError(FleetsightError):
    """Raised when images could not be classified without faults."""


@dataclass
class CampaignReport:
    """The report of a campaign.

    Attributes:
        kills: number of processes killed by kill -9, by a strike or between two calls.
        calls: number of calls to the cloud under faults.
        faulty_calls: number of these calls with a fault.
        evidence: what the system has stored about its results and repairs.
        struck: moments of the strikes, in seconds of the wall clock.
    """

    seed: int
    queues: str
    images: int
    kills: int
    calls: int
    faulty_calls: int
    seconds: float
    verdict: CampaignVerdict
    evidence: Evidence
    struck: Sequence[float] = ()

    @property
    def recoveries(self) -> list[float]:
        """Seconds from each strike to the next new result, if there is one."""
        recorded = self.evidence.recorded
        following = ((strike, bisect_right(recorded, strike)) for strike in self.struck)
        return [recorded[at] - strike for strike, at in following if at < len(recorded)]

    def rows(self) -> list[tuple[str, str]]:
        """Return the names and values of the report's rows."""
        findings = [(str(name), str(count)) for name, count in self.verdict.counts.items()]
        recoveries = self.recoveries
        slowest = f"{max(recoveries):.1f} s" if recoveries else "-"
        usual = f"{median(recoveries):.1f} s" if recoveries else "-"
        repairs = ", ".join(f"{count} {kind}" for kind, count in sorted(self.evidence.repairs.items()))
        return [
            ("seed", str(self.seed)),
            ("queues", self.queues),
            ("images", str(self.images)),
            ("strikes", str(len(self.struck))),
            ("kills, those between two calls included", str(self.kills)),
            ("calls that met a fault", f"{self.faulty_calls / max(1, self.calls):.1%} of {self.calls}"),
            ("seconds", f"{self.seconds:.0f}"),
            ("to the next result after a strike, median", usual),
            ("to the next result after a strike, slowest", slowest),
            ("longest time without a result", f"{self.evidence.longest_silence:.1f} s"),
            ("images that the reconciler repaired", repairs or "0"),
            *(findings or [("lost, doubled, wrong, failed, unexpected, disagreeing, left over, silent", "0")]),
        ]


@dataclass
class Campaign:
    """A campaign; its seed determines it.

    Attributes:
        minutes, images: how long images are sent under faults, and at least how many.
        switches: of the local cloud, set after the classification without faults.
        log: a file of JSON lines about events and their times.
    """

    home: Path
    seed: int
    minutes: float
    images: int
    every_seconds: float
    queues: Literal["standard", "fifo"]
    switches: Mapping[str, Any]
    log: Path
    say: Callable[[str], None]
    _began: float = field(default_factory=time.monotonic)

    def run(self) -> CampaignReport:
        """Run the campaign.

        Raises:
            StartError: the system does not start.
            ModelError: it does not work without faults.
            UnansweredError: the API did not answer a request in time.
        """
        settings = {
            **SETTINGS,
            "FLEETSIGHT__WEB__PORT": str(free_port()),
            "FLEETSIGHT__QUEUES__KIND": self.queues,
            "FLEETSIGHT__METRICS__CONTROLLER_PORT": str(free_port()),
        }
        system = System(self.home, settings)
        self.log.write_text("")
        try:
            system.start()
            return self._run(system)
        finally:
            system.stop()

    def _run(self, system: System) -> CampaignReport:
        self.say(f"classifying {DISTINCT_IMAGES} pictures without faults")
        images = self._true_labels(system)
        self.say("sending images while calls fail and processes die")
        client = ChaosClient(system.api(), images, PATIENCE_SECONDS)
        began, (calls_before, _) = time.monotonic(), _count_calls(system)
        _set_switches(system, {"faults": list(FAULTS), "fault_seed": self.seed, **self.switches})
        self._log_event({"event": "switches", "values": dict(self.switches)})
        striker = Striker(system, self.seed, self.every_seconds, self._log_event)
        striker.start()
        try:
            client.send(lambda sent: sent < self.images or time.monotonic() - began < 60 * self.minutes)
        finally:
            striker.stop()
            calls, faults = _count_calls(system)
            _set_switches(system, Switches().model_dump())
        self.say("every fault is over; checking each image")
        wait_for_results(client, PATIENCE_SECONDS)
        verdict, evidence = check_images(system, client, PATIENCE_SECONDS)
        for example in verdict.examples:
            self._log_event({"event": "finding", "example": example})
        return CampaignReport(
            seed=self.seed,
            queues=self.queues,
            images=len(client.acknowledged),
            kills=striker.kills + faults["killed_before"] + faults["killed_after"],
            calls=calls - calls_before,
            faulty_calls=faults.total(),
            seconds=time.monotonic() - began,
            verdict=verdict,
            evidence=evidence,
            struck=striker.moments,
        )

    def _true_labels(self, system: System) -> list[tuple[bytes, str]]:
        """Return images with the labels that the model gives them without faults."""
        drawn = [sample.data for sample in samples(DISTINCT_IMAGES, self.seed)]
        client = ChaosClient(system.api(), [(data, "") for data in drawn], PATIENCE_SECONDS)
        client.send(lambda sent: sent < DISTINCT_IMAGES)
        wait_for_results(client, TRUTH_SECONDS)
        labels: dict[int, str] = {}
        for job_id in client.jobs:
            for result in client.api.results(job_id):
                if result["status"] == "done":
                    labels[client.acknowledged[str(result["image_id"])][2]] = str(result["label"])
        if len(labels) < DISTINCT_IMAGES:
            raise ModelError(
                f"{DISTINCT_IMAGES - len(labels)} of {DISTINCT_IMAGES} pictures got no label without any fault"
            )
        return [(data, labels[number]) for number, data in enumerate(drawn)]

    def _log_event(self, fields: Mapping[str, Any]) -> None:
        line = {"at": round(time.monotonic() - self._began, 3), **fields}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def _count_calls(system: System) -> tuple[int, Counter[str]]:
    """Return the number of calls to the cloud so far, and their faults by kind."""
    with closing(ControlClient(system.endpoint_url)) as control:
        figures = control.get("calls")
    return sum(figures["calls"].values()), Counter(figures["faults"])


def _set_switches(system: System, switches: Mapping[str, Any]) -> None:
    with closing(ControlClient(system.endpoint_url)) as control:
        control.call("PUT", "switches", dict(switches))
