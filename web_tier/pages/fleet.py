"""What the fleet's page shows: what the autoscaler saw and decided last, and what it has cost."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from services.config import Prices
from services.messages import FleetSnapshot
from web_tier.pages.words import dollars, duration, fleet_sentence

SECONDS_AN_HOUR = 3_600


class FleetBody(BaseModel):
    """The fleet as the page shows it and asks for it again every second; figures of instances and messages.

    Attributes:
        known: whether the controller has looked at all; without it the figures are zero.
        at: when it looked last.
        running, pending, stopped: instances.
        waiting, in_flight, dead_letters: messages of the request queue and of the one for those given up.
        min_workers, max_workers: the limits in force.
        peak_workers: most at once since the fleet was last at zero.
        billed, cost: of the fleet since its first launch, in words.
        sentence: the last decision, and why.
        problem: what is in the way of a launch, if anything is.
    """

    model_config = ConfigDict(frozen=True)

    known: bool = False
    at: datetime | None = None
    running: int = 0
    pending: int = 0
    stopped: int = 0
    waiting: int = 0
    in_flight: int = 0
    dead_letters: int = 0
    min_workers: int = 0
    max_workers: int = 0
    peak_workers: int = 0
    billed: str = duration(0)
    cost: str = dollars(0)
    sentence: str
    problem: str | None = None

    @classmethod
    def of(cls, fleet: FleetSnapshot | None, prices: Prices) -> Self:
        """Return what there is to show of a snapshot."""
        if fleet is None:
            return cls(sentence=fleet_sentence(None))
        return cls(
            known=True,
            at=fleet.at,
            running=fleet.running,
            pending=fleet.pending,
            stopped=fleet.stopped,
            waiting=fleet.visible + fleet.delayed,
            in_flight=fleet.in_flight,
            dead_letters=fleet.dead_letters,
            min_workers=fleet.min_workers,
            max_workers=fleet.max_workers,
            peak_workers=fleet.peak_workers,
            billed=duration(fleet.billed_seconds),
            cost=dollars(fleet.billed_seconds / SECONDS_AN_HOUR * prices.instance_hour),
            sentence=fleet_sentence(fleet),
            problem=fleet.problem,
        )
