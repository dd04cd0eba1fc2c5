"""One campaign: start the system, learn the truth without faults, send images under faults, heal, check."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from localcloud.clients import ControlClient
from localcloud.options import Switches
from scripts.chaos.check import Progress, Verdict, check
from scripts.chaos.client import Client
from scripts.chaos.strikes import Striker
from scripts.demo_model.signs import samples
from scripts.run.system import System, free_port
from services.errors import FleetsightError

PICTURES: Final = 200
"""Distinct pictures; they are sent again and again under names of their own."""

PATIENCE_SECONDS: Final = 240.0
"""Without progress for so long once every fault is over, what is missing is lost."""

TRUTH_SECONDS: Final = 60.0
"""The same while nothing is broken."""

VISIBILITY_SECONDS: Final = 6
SETTINGS: Final[Mapping[str, str]] = {
    "FLEETSIGHT__QUEUES__VISIBILITY_TIMEOUT_SECONDS": str(VISIBILITY_SECONDS),
    "FLEETSIGHT__CONTROLLER__LEASE_SECONDS": "2",
    "FLEETSIGHT__CONTROLLER__RECONCILE_SECONDS": "2",
    "FLEETSIGHT__CONTROLLER__LOST_AFTER_SECONDS": "15",
    "FLEETSIGHT__WORKER__IDLE_SECONDS": "2",
    "FLEETSIGHT__FLEET__MAX_WORKERS": "4",
    # Every image is to reach a worker: the same pictures are sent again and again.
    "FLEETSIGHT__RETENTION__REPEAT_DAYS": "0",
}
"""Short times, so that what dies is soon replaced."""

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
"""What calls meet where no scenario says otherwise: seven of a hundred."""


class ModelError(FleetsightError):
    """Raised when pictures could not be classified while nothing was broken."""


@dataclass
class Report:
    """What a campaign did and found.

    Attributes:
        kills: processes that were killed by kill -9, by a strike or between two calls.
        calls: calls to the cloud while there were faults.
        faulty_calls: how many of these met a fault.
        recoveries: seconds from each strike to the next new result, in order.
    """

    seed: int
    queues: str
    images: int
    strikes: int
    kills: int
    calls: int
    faulty_calls: int
    seconds: float
    verdict: Verdict
    recoveries: Sequence[float] = ()

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of the table: name and value."""
        found = [(str(name), str(count)) for name, count in self.verdict.counts.items()]
        slowest = f"{max(self.recoveries):.1f} s" if self.recoveries else "-"
        usual = f"{median(self.recoveries):.1f} s" if self.recoveries else "-"
        return [
            ("seed", str(self.seed)),
            ("queues", self.queues),
            ("images", str(self.images)),
            ("strikes", str(self.strikes)),
            ("kills, those between two calls included", str(self.kills)),
            ("calls that met a fault", f"{self.faulty_calls / max(1, self.calls):.1%} of {self.calls}"),
            ("seconds", f"{self.seconds:.0f}"),
            ("to the next result after a strike, median", usual),
            ("to the next result after a strike, slowest", slowest),
            *(found or [("lost, doubled, wrong, failed, unexpected, disagreeing, left over", "0")]),
        ]


@dataclass
class Campaign:
    """A campaign, from its seed.

    Attributes:
        minutes, images: for how long images are sent under faults, and how many at least.
        switches: of the local cloud, turned once the truth is known.
        log: a file of JSON lines: what was done, and when.
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

    def run(self) -> Report:
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
        }
        system = System(self.home, settings)
        self.log.write_text("")
        try:
            system.start()
            return self._run(system)
        finally:
            system.stop()

    def _run(self, system: System) -> Report:
        self.say(f"classifying {PICTURES} pictures without faults")
        pictures = self._truth(system)
        self.say("sending images while calls fail and processes die")
        client = Client(system.api(), pictures, PATIENCE_SECONDS)
        began, (calls_before, _) = time.monotonic(), _counted(system)
        _turn(system, {"faults": list(FAULTS), "fault_seed": self.seed, **self.switches})
        self._note({"event": "switches", "values": dict(self.switches)})
        striker = Striker(system, self.seed, self.every_seconds, self._note)
        progress = Progress(client)
        striker.start()
        progress.start()
        try:
            ends = began + 60 * self.minutes
            client.send(lambda sent: sent < self.images or time.monotonic() < ends)
        finally:
            striker.stop()
            calls, faults = _counted(system)
            _turn(system, asdict(Switches()))
        self.say("every fault is over; checking each image")
        progress.wait(PATIENCE_SECONDS)
        progress.stop()
        verdict = check(system, client, PATIENCE_SECONDS)
        for example in verdict.examples:
            self._note({"event": "finding", "example": example})
        return Report(
            seed=self.seed,
            queues=self.queues,
            images=len(client.acknowledged),
            strikes=len(striker.moments),
            kills=striker.kills + faults["killed_before"] + faults["killed_after"],
            calls=calls - calls_before,
            faulty_calls=faults.total(),
            seconds=time.monotonic() - began,
            verdict=verdict,
            recoveries=_recoveries(striker.moments, progress.moments),
        )

    def _truth(self, system: System) -> list[tuple[bytes, str]]:
        """Return pictures with the labels that the model gives them while nothing is broken."""
        drawn = [sample.data for sample in samples(PICTURES, self.seed)]
        client = Client(system.api(), [(data, "") for data in drawn], PATIENCE_SECONDS)
        progress = Progress(client)
        progress.start()
        client.send(lambda sent: sent < PICTURES)
        progress.wait(TRUTH_SECONDS)
        progress.stop()
        labels: dict[int, str] = {}
        for job_id in client.jobs:
            for result in client.api.results(job_id):
                if result["status"] == "done":
                    labels[client.acknowledged[str(result["image_id"])][2]] = str(result["label"])
        if len(labels) < PICTURES:
            raise ModelError(f"{PICTURES - len(labels)} of {PICTURES} pictures got no label without any fault")
        return [(data, labels[number]) for number, data in enumerate(drawn)]

    def _note(self, fields: Mapping[str, Any]) -> None:
        line = {"at": round(time.monotonic() - self._began, 3), **fields}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def _recoveries(strikes: Sequence[float], progress: Sequence[float]) -> list[float]:
    """Return the seconds from each strike to the next moment of progress, as far as there is one."""
    following = ((strike, [moment for moment in progress if moment > strike]) for strike in strikes)
    return [moments[0] - strike for strike, moments in following if moments]


def _counted(system: System) -> tuple[int, Counter[str]]:
    """Return how many calls the cloud has had so far, and how many of them met each kind of fault."""
    with closing(ControlClient(system.endpoint_url)) as control:
        figures = control.get("calls")
    return sum(figures["calls"].values()), Counter(figures["faults"])


def _turn(system: System, switches: Mapping[str, Any]) -> None:
    with closing(ControlClient(system.endpoint_url)) as control:
        control.send("PUT", "switches", dict(switches))
