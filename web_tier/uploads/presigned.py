"""Presigned uploads: a client puts its images directly into the input bucket; their bytes do not pass through here.

There are two steps:

* `offer` returns a presigned form for each pack of the files: it fixes key, type, tags and size, and expires. The
  files are charged to their user's quota, whether they arrive or not. They are stored as a `FirstUpload`, so that
  nothing else can be committed;
* `commit` copies the objects that exist to the keys of their packs, and accepts the images: it records and enqueues
  them. It may be repeated at any time, also concurrently: a recorded image is accepted for good, even if its
  object is lost.

A form may be sent again as long as it is valid. No image is ever read from its key, and a copy replaces no object. So
only the object that the first commit finds becomes that of the pack. A commit deletes the objects of the forms. A
sweep deletes what stays for a day: the objects of forms that were sent again or never committed, and copies of packs
that were not recorded (`core/jobs/sweeps.py`).

A worker finds out whether a pack is a valid tar, and each member a valid image.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from itertools import groupby

from ulid import ULID

from core.ids import ImageRef, new_id, positioned_id
from core.images import FORMATS, too_large
from core.jobs.models import ImageRecord, Job
from core.jobs.pack_objects import object_bytes
from core.jobs.packs import by_pack
from core.jobs.uploads import FirstUpload, UploadedImages
from services.errors import NotFoundError
from services.s3 import Forms, SourceBuckets, StoredObject, UploadForm
from services.table import CLOUD_ERRORS
from web_tier.http.parameters import clean_filename
from web_tier.http.quotas import UNLIMITED, QuotaScope
from web_tier.uploads.idempotency import claim_upload
from web_tier.uploads.ingest import ImageIngest, RejectedUpload, UploadResult, unavailable
from web_tier.uploads.packing import PackDivider

COPY_TRIES = 3
"""Tries of a commit to copy an object while its form is sent again."""

_FORMAT_OF = {accepted.content_type: accepted for accepted in FORMATS.values()}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file as its owner declares it.

    Attributes:
        size: in bytes.
        position: of its image among those of the job, if the owner chose one.
        left: files that the owner still has for the job, with this one, if the owner says so.
    """

    name: str
    size: int
    content_type: str
    position: int | None = None
    left: int | None = None


@dataclass(frozen=True, slots=True)
class PresignedOffer:
    """What a client may upload until `expires_at`: the images of packs, each with the form that takes it."""

    upload_id: str
    expires_at: datetime
    packs: Sequence[tuple[UploadForm, UploadedImages]]


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
        self,
        job: Job,
        files: Sequence[FileSpec],
        key: str | None = None,
        quota: QuotaScope = UNLIMITED,
        so_far: int = 0,
    ) -> tuple[PresignedOffer | None, dict[int, RejectedUpload]]:
        """Return the forms for those of `files` that a job may accept, and the rejections of the others.

        A repeat with the same `key` gets the same images, in new forms. There is no offer if all files are rejected.
        `so_far` is a lower bound of the images that the job has had.

        Raises:
            NotFoundError, ReusedKeyError, QuotaExceededError: as for `claim_upload`; there is no offer.
        """
        results = {index: self._check(file) for index, file in enumerate(files)}
        rejected = {index: each for index, each in results.items() if isinstance(each, RejectedUpload)}
        declared = {index: each for index, each in results.items() if not isinstance(each, RejectedUpload)}
        if not declared:
            return None, rejected
        divider, packs = PackDivider[int](self.ingest.sizes, so_far), list[list[int]]()
        for index in declared:
            packs += divider.add(index, files[index].size, files[index].position, files[index].left)
        now, new = self.ingest.clock.utc_now(), dict[int, ImageRecord]()
        for pack in filter(None, [*packs, divider.take_open()]):
            position = files[pack[0]].position
            pack_id = new_id() if position is None else positioned_id(job.job_id, position)
            images = ImageRecord.of_pack(job, pack_id, [declared[index] for index in pack], now)
            new |= zip(pack, images, strict=True)
        # The same key in the same job stands for the same upload.
        fixed = None if key is None else sha256(f"{job.job_id} {key}".encode()).digest()[:16]
        upload_id = new_id() if fixed is None else str(ULID.from_bytes(fixed))
        self.ingest.mark(job.job_id)
        mine = FirstUpload(sha256(json.dumps([*declared.items()]).encode()).hexdigest(), new)
        first = claim_upload(self.ingest.store.table, job, _key_of(upload_id), mine, quota)
        # The last form is presigned a little later than this, so no form expires before the time that is returned.
        expires_at = self.ingest.clock.utc_now() + timedelta(seconds=self.seconds)
        offered = list[tuple[UploadForm, UploadedImages]]()
        for _, some in groupby(first.images.items(), key=lambda each: each[1].pack_id):
            image, *_ = (taken := dict(some)).values()
            offered.append((self.ingest.bucket.form(self.forms, image, self.seconds), taken))
        return PresignedOffer(upload_id, expires_at.replace(microsecond=0), offered), rejected

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
        pending = by_pack(image for image in upload.images.values() if image.ref not in accepted)
        if pending:
            self.ingest.mark(job.job_id)
        found = dict[ImageRef, UploadResult]()
        for pack, outcome in zip(pending, self.ingest.pool.map(partial(self._take, job), pending), strict=True):
            for image in pack:
                found[image.ref] = (
                    replace(outcome, filename=image.filename)
                    if isinstance(outcome, RejectedUpload)
                    else replace(image, accepted_at=outcome)
                )
        # A missing object, or one that could be copied, may have been accepted, classified and deleted meanwhile.
        accepted |= self.ingest.store.images_of(found)
        results = {**found, **accepted}
        arrived = [each for ref, each in found.items() if isinstance(each, ImageRecord) and ref not in accepted]
        if arrived:
            self.ingest.check_age(began)
            self.ingest.complete(arrived, job.group, presigned=True)
        self._delete_sent([each for each in results.values() if isinstance(each, ImageRecord)])
        return {index: results[image.ref] for index, image in upload.images.items()}

    def _delete_sent(self, accepted: Sequence[ImageRecord]) -> None:
        try:
            self.ingest.bucket.delete(accepted, of_form=True)
        except CLOUD_ERRORS:
            _log.warning("the objects of %d forms are left to a sweep", len(accepted), exc_info=True)

    def _check(self, file: FileSpec) -> tuple[str, str, int] | RejectedUpload:
        """Return name, extension and size of the file's image if it arrives as declared, or its rejection."""
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
        return name, format_.extension, file.size

    def _take(self, job: Job, pack: Sequence[ImageRecord]) -> datetime | RejectedUpload:
        """Copy what has arrived as declared to be the object of a pack.

        Returns when the object was put, or the rejection of the first image, which is that of all.
        """
        bucket, image = self.ingest.bucket, pack[0]
        try:
            for _ in range(COPY_TRIES):
                if (sent := bucket.head(image, of_form=True)) is not None:
                    if (rejection := _rejection(image, sent)) is not None:
                        return rejection
                    if bucket.copy_form(self.copies, image, sent, is_kept=job.keep):
                        return self.ingest.clock.utc_now()
                # The copy of another commit stays. A commit that copied an object may have ended before it recorded.
                if (own := bucket.head(image)) is not None:
                    return own.put_at
                if sent is None:
                    return RejectedUpload(
                        image.filename, "missing", "it has not arrived: send its form, then commit again"
                    )
        except CLOUD_ERRORS:
            extra = {"job_id": image.ref.job_id, "image_id": image.ref.image_id}
            _log.warning("an upload could not be looked up", extra=extra, exc_info=True)
        return unavailable(image.filename)


def _rejection(image: ImageRecord, found: StoredObject) -> RejectedUpload | None:
    """Return the rejection of an object that has not arrived as declared, which S3 normally rejects, or None."""
    if found.content_type != (wanted := image.object_type):
        message = f"it arrived as {found.content_type[:80]!r}, not {wanted}: ask for another upload"
        return RejectedUpload(image.filename, "other_type", message)
    if found.size not in (wanted_bytes := object_bytes(image.sizes)):
        message = f"{found.size} bytes arrived, {wanted_bytes[0]} were declared: ask for another upload"
        return RejectedUpload(image.filename, "other_size", message)
    return None


def _key_of(upload_id: str) -> str:
    # With a space, which no Idempotency-Key has: never the key of a form that was sent here.
    return f"upload {upload_id}"
