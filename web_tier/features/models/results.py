"""The results by model: counts the results of workers for each digest, and stores the counts.

The counts of a tenure continue those that the tenure before has stored. They are stored some seconds after they have
changed, so a controller that dies loses the results since then. When a share of the new jobs gets another model, new
counts begin, of the jobs from then on: by chance each of them has got one model or the other.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from core.fleet.store import FleetStore
from core.ids import first_id_of
from core.messages import ClassificationResult, Model, is_cancelled
from core.model_catalog import CatalogStore
from core.model_results import MAX_MODELS, ModelResults, ModelResultsReport
from services.clock import CLOCK, Clock
from services.lease import Tenure

WRITE_SECONDS: Final = 10.0
"""Time between two writes of the counts. DynamoDB bills each write."""

MAX_PENDING: Final = 2_000
"""Results that wait for the next write, as a roll-out may have begun before them: some 5 MB. More count at once."""

_log = logging.getLogger(__name__)


@dataclass
class ModelResultsWriter:
    """The results by model of one tenure. The collector adds results, and a loop of its own stores the counts.

    Attributes:
        stored: the counts that were stored last; those of an earlier tenure are in them from the first result on.
        catalogs: says since when a share of the new jobs gets another model, if not all get the same one. Read before
            each write.
    """

    store: FleetStore
    tenure: Tenure
    catalogs: CatalogStore
    clock: Clock = CLOCK
    stored: ModelResultsReport = field(default_factory=ModelResultsReport, init=False)
    _pending: list[ClassificationResult] = field(default_factory=list, init=False)
    """Results that are not counted yet."""
    _models: dict[str, ModelResults] = field(default_factory=dict, init=False)
    _since: datetime | None = field(default=None, init=False)
    _is_loaded: bool = field(default=False, init=False)
    """Whether the counts include those of earlier tenures."""
    _is_changed: bool = field(default=False, init=False)
    """Whether there are counts that are not stored."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def add(self, results: Sequence[ClassificationResult]) -> None:
        """Count results that were recorded just now; cancelled images and those of an unknown model do not count."""
        with self._lock:
            self._pending += results
            if len(self._pending) > MAX_PENDING:
                self._count_pending()

    def tick(self) -> float:
        """Store the counts if they have changed; return the seconds until the next time."""
        if not (self._pending or self._is_changed) or not self.tenure.active():
            return WRITE_SECONDS
        catalog = self.catalogs.find()
        since = None if catalog is None else catalog.canary_since
        earlier = None if self._is_loaded else self.store.model_results()
        with self._lock:
            if earlier is not None and since in {None, earlier.since}:
                self._continue(earlier)
            elif since not in {None, self._since}:
                self._models, self._since, self._is_changed = {}, since, True
            self._is_loaded = True
            self._count_pending()
            if not self._is_changed:
                return WRITE_SECONDS
            self._is_changed = False
            models = tuple(each.model_copy(deep=True) for each in self._models.values())
            report = ModelResultsReport(since=self._since, models=models)
        is_stored = False
        try:
            is_stored = self.store.put_model_results(report, self.tenure.token)
        finally:
            self._is_changed |= not is_stored
        if is_stored:
            self.stored = report
        else:
            _log.warning("a later controller has stored results by model")
        return WRITE_SECONDS

    def _count_pending(self) -> None:
        first_job, at = "" if self._since is None else first_id_of(self._since), self.clock.utc_now()
        for result in self._pending:
            if result.model is not None and result.job_id >= first_job and not is_cancelled(result):
                self._count(result, result.model, at)
        self._pending.clear()

    def _count(self, result: ClassificationResult, model: Model, at: datetime) -> None:
        counted = self._models.get(model.digest)
        if counted is None:
            counted = ModelResults(name=model.name, digest=model.digest, last_at=at)
            self._models[model.digest] = counted
            self._drop_oldest()
        counted.last_at, self._is_changed = at, True
        counted.count(result)

    def _continue(self, earlier: ModelResultsReport) -> None:
        self._since = earlier.since
        for each in earlier.models:
            if each.digest in self._models:
                self._models[each.digest].merge(each)
            else:
                self._models[each.digest] = each
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop the models without results for longest that are too many."""
        while len(self._models) > MAX_MODELS:
            del self._models[min(self._models.values(), key=lambda each: each.last_at).digest]
