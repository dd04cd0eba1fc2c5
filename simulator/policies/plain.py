"""Two plain rules: one worker for each message, and always the maximum."""

from dataclasses import dataclass

from simulator.policy import NOTHING, Look, Order, Rule, Terms


@dataclass
class OnePerMessage:
    """Launches a worker for each message that waits or is in hand, up to the maximum; what most peers do."""

    terms: Terms
    max_workers: int

    def decide(self, look: Look) -> Order:
        """Return what is lacking."""
        wanted = min(look.visible + look.in_flight, self.max_workers)
        return Order(max(0, wanted - len(look.workers)))


@dataclass
class Fixed:
    """Keeps what was prepared before the trace began, all the time."""

    terms: Terms

    def decide(self, look: Look) -> Order:  # noqa: ARG002 - the seam's
        """Return nothing to do."""
        return NOTHING


def one_per_message(max_workers: int, idle_seconds: float = 10.0) -> Rule:
    """Return the rule that launches one worker for each message up to `max_workers`."""
    terms = Terms(idle_seconds=idle_seconds)
    return Rule("one per message", lambda: OnePerMessage(terms, max_workers))


def fixed(workers: int) -> Rule:
    """Return the rule that keeps `workers`, booted and billed before the trace begins."""
    terms = Terms(floor=workers, prepared=workers)
    return Rule(f"fixed {workers}", lambda: Fixed(terms))
