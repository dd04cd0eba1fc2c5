"""The board: stores what was seen and decided where pages read it, no more often than anyone looks."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from core.config import Fleet as FleetConfig
from core.messages import BillingPeriod, FleetSnapshot, LimitsOverride, WorkerLimits
from web_tier.controller.autoscaler.decide.decide import Plan
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Observation

MIN_SECONDS = 0.25
"""Shortest time between two snapshots."""
MAX_SECONDS = 5.0
"""Longest time between two snapshots: a page tells a silent controller by the snapshot's age."""


class SnapshotStore(Protocol):
    """What is needed of the job store."""

    def put_fleet(self, snapshot: FleetSnapshot) -> None:
        """Store the snapshot over the last one."""


class LimitsSource(Protocol):
    """What is needed of the fleet's limits."""

    @property
    def order(self) -> LimitsOverride | None:
        """What ops have set, if they have."""

    @property
    def configured(self) -> WorkerLimits:
        """What config.yaml says."""


@dataclass
class SnapshotWriter:
    """Shows snapshots: a changed one after `MIN_SECONDS`, an unchanged one after `MAX_SECONDS`.

    Attributes:
        keep_run: stores a run of the fleet that has been followed by another, before the snapshot tells of that.
    """

    store: SnapshotStore
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    keep_run: Callable[[BillingPeriod], None] = lambda _run: None
    _shown: FleetSnapshot | None = field(default=None, init=False)
    _shown_at: float = field(default=float("-inf"), init=False)

    def show(
        self,
        observation: Observation,
        plan: Plan,
        limits: FleetConfig,
        meter: BillingMeter,
        problem: str | None,
        source: LimitsSource | None = None,
    ) -> None:
        """Show one look and what was decided within `limits`, which are from `source`."""
        current = meter.runs.current  # taken first, so that all runs before it are kept before it is shown
        for run in meter.runs.to_keep():
            self.keep_run(run)
            meter.runs.kept(run)
        self._offer(
            FleetSnapshot(
                at=self.now(),
                running=observation.count("running"),
                # What is launching will be pending as soon as EC2 says so.
                pending=observation.supply - observation.count("running"),
                stopped=observation.count("stopped"),
                visible=observation.requests.visible,
                in_flight=observation.requests.in_flight,
                delayed=observation.requests.delayed,
                dead_letters=observation.dead_letters,
                min_workers=limits.min_workers,
                max_workers=limits.max_workers,
                peak_workers=meter.peak_workers,
                billed_seconds=round(meter.billed_seconds, 3),
                cost=round(meter.bill.dollars, 8),
                images=meter.runs.images,
                run=current,
                reason=plan.reason,
                problem=problem,
                paused=observation.paused,
                image_seconds=_to_two_digits(observation.measured.image_seconds),
                boot_seconds=_to_two_digits(observation.measured.boot_seconds),
                policy=limits.policy,
                limits_order=source.order if source else None,
                configured=source.configured if source else None,
            )
        )

    def show_problem(self, problem: str) -> None:
        """Show that there was no look this time, and why; the figures are those of the last."""
        if self._shown is not None:
            self._offer(self._shown.model_copy(update={"at": self.now(), "problem": problem}))

    def _offer(self, snapshot: FleetSnapshot) -> None:
        pause = MIN_SECONDS if self._is_news(snapshot) else MAX_SECONDS
        if self.clock() - self._shown_at >= pause:
            self.store.put_fleet(snapshot)
            self._shown, self._shown_at = snapshot, self.clock()

    def _is_news(self, snapshot: FleetSnapshot) -> bool:
        if self._shown is None:
            return True
        passing = {name: getattr(snapshot, name) for name in ("at", "billed_seconds", "cost", "run")}
        return self._shown.model_copy(update=passing) != snapshot


def _to_two_digits(seconds: float | None) -> float | None:
    """Round, so that a figure which hardly moves is no news."""
    return None if seconds is None else float(f"{seconds:.2g}")
