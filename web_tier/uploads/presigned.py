"""Presigned uploads: a client puts its images directly into the input bucket; their bytes do not pass through here.

There are two steps:

* `offer` returns a presigned form for each file: it fixes key, type, tags and maximum size, and expires. The files
  are charged to their user's quota, whether they arrive or not. They are stored as a `FirstUpload`, so that nothing
  else can be committed;
* `commit` copies the objects that exist to the keys of their images, and accepts the images: it records and enqueues
  them. It may be repeated at any time, also concurrently: a recorded image is accepted for good, even if its
  object is lost.

A form may be sent again as long as it is valid. No image is ever read from its key, and a copy replaces no object. So
only the object that the first commit finds becomes the image. A commit deletes the objects of
the forms. A sweep deletes what stays for a day: the objects of forms that were sent again or never committed, and
copies of images that were not recorded (`core/jobs/sweeps.py`).

A worker finds out whether an object is a valid image.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256

from ulid import ULID

from core.ids import new_id, positioned_id
from core.images import FORMATS, too_large
from core.jobs.models import ImageRecord, Job
from core.jobs.uploads import FirstUpload, UploadedImages
from services.errors import NotFoundError
from services.s3 import Forms, SourceBuckets, StoredObject, UploadForm
from services.table import CLOUD_ERRORS
from web_tier.http.parameters import clean_filename
from web_tier.http.quotas import UNLIMITED, QuotaScope
from web_tier.uploads.idempotency import claim_upload
from web_tier.uploads.ingest import ImageIngest, RejectedUpload, UploadResult, unavailable

COPY_TRIES = 3
"""Tries of a commit to copy an object while its form is sent again."""

_FORMAT_OF = {accepted.content_type: accepted for accepted in FORMATS.values()}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file as its owner declares it: `size` in bytes, and its `position` in the job if the owner chose one."""

    name: str
    size: int
    content_type: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class PresignedOffer:
    """What a client may upload until `expires_at`: images and their forms, by the file's position in the request."""

    upload_id: str
    expires_at: datetime
    images: UploadedImages
    forms: Mapping[int, UploadForm]


@dataclass(frozen=True)
class PresignedUploads:
    """Accepts images that their owners put into the input bucket themselves.

    Attributes:
        seconds: lifetime of a form.
        copies: copies objects within the input bucket.
    """

    ingest: ImageIngest
    forms: Forms
    seconds: int
    copies: SourceBuckets

    def offer(
        self, job: Job, files: Sequence[FileSpec], key: str | None = None, quota: QuotaScope = UNLIMITED
    ) -> tuple[PresignedOffer | None, dict[int, RejectedUpload]]:
        """Return the forms for those of `files` that a job may accept, and the rejections of the others.

        A repeat with the same `key` gets the same images, in new forms. There is no offer if all files are rejected.

        Raises:
            NotFoundError, ReusedKeyError, QuotaExceededError: as for `claim_upload`; there is no offer.
        """
        results = {index: self._check(job, file) for index, file in enumerate(files)}
        rejected = {index: each for index, each in results.items() if isinstance(each, RejectedUpload)}
        declared = {index: each for index, each in results.items() if isinstance(each, ImageRecord)}
        if not declared:
            return None, rejected
        # The same key in the same job stands for the same upload.
        fixed = None if key is None else sha256(f"{job.job_id} {key}".encode()).digest()[:16]
        upload_id = new_id() if fixed is None else str(ULID.from_bytes(fixed))
        self.ingest.mark(job.job_id)
        wanted = [(index, each.filename, each.size, each.extension) for index, each in declared.items()]
        mine = FirstUpload(sha256(json.dumps(wanted).encode()).hexdigest(), declared)
        images = claim_upload(self.ingest.store.table, job, _key_of(upload_id), mine, quota).images
        # The last form is presigned a little later than this, so no form expires before the time that is returned.
        expires_at = self.ingest.clock.utc_now() + timedelta(seconds=self.seconds)
        bucket = self.ingest.bucket
        forms = {index: bucket.form(self.forms, image, self.seconds) for index, image in images.items()}
        return PresignedOffer(upload_id, expires_at.replace(microsecond=0), images, forms), rejected

    def commit(self, job: Job, upload_id: str) -> dict[int, UploadResult]:
        """Accept the images of an upload that have arrived; return the result of each file, by its position.

        Raises:
            NotFoundError: the job has no such upload.
            TableBusyError: some could not be recorded; committing again continues with them.
        """
        began = self.ingest.clock.utc_now()
        upload = FirstUpload.find(self.ingest.store.table, job, _key_of(upload_id))
        if upload is None:
            raise NotFoundError(f"there is no upload {upload_id!r} in this job: ask for one first")
        accepted = self.ingest.store.images_of([image.ref for image in upload.images.values()])
        pending = [image for image in upload.images.values() if image.ref not in accepted]
        if pending:
            self.ingest.mark(job.job_id)
        taken = self.ingest.pool.map(partial(self._take, job), pending)
        found = dict(zip([image.ref for image in pending], taken, strict=True))
        # A missing object, or one that could be copied, may have been accepted, classified and deleted meanwhile.
        accepted |= self.ingest.store.images_of([image.ref for image in pending])
        results = {**found, **accepted}
        arrived = [each for ref, each in found.items() if isinstance(each, ImageRecord) and ref not in accepted]
        if arrived:
            self.ingest.check_age(began)
            self.ingest.complete(arrived, job.group)
        self._delete_sent([each for each in results.values() if isinstance(each, ImageRecord)])
        return {index: results[image.ref] for index, image in upload.images.items()}

    def _delete_sent(self, accepted: Sequence[ImageRecord]) -> None:
        try:
            self.ingest.bucket.delete(accepted, of_form=True)
        except CLOUD_ERRORS:
            _log.warning("the objects of %d forms are left to a sweep", len(accepted), exc_info=True)

    def _check(self, job: Job, file: FileSpec) -> UploadResult:
        """Return the record of the file's image if it arrives as declared, or the rejection of the file."""
        name, limits = clean_filename(file.name), self.ingest.limits
        format_ = _FORMAT_OF.get(file.content_type.strip().lower())
        if format_ is None:
            return RejectedUpload(
                name,
                "format_not_allowed",
                f"{file.content_type[:80]!r} is not accepted: send {', '.join(_FORMAT_OF)}",
            )
        if file.size < 1:
            return RejectedUpload(name, "empty", "the file is empty: send it again")
        if file.size > limits.max_bytes:
            return RejectedUpload(name, "too_large", too_large(file.size, limits).message)
        image_id = new_id() if file.position is None else positioned_id(job.job_id, file.position)
        return ImageRecord.of(job, image_id, name, format_, file.size, self.ingest.clock.utc_now())

    def _take(self, job: Job, image: ImageRecord) -> UploadResult:
        """Copy an object that has arrived as declared to be its image; return the record, or a rejection."""
        bucket = self.ingest.bucket
        try:
            for _ in range(COPY_TRIES):
                if (sent := bucket.head(image, of_form=True)) is not None:
                    if (rejection := _rejection(image, sent)) is not None:
                        return rejection
                    if bucket.copy_form(self.copies, image, sent, is_kept=job.keep):
                        return replace(image, sizes=(sent.size,), accepted_at=self.ingest.clock.utc_now())
                # The copy of another commit stays. A commit that copied an object may have ended before it recorded.
                if (own := bucket.head(image)) is not None:
                    stays = replace(image, sizes=(own.size,), accepted_at=own.put_at)
                    return _rejection(image, own) or stays
                if sent is None:
                    return _missing(image)
        except CLOUD_ERRORS:
            extra = {"job_id": image.ref.job_id, "image_id": image.ref.image_id}
            _log.warning("an upload could not be looked up", extra=extra, exc_info=True)
        return unavailable(image.filename)


def _missing(image: ImageRecord) -> RejectedUpload:
    return RejectedUpload(image.filename, "missing", "it has not arrived: send its form, then commit again")


def _rejection(image: ImageRecord, found: StoredObject) -> RejectedUpload | None:
    """Return the rejection of an object that has not arrived as declared, which S3 normally rejects, or None."""
    if found.content_type != (wanted := image.content_type):
        message = f"it arrived as {found.content_type[:80]!r}, not {wanted}: ask for another upload"
        return RejectedUpload(image.filename, "other_type", message)
    if found.size == 0:
        return RejectedUpload(image.filename, "empty", "it arrived empty: send its form again, then commit again")
    if found.size > image.size:
        message = f"{found.size} bytes arrived, {image.size} were declared: ask for another upload"
        return RejectedUpload(image.filename, "too_large", message)
    return None


def _key_of(upload_id: str) -> str:
    # With a space, which no Idempotency-Key has: never the key of a form that was sent here.
    return f"upload {upload_id}"
