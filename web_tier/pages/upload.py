"""The upload page: its form, the texts and limits that it shows, and the upload itself."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from werkzeug.exceptions import Forbidden, HTTPException, UnprocessableEntity

from core.config import DEMO_BUNDLE, Config
from core.format import file_size
from core.ids import new_id
from core.images import FORMATS, OTHER_FILES, SUFFIXES, TEXT_FILES, Signatures, format_names, unknown_reason
from core.jobs.models import ImageRecord, Job
from services.clock import utc_now
from web_tier.api.classify import classic_answer
from web_tier.api.v1 import check_open_jobs_limit
from web_tier.auth.guard import CSRF_FIELD, check_csrf
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.autoscaler.policies import PLANNING_POLICIES
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.parameters import clean_job_name, job_name_of_files
from web_tier.http.problems import refuse, refuse_in_text
from web_tier.http.rate_limits import current_quota_scope
from web_tier.http.routes import Routes
from web_tier.uploads.ingest import RejectedUpload
from web_tier.uploads.multipart import Upload
from web_tier.uploads.request_body import request_parts, up_to_first_file, upload_status

upload_pages = Routes("upload")


KEEP_FIELD = "keep"
"""Checkbox: whether the images and the records stay. It, the model and the name precede the files in the form."""

MODEL_FIELD = "model"
"""Name of the model; empty for the one that the system chooses."""

EXAMPLE_IMAGES = 100
"""Batch that the page forecasts before any image is chosen, and without JavaScript."""

LOCAL_MODEL_COMMAND = "./scripts/run.sh --model photos"
"""Starts the system on this machine with ImageNet's classes."""

AWS_MODEL_COMMAND = "./scripts/fleetsight model build photos"
"""Builds the bundle that the next bake of the workers' image takes."""

FORM_WITHOUT_SESSION = (
    "Nothing was sent: that form was opened before you signed in. Choose the images once more and send them here."
)


@upload_pages.get("/upload", right=Right.READ)
def plain_upload_form() -> str:
    """Show the upload form where the first page is a static file: browsers without scripts need the CSRF token."""
    return upload_form()


@upload_pages.get("/", right=Right.READ)
def upload_form(fault: str | None = None) -> str:
    """Show the upload form, with what was wrong with the last one."""
    backend = current_backend()
    fleet, catalog = backend.fleet.snapshot(), backend.served.recent_catalog()
    is_demo = backend.config.worker.bundle == DEMO_BUNDLE and (
        catalog is None or catalog.default == backend.served.configured.facts().digest
    )
    return render_template(
        "upload.html",
        adding=AddingText.from_config(backend.config),
        accepted_files=[*(accepted.content_type for accepted in FORMATS.values()), *sorted(SUFFIXES)],
        example=backend.forecast(EXAMPLE_IMAGES) if fleet else None,
        keeping=keep_sentence(backend.config.retention.unkept_days),
        fleet=fleet,
        demo=is_demo,
        model_command=LOCAL_MODEL_COMMAND if backend.config.aws.endpoint_url else AWS_MODEL_COMMAND,
        fault=fault,
        plans=backend.config.fleet.policy in PLANNING_POLICIES,
    )


@upload_pages.post("/", right=Right.CLASSIFY, checks_csrf=True)
def upload() -> ResponseReturnValue:
    """Accept the form's images into a new job and redirect to its page; if files were rejected, list them first.

    The number of open jobs is limited as in the API. A program's form gets the answer of `web_tier.api.classify`:
    browsers accept HTML by name, or say from which site the form comes.
    """
    backend, jobs = current_backend(), user_jobs()
    is_browser = "text/html" in request.headers.get("Accept", "") or "Sec-Fetch-Site" in request.headers
    is_classic = backend.config.classic.enabled and not is_browser
    try:
        fields, parts = up_to_first_file(request_parts(backend.config.web))
    except HTTPException as error:
        return refuse_in_text(error) if is_classic else refuse(error)
    try:
        check_csrf(fields.get(CSRF_FIELD))
    except Forbidden:
        return upload_form(FORM_WITHOUT_SESSION), 403
    if is_classic:
        return classic_answer(parts)
    check_open_jobs_limit(jobs, backend.config)
    job_id = new_id()
    model = backend.served.model_for_job(fields.get(MODEL_FIELD) or None)
    job = Job(job_id, "", utc_now(), KEEP_FIELD in fields, jobs.owner, model=model)
    outcomes = backend.intake.put_objects(job, (part for part in parts if isinstance(part, Upload)))
    if not outcomes:
        raise UnprocessableEntity("no file was chosen; go back and choose one or more images")
    if filenames := [outcome.filename for outcome in outcomes if isinstance(outcome, ImageRecord)]:
        job = replace(job, name=clean_job_name(fields.get("name", ""), job_name_of_files(filenames, job.created_at)))
        with backend.intake.quota_reservation(outcomes, current_quota_scope()) as reservation:
            jobs.create(job)
            outcomes = reservation.commit(backend.intake.commit(outcomes, job.group))
    rejections = [outcome for outcome in outcomes if isinstance(outcome, RejectedUpload)]
    if not rejections:
        return redirect(url_for("jobs.job_page", job_id=job.job_id), 303)
    page = render_with_fleet(
        "outcome.html",
        job=job,
        accepted=len(outcomes) - len(rejections),
        rejections=rejections,
    )
    return page, upload_status(outcomes)


def keep_sentence(unkept_days: float) -> str:
    """Return the help text of the checkbox `keep`; a job without it expires after `unkept_days` days, 0 is never."""
    start = "Off: the copies here are deleted once classified; thumbnails and results"
    if not unkept_days:
        return f"{start} stay."
    days = "1 day" if unkept_days == 1 else f"{unkept_days:g} days"
    return f"{start} after {days}."


@dataclass(frozen=True, slots=True)
class AddingText:
    """What `_adding.html` shows, and gives to its script.

    Attributes:
        takes: which files are accepted, without the full stop.
    """

    takes: str
    max_files: int
    limits: Mapping[str, object]

    @classmethod
    def from_config(cls, config: Config) -> "AddingText":
        """Return the text of a configuration."""
        takes = f"{format_names('or')}, up to {file_size(config.web.max_image_bytes)} each"
        return cls(
            takes, config.web.max_files_per_request, BrowserLimits.from_config(config).model_dump(by_alias=True)
        )


class _ScriptData(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


BrowserSignatures = tuple[tuple[tuple[int, str], ...], ...]
"""Signatures of files as the page's script reads them: bytes are characters of ISO 8859-1."""


def _for_browser(signatures: Signatures) -> BrowserSignatures:
    return tuple(tuple((offset, mark.decode("latin-1")) for offset, mark in signature) for signature in signatures)


class BrowserFormat(_ScriptData):
    """An image format as the page's script recognises it."""

    content_type: str
    signatures: BrowserSignatures


class BrowserOtherFile(_ScriptData):
    """A kind of file that is not accepted: a file of its signatures, or with its mark, is rejected with the reason.

    Attributes:
        reason: what it is and what to do.
        signatures: as of `core.images.OtherFile`.
        mark: as in `core.images.TEXT_FILES`, in place of signatures.
    """

    reason: str
    signatures: BrowserSignatures = ()
    mark: str = ""


BROWSER_FORMATS: Final = tuple(
    BrowserFormat(content_type=accepted.content_type, signatures=_for_browser(accepted.signatures))
    for accepted in FORMATS.values()
)

BROWSER_OTHER_FILES: Final = (
    *(BrowserOtherFile(reason=other.reason, signatures=_for_browser(other.signatures)) for other in OTHER_FILES),
    *(BrowserOtherFile(reason=reason, mark=mark.decode("ascii")) for mark, reason in TEXT_FILES),
)


class BrowserLimits(_ScriptData):
    """Limits of one image and of one request; the page's script respects them, the server enforces them.

    Attributes:
        max_bytes: size of a file.
        max_pixels: width times height of an image.
        boot_seconds: how long a worker boots, by the configuration.
        is_direct: whether images go straight into the bucket.
        formats: that are accepted as they are.
        other_files: kinds of files that are not accepted.
        unknown_reason: why a file of no known kind is not accepted.
    """

    max_bytes: int
    max_pixels: int
    max_files: int
    max_request_bytes: int
    boot_seconds: float
    is_direct: bool
    formats: tuple[BrowserFormat, ...]
    other_files: tuple[BrowserOtherFile, ...]
    unknown_reason: str

    @classmethod
    def from_config(cls, config: Config) -> "BrowserLimits":
        """Return the limits of a configuration."""
        web = config.web
        return cls(
            max_bytes=web.max_image_bytes,
            max_pixels=web.max_image_pixels,
            max_files=web.max_files_per_request,
            max_request_bytes=web.max_request_bytes,
            boot_seconds=config.fleet.boot_seconds,
            is_direct=web.direct_uploads,
            formats=BROWSER_FORMATS,
            other_files=BROWSER_OTHER_FILES,
            unknown_reason=unknown_reason(),
        )
