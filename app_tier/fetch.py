"""Fetch: the image's bytes, from the input bucket."""

import time
from collections.abc import Callable
from hashlib import sha256

from app_tier.task import Task
from core.image_limits import ImageLimits, too_large
from services.errors import ObjectTooLargeError
from services.s3 import Bucket


def fetch(
    task: Task[None], bucket: Bucket, limits: ImageLimits, clock: Callable[[], float] = time.perf_counter
) -> Task[bytes]:
    """Return the task with the object that its request names, and the object's SHA-256.

    Raises:
        NotFoundError: the object is gone.
        ImageRejectedError: it is larger than an image may be, and was not read.
        botocore.exceptions.BotoCoreError, ClientError: once the retries are spent.
    """
    before = clock()
    try:
        data = bucket.get(task.delivery.request.key, limits.max_bytes)
    except ObjectTooLargeError as error:
        raise too_large(error.size, limits) from error
    return task.then(data, fetched=(clock() - before) * 1000).identified(sha256(data).hexdigest())
