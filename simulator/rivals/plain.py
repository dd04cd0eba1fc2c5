"""Two plain rules: one worker for each message, and always the maximum."""

from dataclasses import dataclass

from simulator.policy import NO_ACTION, FleetView, NamedPolicy, PolicyTerms, ScalingAction


@dataclass
class OnePerMessage:
    """Launches a worker for each message that waits or is in hand, up to the maximum; what most peers do."""

    terms: PolicyTerms
    max_workers: int

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what is lacking."""
        wanted = min(view.visible + view.in_flight, self.max_workers)
        return ScalingAction(max(0, wanted - len(view.workers)))


@dataclass
class Fixed:
    """Keeps what was prepared before the trace began, all the time."""

    terms: PolicyTerms

    def decide(self, view: FleetView) -> ScalingAction:  # noqa: ARG002 - the seam's
        """Return nothing to do."""
        return NO_ACTION


def one_per_message(max_workers: int, idle_seconds: float = 10.0) -> NamedPolicy:
    """Return the rule that launches one worker for each message up to `max_workers`."""
    terms = PolicyTerms(idle_seconds=idle_seconds)
    return NamedPolicy("one per message", lambda: OnePerMessage(terms, max_workers))


def fixed(workers: int) -> NamedPolicy:
    """Return the rule that keeps `workers`, booted and billed before the trace begins."""
    terms = PolicyTerms(floor=workers, prepared=workers)
    return NamedPolicy(f"fixed {workers}", lambda: Fixed(terms))
