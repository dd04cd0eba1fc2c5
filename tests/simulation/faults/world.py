"""A fleet under faults: the product's autoscaler, simulated EC2 and queues, and what must never happen.

Time passes second by second. A controller may be killed or frozen at any of its calls; another acquires the lease
once it has expired. A frozen controller resumes afterwards as if nothing had happened.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, get_args

from botocore.exceptions import BotoCoreError, ClientError

from core.config import FleetSettings
from core.fleet.models import FleetPause
from services.ec2 import VERSION_TAG
from services.errors import FleetsightError
from tests.simulation.faults.cloud import LATE_SECONDS, Cloud, Faults
from tests.simulation.faults.controller import InMemoryFleetStore, SimulatedController, Site
from tests.simulation.faults.machines import FailureMode, SimulatedInstance, SimulatedQueues
from tests.simulation.fleet.engine import kept_without_work
from tests.support.autoscaler import fleet_settings
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.loop import Autoscaler

ROOT: Final = Path(__file__).resolve().parents[3]
LEASE_SECONDS: Final = 5.0
IMAGE_SECONDS: Final = 3.0
IDLE_SECONDS: Final = 10.0
AFTERWARDS_SECONDS: Final = 600.0
"""After the last answer: by then nothing without purpose may be left."""
PATIENCE_SECONDS: Final = 7_200.0
"""Longest that images may take once every fault is over."""

Moment = Literal["before", "after"]
Kind = Literal["beyond the maximum", "ended although well", "left or never answered"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never happen, and when it did."""

    kind: Kind
    words: str


class KilledError(BaseException):
    """Raised in the middle of a call: the process of the controller is gone."""


@dataclass(frozen=True, slots=True)
class CrashPlan:
    """What befalls the controller at one of its next calls.

    Attributes:
        operation: at the next call of it.
        moment: before it takes place, or after.
        frozen_seconds: for so long it stands still; 0: it dies.
    """

    operation: str
    moment: Moment = "before"
    frozen_seconds: float = 0.0


class World:
    """Everything, at one moment.

    Attributes:
        violations: what happened that must never happen.
        crash_plan: what befalls the controller next, if anything.
        failure_modes: of boots, one drawn at random for each.

    `hourly` is the price of every instance in US dollars, for the spending caps.
    """

    def __init__(self, settings: FleetSettings, seed: int = 0, hourly: float = 0.0) -> None:
        self.now = 0.0
        self.settings = settings
        self.violations: list[Violation] = []
        self.crash_plan: CrashPlan | None = None
        self.failure_modes: tuple[FailureMode, ...] = (FailureMode(),)
        self.queues = SimulatedQueues(self.clock)
        self.cloud = Cloud(
            now=self.clock,
            queue=self.queues,
            next_failure_mode=lambda: self._random.choice(self.failure_modes),
            before_call=lambda operation: self._befall(operation, "before"),
            after_call=lambda operation: self._befall(operation, "after"),
            launched=self._check_maximum,
            ended=self._check_end,
            image_seconds=IMAGE_SECONDS,
            idle_seconds=IDLE_SECONDS,
        )
        self.store = InMemoryFleetStore(self._befall)
        self._site = Site(
            PlayedClock(
                self.clock,
                lambda: EPOCH + timedelta(seconds=self.now),
                cpu_seconds=lambda: self.cloud.cpu_seconds,
            ),
            self.cloud,
            self.queues,
            self.store,
            lambda: self.settings,
            hourly,
        )
        self.controllers = self._decisions = 0
        self._random = Random(seed)
        self._most = [(0.0, settings.max_workers)]
        self._tick_began = self._next_tick = 0.0
        self._taken_over_at = 0.0
        self._controller: SimulatedController | None = None

    def clock(self) -> float:
        """Return the seconds since the beginning."""
        return self.now

    @property
    def autoscaler(self) -> Autoscaler:
        """The autoscaler of the active controller.

        Raises:
            RuntimeError: no controller is active.
        """
        if self._controller is None:
            raise RuntimeError("no controller is active")
        return self._controller.autoscaler

    def set_limits(self, **changes: int) -> None:
        """Change the fleet section of the configuration."""
        self.settings = self.settings.model_copy(update=changes)
        self._most.append((self.now, self.settings.max_workers))

    def pause(self, *, on: bool) -> None:
        """Pause the fleet, or resume it."""
        self.store.current_pause = FleetPause(since=EPOCH + timedelta(seconds=self.now)) if on else None

    def run(self, seconds: float, every: float = 1.0) -> None:
        """Let time pass, with a round of the autoscaler `every` so many seconds."""
        end = self.now + seconds
        while self.now < end:
            self.pass_second()
            if self._controller is not None and self.now >= self._next_tick:
                self.run_round(every)

    def pass_second(self) -> None:
        """Let a second pass without a decision."""
        self.now += 1.0
        self.queues.live()
        self.cloud.live()
        if self._controller is None and self.now >= self._taken_over_at:
            self.controllers += 1
            name = f"controller {self.controllers}"
            self._controller = SimulatedController(
                name, self._site, lambda: self._controller is not None and self._controller.name == name
            )
        if self._controller is not None:
            self._controller.collect()

    def run_round(self, every: float = 1.0) -> None:
        """Run one round of the controller, if there is one; the next one follows after `every` seconds."""
        if self._controller is None:
            return
        self._tick_began, self._next_tick = self.now, self.now + every
        self._decisions += 1
        try:
            self._controller.autoscaler.tick()
        except KilledError:
            self._controller, self._taken_over_at = None, self.now + LEASE_SECONDS
        except (BotoCoreError, ClientError, FleetsightError):
            self._next_tick = self.now + 2 * every  # as the loop of a shift does, which logs it

    def finish(self) -> None:
        """End every fault and let the fleet answer what there is; check that it does, and that nothing is left."""
        self.heal()
        end = self.now + PATIENCE_SECONDS
        while self.queues.answered < self.queues.sent and self.now < end:
            self.run(10.0, every=2.0)
        if self.queues.answered < self.queues.sent:
            self._note("left or never answered", f"{self.queues.sent - self.queues.answered} images wait for ever")
        self.run(AFTERWARDS_SECONDS, every=5.0)
        left = [self.cloud.instances[key] for key in self.cloud.alive()]
        wanted = kept_without_work(self.settings, EPOCH + timedelta(seconds=self.now))
        if len(left) != wanted or any(each.worker.silent for each in left):
            names = [each.instance_id for each in left]
            self._note("left or never answered", f"{names} are left, {wanted} wanted")
        version = str(self.cloud.default_version)
        if drifted := [each.instance_id for each in left if each.tags.get(VERSION_TAG, version) != version]:
            self._note("left or never answered", f"{drifted} are not of the template's version {version}")

    def heal(self) -> None:
        """End every fault; let there be at least one worker, and let workers run for a day."""
        self.crash_plan, self.failure_modes, self.cloud.faults = None, (FailureMode(),), Faults()
        self.queues.counts_lag, self.queues.counts_factor, self.queues.counts_fail = 0.0, 1.0, False
        self.queues.listener_lag, self.store.fails = 0.0, False
        self.pause(on=False)
        self.set_limits(max_workers=max(1, self.settings.max_workers), max_lifetime_seconds=86_400)

    def tally(self) -> Counter[str]:
        """Return what happened, in figures."""
        return Counter(
            schedules=1,
            decisions=self._decisions,
            controllers=self.controllers,
            instances=len(self.cloud.instances),
            images=self.queues.answered,
            simulated_minutes=round(self.now / 60),
        )

    # The controllers

    def _befall(self, operation: str, moment: str) -> None:
        crash_plan = self.crash_plan
        if crash_plan is None or (crash_plan.operation, crash_plan.moment) != (operation, moment):
            return
        self.crash_plan = None
        if not crash_plan.frozen_seconds:
            raise KilledError
        began, self._controller = self._tick_began, None
        self._taken_over_at = self.now + LEASE_SECONDS
        self.run(crash_plan.frozen_seconds)
        self._tick_began = began

    # What must never happen

    def _check_maximum(self, alive: int) -> None:
        since = min(self._tick_began, self.now - LATE_SECONDS - 1)
        before = [most for at, most in self._most if at <= since][-1:]
        allowed = max([*before, *(most for at, most in self._most if at > since)])
        if alive > allowed:
            self._note("beyond the maximum", f"{alive} workers, {allowed} allowed")

    def _check_end(self, instance: SimulatedInstance) -> None:
        worker, version = instance.worker, str(self.cloud.default_version)
        if instance.state == "stopped" and instance.tags.get(VERSION_TAG, version) != version:
            return  # it would start again unchanged
        has_booted = worker.ready_at <= self.now
        boots_in_time = self.now - instance.booted_at < self.settings.boot_allowance_seconds
        if not worker.silent and (has_booted or boots_in_time):
            self._note("ended although well", f"{instance.instance_id} was ended")

    def _note(self, kind: Kind, words: str) -> None:
        self.violations.append(Violation(kind, f"{words} at second {self.now:.0f}"))


def settings_of(**changes: Any) -> FleetSettings:
    """Return the fleet section of config.yaml with some values changed."""
    usual = {"images_per_worker": 3, "image_seconds": IMAGE_SECONDS, "boot_seconds": 30.0}
    return fleet_settings(**usual | changes)
