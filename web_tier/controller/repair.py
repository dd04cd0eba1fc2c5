"""Repair of one image that has no result, from what there is of it; shared by the reconciler and the dead letters."""

import logging
from dataclasses import dataclass

from services.errors import MessageError, NotFoundError
from services.ids import ImageRef, output_key
from services.jobs import JobStore
from services.messages import Failure, Prediction, Response, failed
from services.s3 import Bucket
from web_tier.controller.ledger import Ledger, rank

_log = logging.getLogger(__name__)

REPAIRER = "controller"
"""Stands as the worker of results that the controller itself writes."""


@dataclass(frozen=True)
class Repair:
    """Finds or makes the result of an image."""

    store: JobStore
    ledger: Ledger
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

        The failure is stored only where no prediction is: a worker may store one at the same moment. Where the
        failure of an earlier attempt is stored, it stays, and the job table alone has the new one.
        """
        prediction = failed(ref, failure, worker=REPAIRER, attempt=attempt, attempts=attempts)
        result = self.result(ref, attempt)
        if result is None:
            is_stored = self.outputs.put_new(output_key(ref), prediction.to_json().encode(), "application/json")
            result = None if is_stored else self.result(ref, attempt)
        if result is None:
            result = prediction.response()
            _log.warning(
                "an image failed", extra={"job": ref.job_id, "image": ref.image_id, "reason": failure.message}
            )
        self.ledger.record([result])

    def _stored(self, ref: ImageRef) -> Response | None:
        try:
            prediction = Prediction.from_json(self.outputs.get(output_key(ref)))
        except NotFoundError:
            return None
        except MessageError as error:
            _log.warning("a prediction cannot be read", extra={"key": output_key(ref), "reason": str(error)})
            return None
        # An object at another image's key is not this one's result.
        return prediction.response() if prediction.ref == ref else None
