"""Repair of one image that has no result, from what there is of it; shared by the reconciler and the dead letters."""

import logging
from dataclasses import dataclass

from core.ids import ImageRef
from core.jobs import JobStore
from core.messages import Failure, Response, failed
from core.predictions import store_prediction, stored_prediction
from services.s3 import Bucket
from web_tier.controller.result_recorder import ResultRecorder, rank

_log = logging.getLogger(__name__)

REPAIRER = "controller"
"""Stands as the worker of results that the controller itself writes."""


@dataclass(frozen=True)
class ResultRecovery:
    """Finds or makes the result of an image."""

    store: JobStore
    recorder: ResultRecorder
    outputs: Bucket

    def result(self, ref: ImageRef, attempt: int) -> Response | None:
        """Return the result of the image from the job table or the output bucket, or None.

        It is `done`, or the failure of `attempt` or a later one. This repairs a crash between writing a result and
        counting it, and a response that its queue has lost.
        """
        recorded = self.store.result(ref)
        if recorded is not None and recorded.status == "done":
            return recorded
        found = [each for each in (recorded, self._stored(ref)) if each is not None]
        return max((each for each in found if rank(each) >= (False, attempt)), key=rank, default=None)

    def fail(self, ref: ImageRef, failure: Failure, *, attempt: int, attempts: int) -> None:
        """Record the result of the image if there is one by now; else give it a failed result.

        The durable object comes first, then the job table, as a worker does. A worker may store a prediction at the
        same moment: the one that stands is recorded.
        """
        result = self.result(ref, attempt)
        if result is None:
            standing = store_prediction(
                failed(ref, failure, worker=REPAIRER, attempt=attempt, attempts=attempts), self.outputs
            )
            result = standing.response()
            if standing.worker == REPAIRER:
                _log.warning(
                    "an image failed", extra={"job": ref.job_id, "image": ref.image_id, "reason": failure.message}
                )
        self.recorder.record([result])

    def _stored(self, ref: ImageRef) -> Response | None:
        prediction = stored_prediction(ref, self.outputs)
        return None if prediction is None else prediction.response()
