"""The objects of jobs in the input and the output bucket: no other module names their keys.

| bucket | key                   | content                                                         | written by  |
| ------ | --------------------- | --------------------------------------------------------------- | ----------- |
| input  | `JOB/IMAGE.EXT`       | an image as its user sent it                                    | web, copies |
| input  | `JOB/PACK.tar`        | the images of a pack of several (`core/jobs/pack_objects.py`)   | web, copies |
| input  | `JOB/forms/IMAGE.EXT` | what a presigned form has put: an image or, as `PACK.tar`, many | clients     |
| input  | `JOB/cancelled`       | tombstone of a cancelled job                                    | both        |
| output | `JOB/IMAGE.json`      | the prediction of a lone image, with its thumbnail              | both        |
| output | `JOB/PACK.jsonl`      | the predictions of a pack of many, a line each, `to_line`       | both        |
| output | `JOB/IMAGE.tries`     | deliveries with which an image may have ended workers           | worker      |
| output | `results/JOB.jsonl`   | all results of a job                                            | controller  |

The objects of a job that keeps no images are tagged, so that a lifecycle rule of the bucket can delete what is left.
botocore's errors pass through once their retries are spent.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, Self

from core.ids import ImageRef, is_id, pack_of, place_of
from core.images import thumbnail_type
from core.jobs.keys import cancelled_key, form_key, merged_key, output_key, outputs_key, tries_key
from core.jobs.pack_objects import content, member_part, object_bytes, object_key
from core.messages import ClassificationResult, Prediction, RequestMessage
from services.clients import Clients
from services.errors import FleetsightError, MessageError, NotFoundError
from services.recent_dict import RecentDict
from services.s3 import Bucket, FolderPage, Forms, SourceBuckets, StoredObject, UploadForm

if TYPE_CHECKING:  # a worker starts without them
    from core.jobs.models import ImageRecord, MergedFile

JSON_LINES: Final = "application/x-ndjson"
"""Content type of JSON Lines (https://github.com/ndjson/ndjson-spec), as which results files are stored."""

MAX_WRITES: Final = 10
"""Maximum conditional writes of one object; a refused one means that another one was stored meanwhile."""

MAX_RECENT: Final = 8
"""Objects with the predictions of several images that a process remembers, half a megabyte each."""

UNKEPT: Final = {"kept": "no"}
"""The object tag of images that their job does not keep; kept images have none."""

_log = logging.getLogger(__name__)


class WriteConflictError(FleetsightError):
    """Raised when an object could not be stored because others were stored repeatedly; try again later."""


class _JobBucket:
    """One bucket with a folder for each job."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @classmethod
    def named(cls, clients: Clients, name: str) -> Self:
        """Return the bucket called `name`; the first call fails if it does not exist."""
        return cls(Bucket.named(clients, name))

    def remove_job(self, job_id: str, limit: int) -> int:
        """Delete up to `limit` objects of a deleted job; return how many were found, 0 when none is left."""
        keys = self._bucket.list_keys(job_id, limit)
        self._bucket.delete_all(keys)
        return len(keys)


class InputBucket(_JobBucket):
    """The images of jobs as their users sent them, what presigned forms put, and tombstones of cancelled jobs."""

    # Images

    def put(self, image: "ImageRecord", data: bytes | bytearray, *, is_kept: bool) -> None:
        """Store the object of a pack, of which `image` is one."""
        self._bucket.put(image.key, data, image.object_type, _tags(is_kept))

    def copy_source(
        self, sources: SourceBuckets, bucket: str, key: str, image: "ImageRecord", *, is_kept: bool
    ) -> None:
        """Copy the object of a source to be an image, as `SourceBuckets.copy` does."""
        sources.copy(bucket, key, self._bucket, image.key, image.content_type, _tags(is_kept))

    def original(self, image: "ImageRecord", max_bytes: int) -> bytes:
        """Return an image as its user sent it.

        Raises:
            NotFoundError: it is no longer stored, or stays with its user.
            ObjectTooLargeError: it has more than `max_bytes`; it was not read.
        """
        [data] = self.originals([image], max_bytes)
        return data

    def originals(self, images: Sequence["ImageRecord"], max_bytes: int) -> list[bytes]:
        """Return images of one pack, as `Bucket.get_ranges` reads them; errors are those of `original`.

        A part of an object is never larger than its images were when they were accepted.
        """
        if images[0].source is not None:
            raise NotFoundError(f"the image {images[0].ref.image_id!r} stays with its user, in S3")
        key, sizes, places = images[0].key, images[0].sizes, [place_of(image.ref.image_id) for image in images]
        parts = self._parts(key, sizes, places, max_bytes)
        return [content(sizes, part, place) for place, part in zip(places, parts, strict=True)]

    def requested(self, request: RequestMessage, places: Sequence[int], max_bytes: int) -> Iterator[bytes]:
        """Read images of a requested pack, then yield the `part` of each that `member` needs; errors as `originals`.

        What has put an object of many images has limited its size.
        """
        return self._parts(object_key(request), request.sizes, places, max_bytes)

    def _parts(self, key: str, sizes: Sequence[int], places: Sequence[int], max_bytes: int) -> Iterator[bytes]:
        if len(sizes) == 1:
            return iter([self._bucket.get(key, max_bytes) for _ in places])
        parts = [member_part(sizes, place) for place in places]
        return self._bucket.get_ranges(key, [start for start, _ in parts], [length for _, length in parts])

    def has_original(self, image: "ImageRecord") -> bool:
        """Return whether an image is stored; the others of its pack are if it is.

        An image that stays with its user counts as stored: the worker that reads it knows.
        """
        return image.source is not None or self._bucket.exists(image.key)

    def delete(self, images: Iterable["ImageRecord"], *, of_form: bool = False) -> None:
        """Delete the objects of images, with all of their packs, or of their forms; missing ones are ignored.

        The objects of a user are left alone.
        """
        keys = (_form_key(image) if of_form else image.key for image in images if image.source is None)
        self._bucket.delete_all([*dict.fromkeys(keys)])

    # Sweeps

    def list_job(self, copies: SourceBuckets, job_id: str, token: str, limit: int) -> FolderPage:
        """Return a page of the objects of a job, as `SourceBuckets.folder` does."""
        return copies.folder(self._bucket, job_id, token, limit)

    def images_at(self, keys: Iterable[str]) -> Iterator[ImageRef]:
        """Yield the first image of each of `keys` that is of a pack, not of a form or of the tombstone."""
        for key in keys:
            job_id, _, name = key.partition("/")
            if is_id(image_id := name.partition(".")[0]):
                yield ImageRef(job_id, image_id)

    def delete_strays(self, job_id: str, keys: Iterable[str]) -> None:
        """Delete objects of a job, but its tombstone."""
        self._bucket.delete_all([key for key in keys if key != cancelled_key(job_id)])

    # Presigned forms

    def form(self, forms: Forms, image: "ImageRecord", seconds: int) -> UploadForm:
        """Return the form with which a client puts the object of a pack, of which `image` is one.

        It is valid for `seconds`.
        """
        sizes = object_bytes(image.sizes)
        return forms.form(_form_key(image), image.object_type, sizes=sizes, seconds=seconds, tags=UNKEPT)

    def head(self, image: "ImageRecord", *, of_form: bool = False) -> StoredObject | None:
        """Return the metadata of the object of a pack, or of what its form has put; None if there is no object."""
        return self._bucket.head(_form_key(image) if of_form else image.key)

    def copy_form(self, copies: SourceBuckets, image: "ImageRecord", sent: StoredObject, *, is_kept: bool) -> bool:
        """Copy what the form of a pack has put to be the object of the pack.

        Returns False if it is not what was `sent` any more, or if the object exists.
        """
        key, tags = _form_key(image), _tags(is_kept)
        try:
            return copies.copy_new(self._bucket, key, sent.etag, image.key, sent.content_type, tags)
        except NotFoundError:
            return False

    # Tombstones

    def set_tombstone(self, job_id: str, *, exists: bool) -> None:
        """Store the tombstone of a job, or delete it."""
        if exists:
            self._bucket.put(cancelled_key(job_id), b"This job is cancelled.", "text/plain", UNKEPT)
        else:
            self._bucket.delete(cancelled_key(job_id))

    def has_tombstone(self, job_id: str) -> bool:
        """Return whether a job has a tombstone."""
        return self._bucket.exists(cancelled_key(job_id))


class OutputBucket(_JobBucket):
    """The predictions of images, with their thumbnails, and the results files of jobs.

    Of several predictions of an image the first that is `done` remains: it replaces a `failed` one, and nothing
    replaces it. A `failed` prediction replaces one of an earlier attempt. Every write is conditional, so this also
    holds if several processes write at the same time.
    """

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket)
        self._recent = RecentDict[str, bytes](MAX_RECENT)
        self._lock, self._locks = threading.Lock(), tuple(threading.Lock() for _ in range(MAX_RECENT))

    # Predictions

    def store(self, predictions: Sequence[Prediction], *, is_lone: bool) -> list[Prediction]:
        """Store predictions of images of one pack, but those that may not replace a stored one.

        `is_lone` is whether the pack has no other image. Returns what is stored for each of them afterwards.

        Raises:
            WriteConflictError: it is unknown which ones are stored.
        """
        job_id, pack_id = predictions[0].job_id, pack_of(predictions[0].image_id)
        key, content_type = _outputs_key(job_id, pack_id, is_lone), "application/json" if is_lone else JSON_LINES
        stored, etag = dict[str, Prediction](), ""
        for _ in range(MAX_WRITES):
            new = {each.image_id: each for each in predictions if _may_replace(each, stored.get(each.image_id))}
            after = stored | new
            if not new:
                break
            texts = (each.to_json() if is_lone else each.to_line() for _, each in sorted(after.items()))
            body = "\n".join(texts).encode()
            put = partial(self._bucket.put_over, etag=etag) if etag else self._bucket.put_new
            if put(key, body, content_type):
                break
            stored, etag = self._read(job_id, pack_id, is_lone)
        else:
            raise WriteConflictError(f"{key} changed {MAX_WRITES} times while predictions were stored")
        return [after[each.image_id] for each in predictions]

    def predictions(self, job_id: str, pack_id: str, *, is_lone: bool) -> dict[str, Prediction]:
        """Return the stored predictions of a pack, by image; those that cannot be read are left out."""
        return self._read(job_id, pack_id, is_lone)[0]

    def prediction(self, image: "ImageRecord") -> Prediction | None:
        """Return the stored prediction of an image, or None if there is none that can be read.

        Of the objects of several that this process has read, the last ones are remembered: a page with the thumbnails
        of a pack reads it once. A prediction in them that is `done` is the one that is stored.
        """
        ref = image.ref
        if image.is_lone:
            return self.predictions(ref.job_id, ref.image_id, is_lone=True).get(ref.image_id)
        key = outputs_key(ref.job_id, image.pack_id)
        with self._locks[hash(key) % MAX_RECENT]:
            with self._lock:
                known = self._recent.get(key, b"")
            found = _line_of(key, known, ref)
            if found is None or found.status != "done":
                try:
                    body = self._bucket.get(key)
                except NotFoundError:
                    return None
                with self._lock:
                    self._recent[key] = body
                found = _line_of(key, body, ref)
            return found

    def prediction_of(self, image: "ImageRecord", response: ClassificationResult) -> Prediction | None:
        """Return the prediction with one probability per class, or None if it cannot be read.

        A prediction with another label or model belongs to another delivery, so its scores do not belong to this
        result.
        """
        found = self.prediction(image)
        return found if found is not None and (found.label, found.model) == (response.label, response.model) else None

    def thumbnail(self, image: "ImageRecord") -> bytes:
        """Return the thumbnail that a worker drew of an image.

        Raises:
            NotFoundError: there is no prediction of it, or none with a thumbnail.
        """
        found = self.prediction(image)
        if found is None or not found.thumbnail or thumbnail_type(found.thumbnail) is None:
            raise NotFoundError(f"no thumbnail of {image.ref} is stored")
        return found.thumbnail

    def delete_predictions(self, refs: Iterable[ImageRef]) -> None:
        """Delete the predictions of the packs of images, of one image or more; missing ones are ignored."""
        keys = (key for ref in refs for key in (output_key(ref), outputs_key(ref.job_id, pack_of(ref.image_id))))
        self._bucket.delete_all([*dict.fromkeys(keys)])

    def _read(self, job_id: str, pack_id: str, is_lone: bool) -> tuple[dict[str, Prediction], str]:
        """Return the predictions of a pack, by image, and the ETag of their object; an empty one if there is none."""
        key, found = _outputs_key(job_id, pack_id, is_lone), dict[str, Prediction]()
        try:
            body, etag = self._bucket.get_with_etag(key)
        except NotFoundError:
            return {}, ""
        for prediction in (_parsed(key, line) for line in body.splitlines()):
            # An object at another pack's key is not this one's result.
            if prediction and (prediction.job_id, pack_of(prediction.image_id)) == (job_id, pack_id):
                found[prediction.image_id] = prediction
        return found, etag

    # Tries

    def add_try(self, ref: ImageRef, message_id: str, receives: int) -> int:
        """Record that a worker tries an image that may have ended others; return the tries of this message so far.

        The same delivery counts once.

        Raises:
            WriteConflictError: it is unknown which tries are stored.
        """
        key, delivery = tries_key(ref), f"{message_id} {receives}"
        for _ in range(MAX_WRITES):
            try:
                body, etag = self._bucket.get_with_etag(key)
            except NotFoundError:
                body, etag = b"", ""
            tries = body.decode().splitlines()
            of_message = sum(each.startswith(f"{message_id} ") for each in tries)
            if delivery in tries:  # also if the reply to its write was lost
                return of_message
            body = "\n".join([*tries, delivery]).encode()
            put = partial(self._bucket.put_over, etag=etag) if etag else self._bucket.put_new
            if put(key, body, "text/plain"):
                return of_message + 1
        raise WriteConflictError(f"{key} changed {MAX_WRITES} times while a try was stored")

    # Results files

    def put_results_file(self, job_id: str, parts: Iterator[bytes]) -> str:
        """Store the results file of a job from parts that are made meanwhile; return its key."""
        key = merged_key(job_id)
        self._bucket.put_parts(key, parts, JSON_LINES)
        return key

    def results_file(self, merged: "MergedFile") -> Iterator[bytes]:
        """Return a results file in parts; the first part has been read."""
        parts = self._bucket.stream(merged.key)
        return chain([next(parts, b"")], parts)

    def copy_results_file(self, buckets: SourceBuckets, merged: "MergedFile", bucket: str, key: str) -> None:
        """Copy a results file to a bucket of its user, as `SourceBuckets.copy_out` does."""
        buckets.copy_out(self._bucket, merged.key, bucket, key, JSON_LINES)

    def remove_job(self, job_id: str, limit: int) -> int:
        """Delete the results file of a deleted job, and objects as `_JobBucket.remove_job` does."""
        self._bucket.delete(merged_key(job_id))
        return super().remove_job(job_id, limit)


def _outputs_key(job_id: str, pack_id: str, is_lone: bool) -> str:
    return output_key(ImageRef(job_id, pack_id)) if is_lone else outputs_key(job_id, pack_id)


def _may_replace(new: Prediction, stored: Prediction | None) -> bool:
    """Return whether a prediction of an image may be stored where there is this one."""
    if stored is None:
        return True
    return stored.status != "done" and (new.status == "done" or new.attempt > stored.attempt)


def _form_key(image: "ImageRecord") -> str:
    return form_key(image.ref.job_id, image.pack_id, image.object_extension)


def _tags(is_kept: bool) -> dict[str, str] | None:
    return None if is_kept else UNKEPT


def _line_of(key: str, body: bytes, ref: ImageRef) -> Prediction | None:
    """Return the prediction of an image in the object with the predictions of its pack, None if there is none."""
    if (at := body.find(f'"image_id":"{ref.image_id}"'.encode())) < 0:
        return None
    end = body.find(b"\n", at)
    found = _parsed(key, body[body.rfind(b"\n", 0, at) + 1 : len(body) if end < 0 else end])
    return found if found is not None and found.ref == ref else None


def _parsed(key: str, line: bytes) -> Prediction | None:
    try:
        return Prediction.from_json(line)
    except MessageError as error:
        _log.warning("a prediction cannot be read", extra={"key": key, "reason": str(error)})
        return None
