"""The rows of the cost report: counts the answers of workers by day, job and model, and stores the counts.

A row is stored some seconds after it has changed. A controller that dies loses the answers since then: the report
shows their cost as not attributed to a job, and the job's own page still has it.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from core.fleet.costs import MAX_DAY_ROWS, CostRow, CostStore
from core.messages import ClassificationResult
from services.lease import Tenure
from web_tier.autoscaler.billing import CostAttribution

WRITE_SECONDS = 5.0
"""Time between two writes of the rows that have changed."""

_log = logging.getLogger(__name__)


@dataclass
class CostRowWriter:
    """The rows of one tenure. The collector adds answers, and a loop of its own stores them.

    Attributes:
        attribution: knows the day (UTC) of each billing period.
        max_rows: most rows of a day; answers of further jobs are not in the report.
    """

    store: CostStore
    tenure: Tenure
    attribution: CostAttribution
    max_rows: int = MAX_DAY_ROWS
    _images: dict[CostRow, int] = field(default_factory=dict, init=False)
    """Images by their row without images: those of the last two billing periods, and others that are not stored."""
    _changed: set[CostRow] = field(default_factory=set, init=False)
    _day: date | None = field(default=None, init=False)
    _day_rows: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def add(self, owner: str, job_id: str, period: int, results: Sequence[ClassificationResult]) -> None:
        """Count results of a job that workers gave in a billing period."""
        if (day := self.attribution.day_of(period)) is None:
            return
        models = Counter(result.model for result in results)
        with self._lock:
            if day != self._day:
                self._day, self._day_rows = day, 0
            for model, images in models.items():
                row = CostRow.about(day, owner, job_id, period, model, self.tenure.token)
                if row not in self._images and not self._has_room(day):
                    continue
                self._images[row] = self._images.get(row, 0) + images
                self._changed.add(row)

    def tick(self) -> float:
        """Store the rows that have changed; return the seconds until the next time."""
        with self._lock:
            changed, self._changed = self._changed, set()
            rows = [replace(row, images=self._images[row]) for row in changed]
        if not rows or not self.tenure.active():
            return WRITE_SECONDS
        try:
            self.store.put_rows(sorted(rows, key=lambda row: (row.owner, row.job_id)))
        except Exception:
            with self._lock:
                self._changed |= changed
            raise
        with self._lock:
            # A billing period gets no more answers once the next one has begun, but for those on their way to `add`.
            oldest = max(row.period for row in self._images) - 1
            self._images = {
                row: images for row, images in self._images.items() if row.period >= oldest or row in self._changed
            }
        return WRITE_SECONDS

    def _has_room(self, day: date) -> bool:
        if self._day_rows == self.max_rows:
            _log.warning(
                "the cost report of a day is full: further jobs are not in it",
                extra={"day": day.isoformat(), "rows": self.max_rows},
            )
        self._day_rows += 1
        return self._day_rows <= self.max_rows
