"""What a policy is shown and what it answers: the seam between the simulated fleet and the deciding code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True)
class WorkerView:
    """A simulated worker. Times in seconds since the trace's begin.

    Attributes:
        name: its instance id.
        ready_at: its first receive; infinite for one that never reports.
        draining: whether it receives nothing more, and ends after the images that it has.
        protected: whether it stays when it is idle.
    """

    name: str
    launched_at: float
    running_at: float
    ready_at: float
    draining: bool = False
    protected: bool = False


@dataclass(frozen=True, slots=True)
class FleetView:
    """What there is to see at one moment.

    Attributes:
        now: seconds since the trace's begin.
        visible: images that wait.
        in_flight: images that workers have received and not answered yet.
        answered: images classified so far.
        workers: those that have not ended, oldest first; a draining one is among them until it ends.
        idle: names of those that receive and have no image in flight.
        changes: grows whenever a worker is launched, becomes `running`, begins to drain or ends.
        image_seconds: that a worker takes for an image; None as long as nothing was measured.
        boot_seconds: from a launch to the first receive; None as long as nothing was measured.
    """

    now: float
    visible: int
    in_flight: int
    answered: int
    workers: Sequence[WorkerView]
    idle: frozenset[str]
    changes: int
    image_seconds: float | None
    boot_seconds: float | None

    @property
    def ready(self) -> int:
        """Workers that receive."""
        return sum(worker.ready_at <= self.now and not worker.draining for worker in self.workers)

    @property
    def supply(self) -> int:
        """Workers that receive or will, as far as one can know."""
        return sum(not worker.draining for worker in self.workers)

    def surplus(self, count: int) -> tuple[str, ...]:
        """Return the names of `count` workers that are missed least: the last launched, which are still booting."""
        staying = [worker.name for worker in self.workers if not worker.draining]
        return tuple(staying[len(staying) - count :]) if count > 0 else ()


@dataclass(frozen=True, slots=True)
class ScalingAction:
    """What a policy wants.

    Attributes:
        launch: so many new workers.
        drain: names of those that are to finish what they have and end.
        protect, unprotect: names of workers that stay when they are idle from now on, or no longer.
    """

    launch: int = 0
    drain: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()


NO_ACTION = ScalingAction()


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """How a policy wants its fleet to be run.

    Attributes:
        interval_seconds: between two decisions.
        idle_seconds: a worker without work for so long ends itself; infinite where only the policy ends workers.
        floor: the workers that it keeps when there is nothing to do.
        prepared: workers that are ready, and billed, before the trace begins.
    """

    interval_seconds: float = 1.0
    idle_seconds: float = float("inf")
    floor: int = 0
    prepared: int = 0


class Policy(Protocol):
    """Decides; it may remember, so that each simulation takes a new one."""

    terms: PolicyTerms

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what to do now."""


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy by its name, and how a new one is made for a simulation."""

    name: str
    new: Callable[[], Policy] = field(repr=False)
