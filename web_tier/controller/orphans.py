"""Orphans: objects in the input bucket that belong to no image are deleted within an hour.

A web process may die between an image's object and its record, a form may be sent and never committed, or sent again
after the commit. The intents in the job table name such images (`core/jobs/put_intents.py`); no bucket is listed. A
record may follow its object late: a process may be frozen, or a reply be lost. So an intent is left alone until it
has been seen for longer than the web tier may take, by this controller's own clock: the clocks of two machines are
never compared. Then it is closed, so that no commit can renew it any more, and its objects are deleted.

The images of a repeatable upload whose manifest is stored are completed instead: a repeat finds them.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, field

from core.jobs.put_intents import PutIntent, PutIntents
from core.jobs.uploads import UploadManifests
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.lease import Tenure
from services.table import CLOUD_ERRORS
from web_tier.uploads.ingest import ImageIngest

ROUND_SECONDS = 300.0
"""Time between two rounds; each reads all intents, mostly those of uploads by forms."""

PATIENCE_SECONDS = 2_700.0
"""Time for which an intent is left alone: longer than the web tier takes from a put to its record (`MAX_PUT_AGE`)."""

_log = logging.getLogger(__name__)


@dataclass
class OrphanCleanup:
    """Deletes objects without a record.

    Attributes:
        ingest: its bucket and job store; completes repeatable uploads.
        form_seconds: lifetime of a presigned form.
    """

    ingest: ImageIngest
    form_seconds: float
    tenure: Tenure
    clock: Clock = CLOCK
    _first_seen: dict[tuple[str, str], float] = field(default_factory=dict, init=False)

    def tick(self) -> float:
        """Delete what is due; return the seconds until the next round.

        An intent that cannot be handled delays no other: the first error is raised at the end.
        """
        now, found = self.clock.monotonic(), list(self._intents.find_all())
        seen = {(each.intent_id, each.renewed): now for each in found}
        self._first_seen = seen | {key: at for key, at in self._first_seen.items() if key in seen}
        errors: list[Exception] = []
        for each in found:
            waited = now - self._first_seen[each.intent_id, each.renewed]
            if not each.is_closed and waited < PATIENCE_SECONDS + self.form_seconds * each.is_upload:
                continue
            if not self.tenure.active():
                break
            try:
                if each.is_closed or self._intents.close(each):
                    self._remove(each)
            except CLOUD_ERRORS as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return ROUND_SECONDS

    @property
    def _intents(self) -> PutIntents:
        return PutIntents(self.ingest.store.table)

    def _complete(self, intent: PutIntent) -> None:
        """Accept the images of a repeatable upload whose manifest is stored."""
        store = self.ingest.store
        if (manifest := UploadManifests(store.table).find(intent.job_id, intent.key)) is not None:
            claimed = {each.ref: each for each in manifest.images.values() if each.ref.image_id in intent.image_ids}
            recorded = store.images_of(claimed)
            left = [image for ref, image in claimed.items() if ref not in recorded]
            with suppress(NotFoundError):  # the job is being deleted
                self.ingest.complete(left, store.job(intent.job_id).group)

    def _remove(self, intent: PutIntent) -> None:
        """Delete the objects of an intent that no image needs, then the intent."""
        store = self.ingest.store
        if intent.key:
            self._complete(intent)
        job = store.jobs_of([intent.job_id]).get(intent.job_id)
        accepted = store.images_of(intent.refs)
        if job is not None and not job.keep:
            results = store.results_of(accepted)
            accepted = {
                ref: each for ref, each in accepted.items() if ref not in results or results[ref].status != "done"
            }
        stray = [ref for ref in intent.refs if ref not in accepted]
        self.ingest.bucket.delete_strays(stray, sent=intent.refs if intent.is_upload else ())
        self._intents.remove([intent.intent_id])
