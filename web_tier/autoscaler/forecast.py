"""The forecast of a batch before it is sent: workers that start, seconds to its last result, its cost, in words."""

import math
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from core.config import Config
from core.cost import JOB, SECONDS_AN_HOUR, expected_counts, requests_of
from core.fleet.models import FleetInstances, FleetSnapshot
from core.fleet.store import FleetState
from core.format import capitalised, dollars, duration, workers_in_words
from core.jobs.packs import PackSizes
from services.ec2 import ALIVE
from services.sqs import QueueCounts
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.explain import explain
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation

BILLED_BOOT_SHARE = 0.6
"""Share of a boot that EC2 bills: the instance is `pending`, which is free, for 17 of 42 s."""

ROUTE_SECONDS = 0.7
"""What a batch takes beside boots and classification: upload, launch, polls of both queues and collector, on one
machine by `benchmarks end_to_end`. On AWS, where it is a few seconds, it is little beside a boot."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a batch.

    Attributes:
        workers: workers that run or start already.
        launches: workers that will start for it.
        seconds: seconds to its last result; None if nothing will classify it as things are.
        dollars: cost of instances and requests; None as before.
        text: the same in words.
    """

    images: int
    workers: int
    launches: int
    seconds: float | None
    dollars: float | None
    text: str


def forecast(images: int, state: FleetState, config: Config, finish_by: datetime | None = None) -> Forecast | None:
    """Return the forecast of a batch that is sent now; None if the controller has not reported yet.

    The backlog is the batch and the images before it, in worker-seconds by the measured time of an image. The
    reported workers share it, each from the end of its boot on, with those that the policy launches for the batch. So
    n workers end at ``(backlog + sum of their starts) / n``, and results arrive `ROUTE_SECONDS` later; a worker that
    starts later than that is of no use.

    Args:
        images: their number.
        state: what the controller reported last.
        config: `fleet` has the settings in force.
        finish_by: as of a job.
    """
    if (fleet := state.snapshot) is None:
        return None
    limits = state.limits or fleet
    settings = config.fleet.model_copy(update={"min_workers": limits.min_workers, "max_workers": limits.max_workers})
    image_seconds = fleet.image_seconds or settings.image_seconds
    boot = fleet.boot_seconds or settings.boot_seconds
    ages = boot_ages(fleet, state.instances)
    seen = with_batch(images, fleet, state, ages, finish_by)
    plan = decide(seen, settings)
    if plan.kind == "failing":
        launches = 0
    else:
        launches = plan.missing if plan.max_launches is None else min(plan.missing, plan.max_launches)
    # A worker that is overdue counts as one that is launched now.
    starts = sorted([0.0 if age is None else boot - age if age < boot else boot for age in ages] + [boot] * launches)
    if not starts:
        reason = explain(plan, seen, settings)
        return Forecast(images, 0, 0, None, None, f"{capitalised(reason)}.")
    behind = 0 if finish_by else sum(each.images for each in fleet.later_images)
    backlog = image_seconds * max(images, seen.requests.total - behind)
    seconds = min((backlog + total) / count for count, total in enumerate(accumulate(starts), 1))
    seconds = max(seconds, starts[0] + image_seconds) + ROUTE_SECONDS
    billed = images * image_seconds + launches * (BILLED_BOOT_SHARE * boot + config.worker.idle_seconds)
    billed = max(billed, launches * config.prices.minimum_billed_seconds)
    hourly = config.prices.worker_hour(settings.instance_types[0], spot=settings.market == "spot")
    requests = requests_of(expected_counts(images, PackSizes.of(config, lambda: image_seconds))) + JOB
    price = billed * hourly / SECONDS_AN_HOUR + requests.dollars(config.prices)
    text = f"{workers_in_words(len(ages)).capitalize()} {'runs' if len(ages) == 1 else 'run'} now"
    text += f", about {launches:,} will start. " if launches else ". "
    text += f"All results within about {rounded_up(seconds)}, for about {dollars(price)}."
    if fleet.image_seconds is None or fleet.boot_seconds is None:
        text += " These are estimates until the first workers have been measured."
    return Forecast(images, len(ages), launches, seconds, price, text)


def with_batch(
    images: int, fleet: FleetSnapshot, state: FleetState, ages: list[float | None], finish_by: datetime | None
) -> Observation:
    """Return what the controller will observe once the batch is sent, as far as policies go by it."""
    later = [((each.by - fleet.at).total_seconds(), each.images) for each in fleet.later_images]
    soon = max(0, fleet.visible + fleet.delayed - sum(count for _, count in later))
    if finish_by is None:
        soon += images
    else:
        later.append(((finish_by - fleet.at).total_seconds(), images))
    booting = {str(number): age for number, age in enumerate(ages) if age is not None}
    return Observation(
        QueueCounts(fleet.visible + images, fleet.in_flight, fleet.delayed),
        dead_letters=0,
        instances=(),
        launching=frozenset(map(str, range(len(ages)))),
        at=fleet.at,
        demand=Demand(waiting=((0.0, soon),), later=tuple(later)),
        metrics=FleetMetrics(fleet.image_seconds, fleet.boot_seconds, unregistered=booting, circuit=fleet.circuit),
        pause=state.pause,
        spending=state.spending,
    )


def boot_ages(fleet: FleetSnapshot, listed: FleetInstances) -> list[float | None]:
    """Return the seconds since the launch of each worker that boots, and None for each that works.

    Workers that are about to end do not count. The list has the latest launches: what it leaves out is older, unless
    the list is only behind the report.
    """
    alive = [each for each in listed.instances if each.state in ALIVE]
    unlisted = max(0, fleet.running + fleet.pending - len(alive))
    ages = [
        None if each.worker is not None else max(0.0, (fleet.at - each.launched_at).total_seconds())
        for each in alive
        if not each.draining and each.marked is None
    ]
    return ages + [None if listed.total > len(listed.instances) else 0.0] * unlisted


def rounded_up(seconds: float) -> str:
    """Return seconds in words, from 20 s on to 5 s, then to minutes and hours."""
    step = next((step for limit, step in ((20, 1), (115, 5), (7_200, 60)) if seconds <= limit), 3_600)
    return duration(math.ceil(seconds / step) * step)
