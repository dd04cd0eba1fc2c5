"""The operations of `/api/v1` as its OpenAPI document describes them, and the routes that serve the document."""

from functools import cache
from typing import Any

from flask import Blueprint, jsonify, render_template
from flask.typing import ResponseReturnValue

from core.fleet.models import Decisions, FleetInstances
from web_tier.api.classify import SingleImageBody
from web_tier.api.openapi import JSON, ApiOperation, ApiResponse, RequestBody, document
from web_tier.api.operators import (
    AuditEventsBody,
    DeadLetterBody,
    DeadLettersBody,
    FleetDrainBody,
    FleetHistoryBody,
    FleetLimitsBody,
    FleetPauseBody,
    FleetStatusBody,
    PauseFleet,
    RedriveAllBody,
    RedriveBody,
    SetLimits,
)
from web_tier.api.parsing import (
    AuditQuery,
    ClassifyQuery,
    DeadLettersQuery,
    EventsHeader,
    FilterQuery,
    HistoryQuery,
    JobsQuery,
    KeyHeader,
    RedriveQuery,
    ResultsQuery,
    RetryQuery,
)
from web_tier.api.presigned import DirectFiles, UploadOffer
from web_tier.api.probes import Alive, Ready
from web_tier.api.schemas import (
    ROOT,
    AllResultsBody,
    CreateJob,
    ImageRetryOutcome,
    Index,
    JobBody,
    JobsPage,
    JobStatusBody,
    ResultsBody,
    RetryOutcome,
    UploadOutcome,
)
from web_tier.api.v1 import CreateToken, LimitsBody, NewTokenBody, TokensBody
from web_tier.backend import current_backend
from web_tier.results.export import JSON_LINES, ImageBody
from web_tier.uploads.request_body import Base64Image

TITLE = "Fleetsight"

API_VERSION = "1.0.0"

DESCRIPTION = """Images in, labels out.

Create a job, add images to it in one or more requests, then follow its status and read its results. Every image that
is accepted gets exactly one result. A single image is answered while you wait by `POST /api/v1/classify`. Images can
also go straight to the bucket: ask for forms (`uploads`), send them, commit.

Where people sign in, each request carries a token: `Authorization: Bearer TOKEN`.

What goes wrong is told as problem JSON (RFC 9457): `type` is stable and for programs, `detail` says what to do, and
`request_id` is in the log."""

_FILE: dict[str, Any] = {"type": "string", "format": "binary"}

_FILES: dict[str, Any] = {
    "type": "object",
    "properties": {"images": {"type": "array", "items": _FILE, "minItems": 1}},
    "required": ["images"],
    "description": "Files in any fields, up to `web.max_files_per_request` (1,000) of `web.max_image_bytes` (10 MB).",
}

_ONE_FILE: dict[str, Any] = {"type": "object", "properties": {"image": _FILE}, "required": ["image"]}

_OF_THE_ACCOUNT = (
    "With a token of the user pool only, not with a personal one. Where there is no sign-in there are no tokens: 404."
)

_FORM = "multipart/form-data"

EVENTS = "text/event-stream"

_BYTES = "application/octet-stream"

OPERATIONS = (
    ApiOperation(
        "classify",
        "post",
        f"{ROOT}/classify",
        "Classify one image",
        (
            ApiResponse(200, "The image and its label.", SingleImageBody),
            ApiResponse(202, "The image was accepted and has no result yet: ask at `location`.", SingleImageBody),
        ),
        "Single images",
        "The image comes as a form with one file, as base64 in JSON (with or without a data-URL prefix), or as the "
        "body itself with its image type.",
        (("query", ClassifyQuery),),
        (RequestBody(_FORM, schema=_ONE_FILE), RequestBody(JSON, Base64Image), RequestBody(_BYTES, schema=_FILE)),
        problems=(400, 403, 408, 413, 415, 422),
    ),
    ApiOperation(
        "create_job",
        "post",
        f"{ROOT}/jobs",
        "Create a job",
        (ApiResponse(201, "The job, with links that lead on.", JobBody),),
        description="With an `Idempotency-Key` the same request makes the same job for 24 hours, however often it is "
        "sent; another request with that key is refused. At most `web.max_open_jobs` jobs may be open at once, "
        "and `limits.open_jobs` of one user.",
        parameters=(("header", KeyHeader),),
        bodies=(RequestBody(JSON, CreateJob),),
        body_required=False,
        problems=(400, 403, 404, 413, 422, 429),
    ),
    ApiOperation(
        "list_jobs",
        "get",
        f"{ROOT}/jobs",
        "List jobs, newest first",
        (ApiResponse(200, "A page of jobs.", JobsPage),),
        parameters=(("query", JobsQuery),),
        problems=(400,),
    ),
    ApiOperation(
        "job_status",
        "get",
        f"{ROOT}/jobs/{{job_id}}",
        "Tell where a job stands",
        (ApiResponse(200, "The job and its counts.", JobStatusBody),),
        problems=(404,),
    ),
    ApiOperation(
        "delete_job",
        "delete",
        f"{ROOT}/jobs/{{job_id}}",
        "Delete a job",
        (ApiResponse(204, "The job does not exist any more; its images and results are removed soon after."),),
        problems=(403, 404),
    ),
    ApiOperation(
        "add_images",
        "post",
        f"{ROOT}/jobs/{{job_id}}/images",
        "Add images to a job",
        (
            ApiResponse(200, "What became of each file; at least one was accepted.", UploadOutcome),
            ApiResponse(422, "No file was accepted: each says why, or there was none.", UploadOutcome),
            ApiResponse(503, "No file was accepted, and the fault is ours: send them again.", UploadOutcome),
        ),
        description="Each file has an outcome of its own. With an `Idempotency-Key` a request of up to 250 files may "
        "be sent again after a lost answer, and each file still becomes one image. With other files the same key "
        "gets 422 (`idempotency-key-reused`).",
        parameters=(("header", KeyHeader),),
        bodies=(RequestBody(_FORM, schema=_FILES),),
        problems=(400, 403, 404, 408, 413, 415, 422),
    ),
    ApiOperation(
        "offer_uploads",
        "post",
        f"{ROOT}/jobs/{{job_id}}/uploads",
        "Ask for forms to upload images straight to the bucket",
        (
            ApiResponse(200, "A form for each file that may be uploaded; at least one may.", UploadOffer),
            ApiResponse(422, "No file may be uploaded: each says why, or the request is wrong.", UploadOutcome),
        ),
        description="Send each form to its `url` as multipart/form-data, all `fields` as they are and the image as "
        "the last field, `file`; then commit. A form puts one image, of the type and up to the size that was "
        "declared, and ends at `expires_at`. Its image counts towards the day's images, sent or not. With an "
        "`Idempotency-Key` the same request is offered the same images again, in new forms. With other files the "
        "same key gets 422 (`idempotency-key-reused`).",
        parameters=(("header", KeyHeader),),
        bodies=(RequestBody(JSON, DirectFiles),),
        problems=(400, 403, 404, 408, 413, 422),
    ),
    ApiOperation(
        "commit_upload",
        "post",
        f"{ROOT}/jobs/{{job_id}}/uploads/{{upload_id}}/commit",
        "Add the images that have arrived of an upload to its job",
        (
            ApiResponse(200, "What became of each file; at least one was accepted.", UploadOutcome),
            ApiResponse(422, "No file was accepted: each says why.", UploadOutcome),
            ApiResponse(503, "No file was accepted, and the fault is ours: commit again.", UploadOutcome),
        ),
        description="May be repeated at any time, as when some images were missing: each becomes one image of the "
        "job, and stays accepted. What has arrived and is no image fails later, as a result.",
        problems=(403, 404, 422),
    ),
    ApiOperation(
        "retry_job",
        "post",
        f"{ROOT}/jobs/{{job_id}}/retry",
        "Request a job's failed images again",
        (ApiResponse(200, "What became of up to 1,000 failed images.", RetryOutcome),),
        description="A failed result stays until a better one comes. Each image is sent once: further calls count it "
        "as `running` until its result comes, or for 15 minutes. An image that cannot be classified, such as a "
        "truncated file, counts as `final` and is not sent. An image that is no longer stored is named in `gone`. A "
        "retry counts towards the day's images like an upload.",
        parameters=(("query", RetryQuery),),
        problems=(400, 403, 404),
    ),
    ApiOperation(
        "retry_image",
        "post",
        f"{ROOT}/jobs/{{job_id}}/images/{{image_id}}/retry",
        "Request one failed image again",
        (ApiResponse(200, "What became of it.", ImageRetryOutcome),),
        description="Its failed result stays until a better or a newer one comes; until then it is `retrying`. A "
        "retry counts towards the day's images like an upload.",
        problems=(403, 404),
    ),
    ApiOperation(
        "job_events",
        "get",
        f"{ROOT}/jobs/{{job_id}}/events",
        "Follow a job's news",
        (
            ApiResponse(
                200, "Server-sent events: `resync`, `images`, `results`, `progress`, `end`.", media_type=EVENTS
            ),
        ),
        "Results",
        "The stream ends with the job, or after a while; a client then connects again with the id of its last event. "
        "`resync` means that results have to be read anew.",
        (("header", EventsHeader),),
        problems=(404,),
        stream=True,
    ),
    ApiOperation(
        "job_results",
        "get",
        f"{ROOT}/jobs/{{job_id}}/results",
        "Read results, a page at a time",
        (ApiResponse(200, "Images with their results, in the order of their ids.", ResultsBody),),
        "Results",
        parameters=(("query", ResultsQuery),),
        problems=(400, 404),
    ),
    ApiOperation(
        "job_results_csv",
        "get",
        f"{ROOT}/jobs/{{job_id}}/results.csv",
        "Read all results as CSV",
        (ApiResponse(200, "A header and a line for each image (RFC 4180).", media_type="text/csv"),),
        "Results",
        parameters=(("query", FilterQuery),),
        problems=(400, 404),
    ),
    ApiOperation(
        "job_results_jsonl",
        "get",
        f"{ROOT}/jobs/{{job_id}}/results.jsonl",
        "Read all results as JSON Lines",
        (ApiResponse(200, "A line for each image, each an `ImageBody`.", media_type=JSON_LINES),),
        "Results",
        parameters=(("query", FilterQuery),),
        problems=(400, 404),
    ),
    ApiOperation(
        "job_results_json",
        "get",
        f"{ROOT}/jobs/{{job_id}}/results.json",
        "Read all results as one JSON object",
        (ApiResponse(200, "All images with their results, in the order of their ids.", AllResultsBody),),
        "Results",
        parameters=(("query", FilterQuery),),
        problems=(400, 404),
    ),
    ApiOperation(
        "job_results_file",
        "get",
        f"{ROOT}/jobs/{{job_id}}/results/file",
        "Read the file that holds all results of a finished job",
        (ApiResponse(200, "A line for each image, each an `ImageBody`.", media_type=JSON_LINES),),
        "Results",
        "It is written once the job is finished, and anew when results change; the job's status names its address in "
        "the output bucket.",
        problems=(404,),
    ),
    ApiOperation(
        "job_image",
        "get",
        f"{ROOT}/jobs/{{job_id}}/images/{{image_id}}",
        "Read one image's result",
        (ApiResponse(200, "The image, with its result as far as there is one.", ImageBody),),
        "Results",
        problems=(404,),
    ),
    ApiOperation(
        "fleet",
        "get",
        f"{ROOT}/fleet",
        "Tell what the autoscaler saw and decided last",
        (ApiResponse(200, "The fleet, the queue, the last decision and the cost.", FleetStatusBody),),
        "System",
        problems=(404,),
    ),
    ApiOperation(
        "fleet_instances",
        "get",
        f"{ROOT}/fleet/instances",
        "List the fleet's instances, newest first",
        (ApiResponse(200, "Up to 100 instances with what their workers say of themselves.", FleetInstances),),
        "System",
    ),
    ApiOperation(
        "fleet_decisions",
        "get",
        f"{ROOT}/fleet/decisions",
        "Tell the autoscaler's last decisions in words",
        (ApiResponse(200, "Up to 20 decisions, newest first.", Decisions),),
        "System",
    ),
    ApiOperation(
        "fleet_history",
        "get",
        f"{ROOT}/fleet/history",
        "Tell how many workers and images in the queue there were",
        (ApiResponse(200, "Points, oldest first; there is none while nothing changes.", FleetHistoryBody),),
        "System",
        parameters=(("query", HistoryQuery),),
        problems=(400,),
    ),
    ApiOperation(
        "audit_events",
        "get",
        f"{ROOT}/audit",
        "List what users did, newest first",
        (ApiResponse(200, "A page of events.", AuditEventsBody),),
        "System",
        description="For operators, where people sign in. Events are sign-ins, sign-outs, failed sign-ins, password "
        "resets, tokens, deletions, dead letters, and orders to the fleet. They are kept for 90 days.",
        parameters=(("query", AuditQuery),),
        problems=(400, 403, 404),
    ),
    ApiOperation(
        "pause_fleet",
        "post",
        f"{ROOT}/fleet/pause",
        "Pause the fleet",
        (ApiResponse(200, "It is paused.", FleetPauseBody),),
        "System",
        "While it is paused no worker is launched or started; those that run finish and end themselves. Images are "
        "still accepted, and wait. A fleet that is paused already stays so.",
        bodies=(RequestBody(JSON, PauseFleet),),
        body_required=False,
        problems=(403, 413, 422),
    ),
    ApiOperation(
        "resume_fleet",
        "post",
        f"{ROOT}/fleet/resume",
        "Resume the fleet",
        (ApiResponse(200, "It is not paused.", FleetPauseBody),),
        "System",
        problems=(403,),
    ),
    ApiOperation(
        "set_fleet_limits",
        "put",
        f"{ROOT}/fleet/limits",
        "Set the fleet's limits",
        (ApiResponse(200, "They hold within seconds.", FleetLimitsBody),),
        "System",
        "They hold in place of `min_workers` and `max_workers` of config.yaml until they are taken back, also when "
        "that file changes. `min_workers` is at most `max_workers`. Workers above a lowered maximum finish what they "
        "have and end themselves.",
        bodies=(RequestBody(JSON, SetLimits),),
        problems=(403, 413, 422),
    ),
    ApiOperation(
        "reset_fleet_limits",
        "delete",
        f"{ROOT}/fleet/limits",
        "Take the fleet's limits back",
        (ApiResponse(204, "Those of config.yaml hold."),),
        "System",
        problems=(403,),
    ),
    ApiOperation(
        "drain_instance",
        "post",
        f"{ROOT}/fleet/instances/{{instance_id}}/drain",
        "Drain an instance",
        (ApiResponse(202, "Its worker is asked within seconds.", FleetDrainBody),),
        "System",
        "The worker takes no more images, finishes what it has, and ends itself with its machine. While it is still "
        "needed, another is launched in its place.",
        problems=(403, 404),
    ),
    ApiOperation(
        "list_dead_letters",
        "get",
        f"{ROOT}/dead-letters",
        "List dead letters, newest jobs first",
        (ApiResponse(200, "A page of dead letters, of all jobs.", DeadLettersBody),),
        "Dead letters",
        "A dead letter is an image that the system gave up, because workers received it `queues.max_receive_count` "
        "times without an answer. It stays until it is retried or discarded, or its job is deleted. For operators, "
        "who see the file and job names of all users here.",
        (("query", DeadLettersQuery),),
        problems=(400, 403),
    ),
    ApiOperation(
        "show_dead_letter",
        "get",
        f"{ROOT}/dead-letters/{{job_id}}/{{image_id}}",
        "Show a dead letter",
        (ApiResponse(200, "The dead letter.", DeadLetterBody),),
        "Dead letters",
        problems=(403, 404),
    ),
    ApiOperation(
        "redrive_dead_letter",
        "post",
        f"{ROOT}/dead-letters/{{job_id}}/{{image_id}}/redrive",
        "Redrive a dead letter",
        (ApiResponse(200, "What became of it.", RedriveBody),),
        "Dead letters",
        "The image is requested again, once, however often this is called, and costs its owner nothing. Its failed "
        "result stays until there is a newer one.",
        problems=(403, 404),
    ),
    ApiOperation(
        "redrive_dead_letters",
        "post",
        f"{ROOT}/dead-letters/redrive",
        "Redrive dead letters, newest jobs first",
        (ApiResponse(200, "What became of up to 1,000 dead letters.", RedriveAllBody),),
        "Dead letters",
        parameters=(("query", RedriveQuery),),
        problems=(400, 403),
    ),
    ApiOperation(
        "discard_dead_letter",
        "delete",
        f"{ROOT}/dead-letters/{{job_id}}/{{image_id}}",
        "Discard a dead letter",
        (ApiResponse(204, "There is no dead letter of the image any more, or the image is being retried."),),
        "Dead letters",
        "The image keeps its failed result, and its owner can still retry it.",
        problems=(403, 404),
    ),
    ApiOperation(
        "list_tokens",
        "get",
        f"{ROOT}/tokens",
        "List your personal tokens, newest first",
        (ApiResponse(200, "Those that have not expired, without their text.", TokensBody),),
        "Tokens",
        _OF_THE_ACCOUNT,
        problems=(404,),
    ),
    ApiOperation(
        "make_token",
        "post",
        f"{ROOT}/tokens",
        "Make a personal token",
        (ApiResponse(201, "The token; its text is never told again.", NewTokenBody),),
        "Tokens",
        f"{_OF_THE_ACCOUNT} Up to 20 at a time.",
        bodies=(RequestBody(JSON, CreateToken),),
        problems=(404, 413, 422),
    ),
    ApiOperation(
        "revoke_token",
        "delete",
        f"{ROOT}/tokens/{{token_id}}",
        "Revoke a personal token",
        (ApiResponse(204, "It is never taken again."),),
        "Tokens",
        _OF_THE_ACCOUNT,
        problems=(404,),
    ),
    ApiOperation(
        "limits_left",
        "get",
        f"{ROOT}/limits",
        "Tell what the caller may still send today",
        (ApiResponse(200, "The limits, and what is left of the day's.", LimitsBody),),
        "System",
    ),
    ApiOperation(
        "index",
        "get",
        ROOT,
        "Say where to begin",
        (ApiResponse(200, "Paths on this server.", Index),),
        "System",
        problems=(401, 429),
        public=True,
    ),
    ApiOperation(
        "alive",
        "get",
        f"{ROOT}/healthz",
        "Tell whether the process lives",
        (ApiResponse(200, "It does.", Alive),),
        "System",
        public=True,
    ),
    ApiOperation(
        "ready",
        "get",
        f"{ROOT}/readyz",
        "Tell whether uploads can be taken",
        (
            ApiResponse(200, "Bucket, table and queue answer.", Ready),
            ApiResponse(503, "`missing` names what does not answer.", Ready),
        ),
        "System",
        public=True,
    ),
)


@cache
def api_document() -> dict[str, Any]:
    """Return the OpenAPI document of `/api/v1`; callers must not change it."""
    return document(OPERATIONS, title=TITLE, description=DESCRIPTION, version=API_VERSION)


api_docs = Blueprint("api_docs", __name__)


@api_docs.get(f"{ROOT}/openapi.json")
def openapi() -> ResponseReturnValue:
    """Return the OpenAPI document."""
    return jsonify(api_document())


@api_docs.get("/api")
def page() -> str:
    """Show every operation with a form that calls it."""
    return render_template("api.html", api=api_document(), fleet=current_backend().fleet.snapshot())
