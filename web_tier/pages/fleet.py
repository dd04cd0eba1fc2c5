"""What the fleet's page shows: what the autoscaler saw and decided, its instances, and what it has cost."""

from datetime import UTC, datetime, timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict
from werkzeug.exceptions import BadRequest

from core.config import Prices
from core.cost import ThousandCost
from core.fleet.models import Decision, FleetSnapshot, HistoryPoint, WorkerLimits, points_since
from core.fleet.store import FleetState, FleetStore
from core.format import clocks_words, dollars, fleet_sentence, limits_words, pause_words
from web_tier.pages.chart import WINDOWS, Chart, Window
from web_tier.pages.instances import InstanceRow
from web_tier.pages.limits import limits_in_force

DECISIONS_SHOWN = 12


class DecisionRow(BaseModel):
    """A decision: the moment as ISO 8601, its time of the day (UTC), and the words."""

    model_config = ConfigDict(frozen=True)

    at: str
    time: str
    words: str

    @classmethod
    def of(cls, decision: Decision) -> Self:
        """Return the row that tells of a decision."""
        words = f"{decision.words[:1].upper()}{decision.words[1:]}"
        return cls(at=decision.at.isoformat(), time=decision.at.strftime("%H:%M:%S"), words=words)


class FleetBody(BaseModel):
    """The fleet as the page shows it and asks for it again every second; figures of instances and messages.

    Attributes:
        known: whether the controller has looked at all; without it the figures are zero.
        running, pending, stopped: instances.
        waiting, in_flight, dead_letters: messages of the request queue and of the one for those given up.
        min_workers, max_workers: the limits in force.
        peak_workers: most at once since the fleet was last at zero.
        billed, cost: of the fleet since its first launch, in words: instance-seconds, and US dollars for them.
        per_thousand: what 1,000 images cost, in words; None before the first answer of a worker.
        per_thousand_of: what that is made of.
        sentence: what is going on, and why.
        problem: what is in the way of a launch, if anything is.
        clocks: that the clocks of controller and web tier differ, if they do.
        paused: that the fleet is paused, since when and why, in words; None while it is not.
        limits_set: limits that ops have set, since when and why, in words; None when those of config.yaml hold.
        instances: newest first; `unlisted` says how many older ones there are, if any.
        decisions: the last ones, newest first.
    """

    model_config = ConfigDict(frozen=True)

    known: bool = False
    running: int = 0
    pending: int = 0
    stopped: int = 0
    waiting: int = 0
    in_flight: int = 0
    dead_letters: int = 0
    min_workers: int = 0
    max_workers: int = 0
    peak_workers: int = 0
    billed: str = "0 s"
    cost: str = dollars(0)
    per_thousand: str | None = None
    per_thousand_of: str = ""
    sentence: str
    problem: str | None = None
    clocks: str | None = None
    paused: str | None = None
    limits_set: str | None = None
    instances: tuple[InstanceRow, ...] = ()
    unlisted: str | None = None
    decisions: tuple[DecisionRow, ...] = ()

    @classmethod
    def of(
        cls,
        state: FleetState,
        prices: Prices,
        now: datetime | None = None,
        *,
        silent_seconds: float = 0.0,
        controller_ahead: timedelta = timedelta(),
    ) -> Self:
        """Return what there is to show.

        Args:
            state: as the controller reported it; its times, so the ages of instances, are by the controller's clock.
            prices: what instances and requests cost.
            now: by the web tier's clock.
            silent_seconds: how long the controller has not reported.
            controller_ahead: how far the controller's clock is ahead of the web tier's.
        """
        now, listed = now or datetime.now(UTC), state.instances
        seen_at = now if state.snapshot is None else state.snapshot.at
        older = listed.total - len(listed.instances)
        return cls(
            **({} if state.snapshot is None else _figures(state.snapshot, prices)),
            sentence=fleet_sentence(state.snapshot, silent_seconds),
            clocks=clocks_words(controller_ahead),
            **_limits(state, now),
            paused=None if state.pause is None else pause_words(state.pause),
            instances=tuple(InstanceRow.of(each, seen_at) for each in listed.instances),
            unlisted=f"and {older:,} older" if older > 0 else None,
            decisions=tuple(DecisionRow.of(each) for each in state.decisions.decisions[:DECISIONS_SHOWN]),
        )


def _figures(fleet: FleetSnapshot, prices: Prices) -> dict[str, object]:
    return {
        "known": True,
        "running": fleet.running,
        "pending": fleet.pending,
        "stopped": fleet.stopped,
        "waiting": fleet.visible + fleet.delayed,
        "in_flight": fleet.in_flight,
        "dead_letters": fleet.dead_letters,
        "peak_workers": fleet.peak_workers,
        "billed": f"{fleet.billed_seconds:,.0f} s",
        "cost": dollars(fleet.cost),
        "problem": fleet.problem,
        **_per_thousand(fleet, prices),
    }


def _limits(state: FleetState, now: datetime) -> dict[str, object]:
    snapshot = state.snapshot
    limits = limits_in_force(state, WorkerLimits(min_workers=0, max_workers=0))
    configured = None if snapshot is None else snapshot.configured
    return {
        "min_workers": limits.min_workers,
        "max_workers": limits.max_workers,
        "limits_set": state.limits and f"Limits {limits_words(limits, configured, now)}.",
    }


def _per_thousand(fleet: FleetSnapshot, prices: Prices) -> dict[str, object]:
    cost = ThousandCost.of(fleet, prices)
    if cost is None:
        return {}
    instances, requests = dollars(cost.instances_dollars), dollars(cost.requests_dollars)
    return {
        "per_thousand": dollars(cost.dollars),
        "per_thousand_of": f"for 1,000 images: instances {instances}, requests {requests}",
    }


def window_named(name: str) -> Window:
    """Return the window of the chart that an address asks for.

    Raises:
        BadRequest: when there is none of that name.
    """
    if name not in WINDOWS:
        raise BadRequest(f"span={name[:40]!r} is not one of {', '.join(WINDOWS)}")
    return WINDOWS[name]


def fleet_chart(store: FleetStore, fleet: FleetSnapshot | None, window: Window) -> Chart:
    """Return the chart of `window`, until now."""
    now = datetime.now(UTC)
    start = now - window.length
    points = points_since(store.blocks(window.span), start)
    if not points or points[0].at > start:
        points = [HistoryPoint(at=start, workers=0, queue=0), *points]  # the first point ever is the first change
    workers, queue = points[-1].workers, points[-1].queue
    if fleet is not None:
        workers, queue = fleet.running + fleet.pending, fleet.visible + fleet.delayed + fleet.in_flight
    return Chart.of(window, points, HistoryPoint(at=now, workers=workers, queue=queue))
