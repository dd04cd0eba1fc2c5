"""A roll-out that stops itself: new jobs do not get a model that workers cannot load, or that clearly fails more.

A canary is compared with the default by the jobs that each of them got since the roll-out. The comparison must not
stop it by chance, nor because its users sent other images:

- Only failures count that a network may cause (`ModelResults.faulty`). Those that the decoder reports count for
  neither model: they come before the network, and both models get such images. Nor do those of storage.
- It counts jobs with such failures, not images: the images of a job are alike, and one image that ends its workers
  may come a thousand times. Which model a job gets is drawn by a hash of its id, so if the models are equally good, a
  faulty job is the canary's with the probability of its share, for any images. Jobs that name a model against the
  draw do not count.
- Each faulty job multiplies the evidence by its likelihood ratio: what it is if the canary has `ODDS` times the
  faults of the default, over what it is if both are equal. Under equality the product exceeds 1,000 once in 1,000
  roll-outs or less, however long they take and however often it is looked at (Ville's inequality,
  https://en.wikipedia.org/wiki/Ville%27s_inequality). That takes 5 jobs in a row at a share of 10%, and 12 at 50%.

A lower mean score is no reason, since other images may cause it: the comparison shows it as a warning.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from core.format import plural
from core.model_catalog import CatalogRefusedError, CatalogStore, ModelCatalog, model_for_job, rolled_back
from core.model_results import MAX_FAULTY_JOBS, ModelResultsReport
from services.clock import CLOCK, Clock
from services.lease import Tenure
from web_tier.autoscaler.reporting import FleetEvent
from web_tier.features.models.results import ModelResultsWriter

NEW_FOR: Final = timedelta(hours=1)
"""How long after its roll-out to all jobs a model is new. An older one had been loaded, so its bundle was damaged or
deleted since, and the model before it may be outdated: operators decide."""

CHECK_SECONDS: Final = 5.0
"""Time between two reads of the catalogue while workers cannot load a model: rounds of the autoscaler are shorter."""

ODDS: Final = 10.0
EVIDENCE: Final = 1_000.0
MIN_IMAGES: Final = 50
MIN_FAULTY_SHARE: Final = 0.01
"""A canary is clearly worse if the evidence for `ODDS` times the faults is `EVIDENCE` to one, and if so many of its
images and such a share of them are faulty at least: a rare fault leaves time for operators."""

_log = logging.getLogger(__name__)


@dataclass
class RollOutGuard:
    """Rolls back the model of a new roll-out, to a share of the jobs or to all, if it is broken."""

    catalogs: CatalogStore
    results: ModelResultsWriter
    tenure: Tenure
    clock: Clock = CLOCK
    _next_check: float = field(default=-math.inf, init=False)
    _compared: ModelResultsReport | None = field(default=None, init=False)
    """The counts of the last check; None before the first one."""

    def check(self, failed_models: Iterable[str]) -> list[FleetEvent]:
        """Roll back what is new and among `failed_models`, by digest, or clearly worse; return the event, if any.

        If the table does not respond, a later round tries again.
        """
        failed, report = set(failed_models), self.results.stored
        is_due = failed or (report is not self._compared and (self._compared is None or report.since is not None))
        if not is_due or not self.tenure.active() or self.clock.monotonic() < self._next_check:
            return []
        self._next_check = self.clock.monotonic() + CHECK_SECONDS

        def change(catalog: ModelCatalog) -> ModelCatalog:
            reason = self._reason(catalog, failed, report)
            return rolled_back(catalog, self.clock.utc_now(), reason) if reason else catalog

        try:
            before = after = self.catalogs.find()
            if before is not None and self._reason(before, failed, report):
                after = self.catalogs.change(change, lambda: before)
        except (BotoCoreError, ClientError, CatalogRefusedError) as error:
            _log.warning("the models of new jobs were not checked: %s", error)
            return []
        self._compared = report
        withdrawn = None if after is None else after.withdrawn
        if before is None or after is None or withdrawn is None or not withdrawn.reason:
            return []
        if withdrawn == before.withdrawn:
            return []
        _log.warning("a model was rolled back", extra={"model": withdrawn.name, "reason": withdrawn.reason})
        return [FleetEvent(withdrawn.words(after.default_version.name))]

    def _reason(self, catalog: ModelCatalog, failed: set[str], report: ModelResultsReport) -> str:
        """Return why the model that a roll-back takes from new jobs is broken; empty if it is not, or is not new."""
        canary = catalog.canary
        if canary is not None:
            new, before = canary.digest, catalog.default
        elif catalog.previous is not None and self.clock.utc_now() - catalog.since < NEW_FOR:
            new, before = catalog.default, catalog.previous
        else:
            return ""
        if new in failed and before not in failed:
            return "workers cannot load it"
        return clear_difference(catalog, report)


def clear_difference(catalog: ModelCatalog, report: ModelResultsReport) -> str:
    """Return in what the canary is clearly worse than the default; empty if it is not, or there is no canary."""
    canary = catalog.canary
    found = None if canary is None else report.of(canary.digest)
    if canary is None or found is None or report.since != catalog.canary_since:
        return ""

    def drawn(jobs: Sequence[str], digest: str) -> int:
        return sum(model_for_job(catalog, None, each).digest == digest for each in jobs)

    default = report.of(catalog.default)
    of_default = default.faulty_jobs if default is not None else ()
    if len(of_default) == MAX_FAULTY_JOBS:  # those after them are not known
        return ""
    faulty, others = drawn(found.faulty_jobs, canary.digest), drawn(of_default, catalog.default)
    worse = ODDS * canary.share / (ODDS * canary.share + 1 - canary.share)
    evidence = faulty * math.log(worse / canary.share) + others * math.log((1 - worse) / (1 - canary.share))
    images = found.done + found.faulty
    if evidence < math.log(EVIDENCE) or images < MIN_IMAGES or found.faulty < MIN_FAULTY_SHARE * images:
        return ""
    jobs = f"in {faulty:,} of its jobs and {others:,} of the default's"
    return f"{found.faulty:,} of {plural(images, 'image')} ended their workers or got no scores, {jobs}"
