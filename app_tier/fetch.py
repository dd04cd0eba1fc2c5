"""Fetch: the image's bytes, from the input bucket."""

import time
from collections.abc import Callable

from app_tier.task import Task
from services.s3 import Bucket


def fetch(task: Task[None], bucket: Bucket, clock: Callable[[], float] = time.perf_counter) -> Task[bytes]:
    """Return the task with the object that its request names.

    Raises:
        NotFoundError: the object is gone.
        botocore.exceptions.BotoCoreError, ClientError: once the retries are spent.
    """
    before = clock()
    data = bucket.get(task.delivery.request.key)
    return task.then(data, fetched=(clock() - before) * 1000)
