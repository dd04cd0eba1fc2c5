"""Direct uploads: a client puts its images straight into the input bucket; no byte of them passes through here.

In two steps, between which the client does as it likes:

* `offer` hands out a form for each file that may come: it fixes key, type, tags and largest size, and expires. The
  files are charged to their user's day, whether they arrive or not. What was handed out is remembered as a slice, so
  that nothing else can be committed;
* `commit` looks which objects are there and accepts the images that they are: record, send, count. It may be repeated
  at any time, also at the same time: an image that is recorded is accepted for good, also if its object is lost.

An object that is never committed is deleted with its job, or by the bucket's lifecycle rule: every form tags its
object `kept=no`, and only the commit takes the tag from the images of a job that keeps them. Whether an object is an
image at all, its worker finds out.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Protocol

from ulid import ULID

from core.ids import ImageRef, input_key, new_id
from core.image_open import EXTENSION_OF
from core.images import too_large
from core.job_records import ImageRecord, Job
from core.slices import ReusedKeyError, SlicedImages, UploadManifests
from core.upload_counts import UploadCounts
from services.errors import NotFoundError
from services.forms import UploadForm
from services.s3 import StoredObject
from web_tier.intake.accept import RejectedUpload
from web_tier.intake.names import shown_filename
from web_tier.intake.store import CLOUD_ERRORS, UNKEPT, ImageIngest, Outcome, unavailable
from web_tier.limits.allowance import UNLIMITED, Allowance

_TYPE_OF = {extension: content_type for content_type, extension in EXTENSION_OF.items()}
_log = logging.getLogger(__name__)


class Stock(Protocol):
    """Where objects are looked up; `services.s3.Bucket` is one."""

    def look(self, key: str) -> StoredObject | None:
        """Return what is known of the object at `key`, None when there is none."""
        ...


class FormMaker(Protocol):
    """Who makes forms; `services.forms.Forms` is one."""

    def form(
        self,
        key: str,
        content_type: str,
        *,
        max_bytes: int,
        seconds: int,
        tags: Mapping[str, str] | None = None,
    ) -> UploadForm:
        """Return a form that puts one object of `content_type` with up to `max_bytes` at `key`, with these tags."""
        ...


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file as its owner declares it: `size` in bytes."""

    name: str
    size: int
    content_type: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client may put until `expires_at`: images and their forms by the position of the file in the request."""

    upload_id: str
    expires_at: datetime
    images: SlicedImages
    forms: Mapping[int, UploadForm]


@dataclass(frozen=True)
class DirectIntake:
    """Takes images in that their owners put into the input bucket themselves.

    Attributes:
        intake: records, sends and counts.
        stock: the input bucket.
        forms: makes forms for the input bucket.
        seconds: how long a form is taken.
        untag: takes the tags from the object at a key; one that has none is no error.
    """

    intake: ImageIngest
    stock: Stock
    forms: FormMaker
    seconds: int
    untag: Callable[[str], None]

    def offer(
        self, job: Job, files: Sequence[FileSpec], key: str | None = None, allowance: Allowance = UNLIMITED
    ) -> tuple[Offer | None, dict[int, RejectedUpload]]:
        """Return the forms for those of `files` that may come into a job that exists, and why others may not.

        With `key` a repeat is offered the same images again, in forms that last anew. No offer: no file may come.

        Raises:
            ReusedKeyError: when `key` came with other files.
            QuotaExceededError: when they are more than the `allowance`; nothing is handed out then.
        """
        outcomes = {index: self._checked(job.job_id, file) for index, file in enumerate(files)}
        rejected = {index: each for index, each in outcomes.items() if isinstance(each, RejectedUpload)}
        wanted = {index: each for index, each in outcomes.items() if isinstance(each, ImageRecord)}
        if not wanted:
            return None, rejected
        upload_id = new_id() if key is None else _upload_id_of(job.job_id, key)
        images = self._remembered(job.job_id, upload_id, wanted, allowance)
        return self._handed_out(upload_id, images), rejected

    def commit(self, job: Job, upload_id: str) -> dict[int, Outcome]:
        """Accept what has arrived of an upload; return what became of each file, by its position in the request.

        Raises:
            NotFoundError: when there is no such upload in the job.
            TableBusyError: when not all could be recorded; committing again goes on with them.
        """
        offer = self._slices.find(job.job_id, _slice_key(upload_id))
        if offer is None:
            raise NotFoundError(f"there is no upload {upload_id!r} in this job: ask for one first")
        accepted = self.intake.store.images_of([image.ref for image in offer.images.values()])
        if accepted:
            # The process that recorded them may have died before the job was marked as open.
            self.intake.store.reopen(job.job_id, self.intake.clock())
        waiting = [image for image in offer.images.values() if image.ref not in accepted]
        found = self.intake.pool.map(lambda image: self._looked_at(image, keep=job.keep), waiting)
        looked = dict(zip([image.ref for image in waiting], found, strict=True))
        self._accept(job.job_id, upload_id, [each for each in looked.values() if isinstance(each, ImageRecord)])
        # What is missing may have been accepted meanwhile, classified, and deleted.
        refused = [ref for ref, found in looked.items() if isinstance(found, RejectedUpload)]
        outcomes = {**looked, **accepted, **self.intake.store.images_of(refused)}
        return {index: outcomes[image.ref] for index, image in offer.images.items()}

    @property
    def _slices(self) -> UploadManifests:
        return UploadManifests(self.intake.store.table)

    def _checked(self, job_id: str, file: FileSpec) -> Outcome:
        """Return the record that the file's image will have if it comes as declared, or why it may not come."""
        name, limits = shown_filename(file.name), self.intake.limits
        extension = EXTENSION_OF.get(file.content_type.strip().lower())
        if extension is None:
            taken = ", ".join(EXTENSION_OF)
            return RejectedUpload(
                name, "format_not_allowed", f"{file.content_type[:80]!r} is not taken: send {taken}"
            )
        if file.size < 1:
            return RejectedUpload(name, "empty", "the file is empty: send it again")
        if file.size > limits.max_bytes:
            return RejectedUpload(name, "too_large", too_large(file.size, limits).message)
        ref = ImageRef(job_id, new_id())
        return ImageRecord(ref, name, input_key(ref, extension), file.size, self.intake.clock())

    def _remembered(self, job_id: str, upload_id: str, wanted: SlicedImages, allowance: Allowance) -> SlicedImages:
        """Return the images of an upload: `wanted`, or those of the first request with the same key.

        The first request is charged.
        """
        first = self._slices.find(job_id, _slice_key(upload_id))
        if first is None:
            with allowance.charged(list(wanted.values())) as receipt:
                if self._slices.claim(job_id, _slice_key(upload_id), wanted):
                    receipt.keep(list(wanted.values()))
                    return wanted
            first = self._slices.find(job_id, _slice_key(upload_id))
        if first is None or _declared(first.images) != _declared(wanted):
            raise ReusedKeyError(f"the upload {upload_id!r} was asked for with other files before")
        return first.images

    def _handed_out(self, upload_id: str, images: SlicedImages) -> Offer:
        # Of a form that is made a little later than this the end is a little later, too: never before what is said.
        expires_at = self.intake.clock() + timedelta(seconds=self.seconds)
        forms = {index: self._form(image) for index, image in images.items()}
        return Offer(upload_id, expires_at.replace(microsecond=0), images, forms)

    def _form(self, image: ImageRecord) -> UploadForm:
        return self.forms.form(image.key, _type_of(image), max_bytes=image.size, seconds=self.seconds, tags=UNKEPT)

    def _looked_at(self, image: ImageRecord, *, keep: bool) -> Outcome:
        """Return the record of an image that has arrived as declared, now kept if it is to be, or what is wrong."""
        try:
            found = self.stock.look(image.key)
            if found is None:
                return RejectedUpload(
                    image.filename, "missing", "it has not arrived: send its form, then commit again"
                )
            if fault := _fault(image, found):
                return RejectedUpload(image.filename, *fault)
            if keep:
                self.untag(image.key)
        except CLOUD_ERRORS:
            _log.exception("an upload could not be looked up", extra={"job_id": image.ref.job_id, "key": image.key})
            return unavailable(image.filename)
        return replace(image, size=found.size, accepted_at=self.intake.clock())

    def _accept(self, job_id: str, upload_id: str, images: Sequence[ImageRecord]) -> None:
        """Record, send and count images; those that another commit counts, or may count, are not counted here."""
        ids = frozenset(image.ref.image_id for image in images)
        ours = UploadCounts(self.intake.store.table).mark(job_id, upload_id, ids) if ids else frozenset()
        for counted in (True, False):
            part = [image for image in images if (image.ref.image_id in ours) is counted]
            if part:
                self.intake.finish(part, count=counted)


def _upload_id_of(job_id: str, key: str) -> str:
    """Return the id of the upload that a request with an Idempotency-Key asks for, the same each time."""
    return str(ULID.from_bytes(sha256(f"{job_id} {key}".encode()).digest()[:16]))


def _slice_key(upload_id: str) -> str:
    # With a space, which no Idempotency-Key has: never the slice of a form that was sent here.
    return f"upload {upload_id}"


def _declared(images: SlicedImages) -> dict[int, tuple[str, int, str]]:
    return {index: (image.filename, image.size, _type_of(image)) for index, image in images.items()}


def _type_of(image: ImageRecord) -> str:
    return _TYPE_OF[image.key.rpartition(".")[2]]


def _fault(declared: ImageRecord, found: StoredObject) -> tuple[str, str] | None:
    """Return code and sentence of what is wrong with an object, if anything is; S3 lets none such in."""
    if found.content_type != (wanted := _type_of(declared)):
        return "other_type", f"it arrived as {found.content_type[:80]!r}, not {wanted}: ask for another upload"
    if found.size == 0:
        return "empty", "it arrived empty: send its form again, then commit again"
    if found.size > declared.size:
        return "too_large", f"{found.size} bytes arrived, {declared.size} were declared: ask for another upload"
    return None
