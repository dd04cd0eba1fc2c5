"""Repair of one image that has no result, from what there is of it; shared by the reconciler and the dead letters."""

import logging
from dataclasses import dataclass

from services.errors import MessageError, NotFoundError
from services.ids import ImageRef, output_key
from services.jobs import JobStore
from services.messages import Failure, Prediction, Response, failed
from services.s3 import Bucket
from web_tier.controller.ledger import Ledger

_log = logging.getLogger(__name__)

REPAIRER = "controller"
"""Stands as the worker of results that the controller itself writes."""


@dataclass(frozen=True)
class Repair:
    """Finds or makes the result of an image."""

    store: JobStore
    ledger: Ledger
    outputs: Bucket

    def result(self, ref: ImageRef) -> Response | None:
        """Return the result that the image has in the job table or in the output bucket, or None.

        Repairs a crash between writing a result and counting it, and a response that its queue has lost.
        """
        return self.store.result(ref) or self._stored_prediction(ref)

    def fail(self, ref: ImageRef, failure: Failure, attempts: int) -> None:
        """Give the image a failed result: first the durable object, then the job table, as a worker does."""
        prediction = failed(ref, failure, worker=REPAIRER, attempts=attempts)
        self.outputs.put(output_key(ref), prediction.to_json().encode(), "application/json")
        self.ledger.record([prediction.response()])
        _log.warning("an image failed", extra={"job": ref.job_id, "image": ref.image_id, "reason": failure.message})

    def _stored_prediction(self, ref: ImageRef) -> Response | None:
        try:
            prediction = Prediction.from_json(self.outputs.get(output_key(ref)))
        except NotFoundError:
            return None
        except MessageError as error:
            _log.warning("a prediction cannot be read", extra={"key": output_key(ref), "reason": str(error)})
            return None
        # An object at another image's key is not this one's result.
        return prediction.response() if prediction.ref == ref else None
