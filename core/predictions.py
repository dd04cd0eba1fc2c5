"""Predictions in the output bucket: which one remains if several are stored for one image.

The first that is `done` remains: it replaces a `failed` one, and nothing replaces it. A `failed` prediction replaces
one of an earlier attempt. Every write is conditional, so this also holds if several processes write at the same
time. botocore's errors pass through once its retries are spent.
"""

import logging

from core.ids import ImageRef, output_key
from core.messages import Prediction
from services.errors import FleetsightError, MessageError, NotFoundError
from services.s3 import Bucket

MAX_WRITES = 10
"""Maximum conditional writes of one prediction; a refused one means that another one was stored meanwhile."""

_TYPE = "application/json"
_log = logging.getLogger(__name__)


class PredictionConflictError(FleetsightError):
    """Raised when a prediction could not be stored because others were stored repeatedly; try again later."""


def store_prediction(prediction: Prediction, bucket: Bucket) -> Prediction:
    """Store `prediction` unless it may not replace the stored one; return the one that is stored afterwards.

    Raises:
        PredictionConflictError: it is unknown which one is stored.
    """
    key, body = output_key(prediction.ref), prediction.to_json().encode()
    for _ in range(MAX_WRITES):
        if bucket.put_new(key, body, _TYPE):
            return prediction
        try:
            stored, etag = _read(prediction.ref, bucket)
        except NotFoundError:
            continue  # deleted just now, or the other write is not complete
        if stored is not None and (
            stored.status == "done" or (prediction.status == "failed" and prediction.attempt <= stored.attempt)
        ):
            return stored
        if bucket.put_over(key, body, _TYPE, etag):
            return prediction
    raise PredictionConflictError(f"{key} changed {MAX_WRITES} times while a prediction was stored")


def stored_prediction(ref: ImageRef, bucket: Bucket) -> Prediction | None:
    """Return the stored prediction of an image, or None if there is none that can be read."""
    try:
        return _read(ref, bucket)[0]
    except NotFoundError:
        return None


def _read(ref: ImageRef, bucket: Bucket) -> tuple[Prediction | None, str]:
    """Return the image's prediction, or None if it cannot be read, and the object's ETag."""
    body, etag = bucket.get_with_etag(output_key(ref))
    try:
        prediction = Prediction.from_json(body)
    except MessageError as error:
        _log.warning("a prediction cannot be read", extra={"key": output_key(ref), "reason": str(error)})
        return None, etag
    # An object at another image's key is not this one's result.
    return (prediction if prediction.ref == ref else None), etag
