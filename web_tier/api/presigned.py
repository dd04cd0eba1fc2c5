"""Presigned uploads: forms with which clients put images into the bucket, and the commit that accepts them."""

from datetime import datetime
from typing import Self

from flask import Response, request
from pydantic import Field
from werkzeug.exceptions import RequestEntityTooLarge

from core.ids import MAX_POSITION, place_of
from core.jobs.models import ImageRecord
from core.jobs.pack_objects import member_name
from core.jobs.uploads import MAX_FILES
from web_tier.api.schemas import ROOT, AcceptedImage, RejectedImage, UploadOutcome
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parameters import known_id
from web_tier.http.parsing import KeyHeader, idempotency_key, json_response, parse_body
from web_tier.http.rate_limits import current_quota_scope
from web_tier.http.routes import Routes
from web_tier.uploads.presigned import FileSpec, PresignedOffer
from web_tier.uploads.request_body import upload_status

MAX_NAME_CHARACTERS = 1_024
MAX_SIZE_BYTES = 2**53
MAX_BODY_BYTES = 2**20
"""Longest request for forms: enough for the longest names of all files."""

_EXAMPLE = '{"files": [{"name": "a.jpg", "bytes": 48213, "content_type": "image/jpeg"}]}'

direct = Routes("direct")


class DirectFile(ApiBody):
    """A file that is to be uploaded."""

    name: str = Field(max_length=MAX_NAME_CHARACTERS, description="What to call it; a relative path stays.")
    bytes: int = Field(ge=0, le=MAX_SIZE_BYTES, description="Its size; the form takes no other.")
    content_type: str = Field(max_length=255, description="Such as image/jpeg; the form takes no other.")
    position: int | None = Field(
        default=None, ge=0, le=MAX_POSITION, description="Place of its image among those of the job, from 0."
    )


class DirectFiles(ApiBody):
    """Files that are to be uploaded."""

    files: tuple[DirectFile, ...] = Field(min_length=1, max_length=MAX_FILES)
    remaining: int | None = Field(
        default=None, ge=0, le=MAX_POSITION, description="Files of further requests: the last results come earlier."
    )


class FormBody(ApiBody):
    """A form: send `url` all `fields` as they are, then the content as the field `file`, as multipart/form-data."""

    url: str
    fields: dict[str, str]


class OfferedImage(AcceptedImage):
    """A file that may be uploaded; `index` is its position among the files of the request, from 0."""

    member: str | None = Field(description="Its name in the tar; null if the form takes the file itself.")

    @classmethod
    def from_image(cls, index: int, image: ImageRecord) -> Self:
        """Return the body of an image."""
        member = None if image.is_lone else member_name(place_of(image.ref.image_id), image.extension)
        return cls.copied_from(image, image.ref, index=index, member=member)


class OfferedUpload(ApiBody):
    """A form, and the images that it takes: one as it is, several as a tar (ustar) with their members in order."""

    upload: FormBody
    images: tuple[OfferedImage, ...]


class UploadLinks(ApiBody):
    """The next requests after an upload; paths on this server."""

    commit: str
    job: str


class UploadOffer(ApiBody):
    """The forms for the files that may be uploaded, and why the others may not."""

    job_id: str
    upload_id: str
    expires_at: datetime = Field(
        description="When the forms end; what has arrived by then can be committed for a day."
    )
    uploads: tuple[OfferedUpload, ...]
    rejected: tuple[RejectedImage, ...]
    links: UploadLinks

    @classmethod
    def from_offer(cls, job_id: str, offer: PresignedOffer, rejected: tuple[RejectedImage, ...]) -> Self:
        """Return the body of an offer."""
        here = f"{ROOT}/jobs/{job_id}"
        uploads = tuple(
            OfferedUpload(
                upload=FormBody.copied_from(form),
                images=tuple(OfferedImage.from_image(index, image) for index, image in images.items()),
            )
            for form, images in offer.packs
        )
        return cls.copied_from(
            offer,
            job_id=job_id,
            uploads=uploads,
            rejected=rejected,
            links=UploadLinks(commit=f"{here}/uploads/{offer.upload_id}/commit", job=here),
        )


@direct.post("/jobs/<job_id>/uploads", right=Right.CLASSIFY)
@operation(
    ApiResponse(200, "The forms for the files that may be uploaded; at least one may.", UploadOffer),
    ApiResponse(422, "No file may be uploaded: each says why, or the request is wrong.", UploadOutcome),
    header=KeyHeader,
    body=DirectFiles,
    problems=(400, 408, 409),
)
def offer_uploads(job_id: str) -> Response:
    """Ask for forms to upload images straight to the bucket.

    Send each form to its `url` as multipart/form-data, all `fields` as they are and the content as the last field,
    `file`; then commit. A form takes the images that it names, of the types and sizes that were declared, and ends at
    `expires_at`. The content is the image, or a tar of several: a ustar with the `member` of each, in their order.
    The images count towards those of the day, sent or not. With an `Idempotency-Key` the same request is offered the
    same images again, in new forms. With other files the same key gets 422 (`idempotency-key-reused`).
    """
    key = idempotency_key()
    job, accepted = user_jobs().job_for_images(known_id("job", job_id))
    request.max_content_length = MAX_BODY_BYTES
    try:
        wanted = parse_body(DirectFiles, _EXAMPLE, may_be_empty=False)
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(
            f"the request is larger than {MAX_BODY_BYTES / 2**20:g} MB: send fewer files in each"
        ) from error
    left = None if wanted.remaining is None else wanted.remaining + len(wanted.files)
    files = [
        FileSpec(file.name, file.bytes, file.content_type, file.position, None if left is None else left - index)
        for index, file in enumerate(wanted.files)
    ]
    offer, rejected = current_backend().direct.offer(job, files, key, current_quota_scope(), accepted)
    outcome = UploadOutcome.from_outcomes(job_id, rejected.items())
    if offer is None:
        return json_response(outcome, 422)
    return json_response(UploadOffer.from_offer(job_id, offer, outcome.rejected))


@direct.post("/jobs/<job_id>/uploads/<upload_id>/commit", right=Right.CLASSIFY)
@operation(
    ApiResponse(200, "The outcome of each file; at least one was accepted.", UploadOutcome),
    ApiResponse(422, "No file was accepted: each says why.", UploadOutcome),
    ApiResponse(503, "No file was accepted, and the fault is ours: commit again.", UploadOutcome),
    problems=(409, 422),
)
def commit_upload(job_id: str, upload_id: str) -> Response:
    """Add the images that have arrived of an upload to its job.

    May be repeated at any time, as when some images were missing: each becomes one image of the job, and stays
    accepted. The images of a form are accepted together. What has arrived and is no image fails later, as a result.
    """
    job, _ = user_jobs().job_for_images(known_id("job", job_id))
    outcomes = current_backend().direct.commit(job, known_id("upload", upload_id))
    body = UploadOutcome.from_outcomes(job_id, outcomes.items())
    return json_response(body, upload_status(list(outcomes.values())))
