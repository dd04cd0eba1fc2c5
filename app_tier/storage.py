"""Reading packs from the input bucket, and publishing results: predictions, response, then deletion of the request.

In this order a deleted request has left a result, even if the worker is killed between two steps. If it is killed
before the predictions are stored, nothing has happened. After that, the pack is received again and answered with the
stored predictions. One prediction of an image is valid (`OutputBucket.store`), and every response repeats it.
botocore's errors pass through once its retries are spent.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.stages import Tasks
from app_tier.task import Delivery, Task
from core.images import ImageLimits, ImageRejectedError, too_large
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.pack_objects import requested_member
from core.messages import ClassificationResult, Prediction, RequestMessage, Response, response_within
from services.clock import CLOCK, Clock
from services.errors import ObjectRefusedError, ObjectTooLargeError, SourceUnavailableError
from services.made_once import made_once
from services.recent_dict import RecentDict
from services.s3 import SourceBuckets
from services.sqs import OutgoingMessage, Queue

RECHECK_SECONDS = 2.0
"""For so long a worker classifies images of a job without asking again whether it is cancelled: it costs one read of
the bucket per job and period, less than a thousandth of what the instance costs."""

MAX_JOBS = 1_000
"""Jobs that are remembered at a time, those asked for last."""

LOCKS = 64
"""Locks that the jobs share, so that threads ask once about a job, and a slow answer delays few other jobs."""

_log = logging.getLogger(__name__)


def answered_before(task: Task[None], outputs: OutputBucket) -> list[Task[ClassificationResult]]:
    """Return the answers of the images of a delivery of which an earlier one has stored a prediction with a label.

    The images may have been deleted since, as soon as their labels were stored, while this delivery was on its way.
    """
    request = task.delivery.request
    earlier = outputs.predictions(request.job_id, request.pack_id, is_lone=request.is_lone)
    found = ((place, earlier.get(request.ref_at(place).image_id)) for place in request.places)
    return [
        _repeat(task.image(place, None), each) for place, each in found if each is not None and each.status == "done"
    ]


def store(answers: Tasks[ClassificationResult], outputs: OutputBucket) -> list[Task[ClassificationResult]]:
    """Return answers of one delivery with responses in place of the predictions among them, which are stored.

    One that may not replace another that stands is answered with that. The response alone knows how long storing
    took.
    """
    predictions = [each.payload for each in answers if isinstance(each.payload, Prediction)]
    if not predictions:
        return list(answers)
    before = CLOCK.monotonic()
    standing = {
        each.image_id: each for each in outputs.store(predictions, is_lone=answers[0].delivery.request.is_lone)
    }
    milliseconds = (CLOCK.monotonic() - before) * 1000
    stored = list[Task[ClassificationResult]]()
    for answer in answers:
        prediction = standing.get(answer.payload.image_id)
        if prediction is None:
            stored.append(answer)
        elif prediction is not answer.payload:
            stored.append(_repeat(answer, prediction))
        else:
            timed = answer.with_payload(None, stored=milliseconds)
            response = prediction.response().model_copy(update={"timings": timed.timings})
            stored.append(timed.with_payload(response))
    return stored


def respond(tasks: Tasks[Tasks[ClassificationResult]], responses: Queue) -> list[Delivery]:
    """Send up to ten responses; return the deliveries that have been answered by it.

    A response that is too large for the queue loses its last labels, or refers to the stored predictions.
    """
    messages = []
    for task in tasks:
        delivery, results = task.delivery, tuple(each.payload for each in task.payload)
        whole = Response(images=len(delivery.request.sizes), results=results)
        response = response_within(whole, responses.max_message_bytes)
        messages.append(OutgoingMessage(delivery.receipt, response.to_json(), delivery.received.group))
    refused = {message.id for message in responses.send(messages)}
    return [task.delivery for task in tasks if task.delivery.receipt not in refused]


def delete(answered: Sequence[Delivery], requests: Queue) -> None:
    """Delete the requests that have been answered; one that stays comes again, which is harmless."""
    kept = requests.delete([delivery.receipt for delivery in answered])  # nosec B113 # a queue of that name
    if kept:
        _log.warning("requests were not deleted and come again", extra={"messages": len(kept)})


def _repeat(task: Task[object], stored: Prediction) -> Task[ClassificationResult]:
    """Return the task with `stored` as its response, which answers the task's attempt in its trace."""
    attempt = max(stored.attempt, task.delivery.request.attempt)
    own = {"attempt": attempt, "repeated": True, "traceparent": task.traceparent}
    return task.with_payload(stored.response().model_copy(update=own))


class PackReader:
    """Reads the images of requested packs, in the input bucket or where their user has them; threads may share it.

    Errors of reading are `ObjectRefusedError` and `SourceUnavailableError` where S3 does not return an object of a
    user, and `NotFoundError` where an object of the input bucket is gone. An image that is larger than one may be is
    an `ImageRejectedError`, and is not read.

    Args:
        new_sources: returns the buckets of users, of which few workers read any.
    """

    def __init__(
        self,
        inputs: InputBucket,
        new_sources: Callable[[], SourceBuckets],
        limits: ImageLimits,
        clock: Clock = CLOCK,
    ) -> None:
        self._inputs, self._new_sources, self._limits, self._clock = inputs, new_sources, limits, clock
        self._lock = threading.Lock()

    @made_once
    def _sources(self) -> SourceBuckets:
        return self._new_sources()

    def images(
        self, task: Task[None], places: Sequence[int], reject: Callable[[Task[None], Exception], None]
    ) -> Iterator[Task[bytes]]:
        """Yield the images of a delivery at some places, those that can be read; `reject` gets each other one.

        All are read first, unless each is an object of its user.
        """
        before, request = self._clock.monotonic(), task.delivery.request
        if request.source is None:
            parts = self._requested(request, places)
        elif request.source.is_shard:
            parts = self._members(request, request.source.starts, places)
        else:
            for image in self.objects(task, places):
                try:
                    yield self.image_of_object(image)
                except (ImageRejectedError, ObjectRefusedError) as error:
                    reject(image, error)
            return
        pack = task.with_payload(None, fetched=(self._clock.monotonic() - before) * 1000)
        for place, part in zip(places, parts, strict=True):
            try:
                yield pack.image(place, requested_member(request, part, place))
            except ImageRejectedError as error:
                reject(pack.image(place, None), error)

    def objects(self, task: Task[None], places: Sequence[int]) -> Iterator[Task[None]]:
        """Yield images that are an object each, in random order: if a bucket fails, none is left out each time."""
        in_random_order = random.sample(places, len(places))  # nosec B311 # not a secret
        return (task.image(place, None) for place in in_random_order)

    def image_of_object(self, image: Task[None]) -> Task[bytes]:
        """Return an image that is an object of its user."""
        before, request, place = self._clock.monotonic(), image.delivery.request, image.place or 0
        if (size := request.sizes[place]) > self._limits.max_bytes:
            raise too_large(size, self._limits)
        data = self._read_source(request, place, size)
        return image.with_payload(data, fetched=(self._clock.monotonic() - before) * 1000)

    def _requested(self, request: RequestMessage, places: Sequence[int]) -> Iterator[bytes]:
        try:
            return self._inputs.requested(request, places, self._limits.max_bytes)
        except ObjectTooLargeError as error:
            raise too_large(error.size, self._limits) from error

    def _members(self, request: RequestMessage, starts: Sequence[int], places: Sequence[int]) -> Iterator[bytes]:
        """Read members of a user's shard with one call, then yield them."""
        parts = [(starts[place], starts[place] + request.sizes[place]) for place in places]
        first, end = parts[0][0], parts[-1][1]
        data = self._read_source(request, 0, end - first, first)
        return (data[start - first : stop - first] for start, stop in parts)

    def _read_source(self, request: RequestMessage, place: int, size: int, start: int | None = None) -> bytes:
        """Return the object that has an image, or a part of it, as `SourceBuckets.read` does.

        Any other error counts as one of the user's bucket: a fault of this worker shows in the buckets of the system.
        """
        if (source := request.source) is None:
            raise ValueError(f"the pack {request.pack_id} is in the input bucket")
        try:
            return self._sources.read(source.bucket, *source.object_of(place), size, start)
        except (BotoCoreError, ClientError) as error:
            raise SourceUnavailableError(f"{source.bucket}: {error}") from error


class CancelledJobs:
    """Finds out which jobs are cancelled, by their tombstones in the input bucket; threads may share it.

    Only "not cancelled" is remembered, and only for `RECHECK_SECONDS`: a retry deletes the tombstone before it sends
    requests, so an image that is requested after that is never taken for cancelled.
    """

    def __init__(self, inputs: InputBucket, clock: Clock = CLOCK) -> None:
        self._inputs, self._clock = inputs, clock
        self._checked = RecentDict[str, float](MAX_JOBS)
        self._lock = threading.Lock()
        self._asking = tuple(threading.Lock() for _ in range(LOCKS))

    def has(self, job_id: str) -> bool:
        """Return whether a job is cancelled, or was not cancelled at most `RECHECK_SECONDS` ago."""
        now = self._clock.monotonic()
        if self._was_checked(job_id, now):
            return False
        with self._asking[hash(job_id) % len(self._asking)]:
            if self._was_checked(job_id, now):  # by a thread with another image of this job
                return False
            if self._inputs.has_tombstone(job_id):
                return True
            with self._lock:
                self._checked[job_id] = now
            return False

    def _was_checked(self, job_id: str, now: float) -> bool:
        with self._lock:
            return now - self._checked.get(job_id, float("-inf")) < RECHECK_SECONDS
