"""A permanent fault in the middle of a campaign: no worker may store a prediction, until an operator repairs that."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import requests

from core.fleet.models import CircuitState
from fleetsight_client.api import ApiError
from scripts.run.system import System
from tests.chaos.judge import CampaignVerdict, controller_log

RULE: Final = {"kind": "denied", "service": "s3", "operation": "PUT", "tier": "worker"}
POLL_SECONDS: Final = 1.0

MAX_LAUNCHES: Final = 10
"""Launches while the fault lasts: those of the workers that were wanted, and one probe a minute."""

MAX_REPORT_SECONDS: Final = 60.0
"""Time after which API, metrics and log must say what is wrong."""

PROBE_SECONDS: Final = 75.0
"""Time after the repair until the next probe has started and answered."""


@dataclass
class PermanentFault:
    """The fault, once it was switched on.

    Attributes:
        reported: seconds until each place reported it.
        launches: instances that were launched while it lasted.
        lasted: when it began and when its consequences must have ended, in seconds of the wall clock.
    """

    system: System
    metrics_url: str
    reported: dict[str, float] = field(default_factory=dict)
    launches: int = 0
    lasted: tuple[float, float] = (0.0, 0.0)

    def watch(self, seconds: float) -> None:
        """Watch the system for so long."""
        began, before = time.time(), self._instances()
        log_size = controller_log(self.system).stat().st_size
        places: dict[str, Callable[[], bool]] = {
            "/api/v1/fleet": lambda: bool(self._reason()),
            "metrics": self._is_in_metrics,
            "log": lambda: self._is_in_log(log_size),
        }
        while (now := time.time() - began) < seconds:
            for place, is_reported in places.items():
                with suppress(ApiError, OSError):  # the place does not answer just now
                    if place not in self.reported and is_reported():
                        self.reported[place] = now
            time.sleep(POLL_SECONDS)
        self.launches = self._instances() - before
        self.lasted = began, time.time() + PROBE_SECONDS

    def await_answer(self) -> None:
        """Wait until the fleet's circuit is closed, or `PROBE_SECONDS` have passed.

        A strike before that would kill the only worker, the probe.
        """
        until = time.time() + PROBE_SECONDS
        while time.time() < until:
            with suppress(ApiError, OSError):
                if (self.system.api().fleet() or {}).get("circuit", {}).get("state") == CircuitState.CLOSED:
                    return
            time.sleep(POLL_SECONDS)

    def judge(self, verdict: CampaignVerdict) -> None:
        """Add what was wrong while the fault lasted."""
        if self.launches > MAX_LAUNCHES:
            verdict.add("launched too often", f"{self.launches} times in a permanent fault")
        for place in ("/api/v1/fleet", "metrics", "log"):
            seconds = self.reported.get(place)
            if seconds is None or seconds > MAX_REPORT_SECONDS:
                after = "at all" if seconds is None else f"for {seconds:.0f} s"
                verdict.add("not reported", f"{place} did not report the permanent fault {after}")

    def _instances(self) -> int:
        """Return how many instances were ever launched."""
        return len(list((self.system.state_dir / "instances").glob("*")))

    def _reason(self) -> str:
        """Return what the workers say of the fault, if the API reports it as the fleet's problem."""
        fleet: Mapping[str, Any] = self.system.api().fleet() or {}
        reason = str(fleet.get("circuit", {}).get("reason", ""))
        return reason if "PutObject" in reason and reason in (fleet.get("problem") or "") else ""

    def _is_in_metrics(self) -> bool:
        lines = requests.get(self.metrics_url, timeout=POLL_SECONDS).text.splitlines()
        return any(line.startswith("fleetsight_circuit_open 1") for line in lines)

    def _is_in_log(self, start: int) -> bool:
        reason = self._reason()
        with controller_log(self.system).open(encoding="utf-8", errors="replace") as log:
            log.seek(start)
            return bool(reason) and reason in log.read()
