"""What a job has cost, from what the fleet's runs cost in which its images were answered."""

from collections.abc import Mapping

from core.config import Prices
from core.cost import JobCost
from core.fleet.models import BillingPeriod, FleetSnapshot
from core.fleet.store import FleetStore
from core.jobs.models import Counts


def job_cost(counts: Counts, fleet: FleetSnapshot | None, store: FleetStore, prices: Prices) -> JobCost | None:
    """Return what a job has cost so far; None when that is not known, as of one from before runs were kept.

    Raises:
        TableBusyError: when an older run could not be read.
    """
    return JobCost.of(counts, _runs(counts, fleet.run if fleet else None, store), prices)


def _runs(counts: Counts, current: BillingPeriod | None, store: FleetStore) -> Mapping[int, BillingPeriod]:
    """Return the runs in which the job was answered, as far as they are known; only what is over has to be read."""
    last = current.number if current else 0
    # The job's counts may be newer than the snapshot: what such a run costs is not told yet.
    runs = {number: BillingPeriod(number=number) for number, _ in counts.runs if number > last}
    if current is not None:
        runs[last] = current
    return runs | store.runs({number for number, _ in counts.runs if number < last})
