"""The API of dead letters."""

from datetime import datetime
from typing import Self

from flask import Response
from flask.typing import ResponseReturnValue
from pydantic import Field

from core.messages import Failure
from web_tier.auth.audit import audit_details
from web_tier.auth.permissions import Right
from web_tier.features.dead_letters.redrive import RedriveOutcome, redrive, redrive_all
from web_tier.features.dead_letters.store import CURSOR_PATTERN, DeadLetterImage, DeadLetterPage, DeadLetterStore
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parameters import known_ref
from web_tier.http.parsing import MAX_JOBS, Query, json_response, parse_query
from web_tier.http.routes import Routes
from web_tier.uploads.retry import Retried

api = Routes("dead_letters_api", right=Right.OPERATE)


class RedriveQuery(Query):
    """Which dead letters to redrive."""

    before: str | None = Field(default=None, pattern=CURSOR_PATTERN, description="`next` of the answer before.")


class DeadLettersQuery(Query):
    """Which dead letters to list."""

    limit: int = Field(
        default=50,
        ge=1,
        le=MAX_JOBS,
        description="Dead letters in a page, at most. It may hold fewer, even none, while `next` leads on.",
    )
    before: str | None = Field(default=None, pattern=CURSOR_PATTERN, description="`next` of the page before.")


class DeadLetterBody(ApiBody):
    """An image that the system gave up, because it ended the processes that classified it."""

    job_id: str
    job_name: str
    image_id: str
    filename: str
    bytes: int = Field(description="Size of the file.")
    accepted_at: datetime
    retried_at: datetime | None = Field(description="When the image was last retried; null if never.")
    attempt: int = Field(description="Number of the request that failed: 0 for the first, one more for each retry.")
    tries: int = Field(description="How often workers received that request.")
    error: Failure | None = Field(description="Why the image failed.")
    recorded_at: datetime | None = Field(description="When the failed result became visible.")

    @classmethod
    def from_letter(cls, letter: DeadLetterImage) -> Self:
        """Return the body of a dead letter."""
        record, result = letter.record, letter.result
        return cls.copied_from(result, record, job_name=letter.job.name, bytes=record.size, tries=result.attempts)


class DeadLettersBody(ApiBody):
    """Dead letters, newest jobs first; `next` is the cursor of the next page (`before`), null at the end."""

    dead_letters: tuple[DeadLetterBody, ...]
    next: str | None

    @classmethod
    def from_page(cls, page: DeadLetterPage) -> Self:
        """Return the body of a page."""
        return cls(dead_letters=tuple(map(DeadLetterBody.from_letter, page.letters)), next=page.next_before)


class RedriveBody(ApiBody):
    """The outcome of redriving a dead letter.

    `sent`: the image was requested again; `running`: it is being retried already; `gone`: the image is no longer
    stored, so its owner must upload it again; `refused`: the queue rejected the request, call again;
    `no_dead_letter`: there is no dead letter of the image, for example since it has a label by now.
    """

    job_id: str
    image_id: str
    outcome: RedriveOutcome


class RedriveAllBody(ApiBody):
    """The outcome of redriving up to 1,000 dead letters."""

    sent: int = Field(description="Images that were requested again.")
    refused: int = Field(
        description="Images with a request that the queue rejected; their dead letters stay: call again."
    )
    gone: int = Field(description="Images that are no longer stored; their dead letters stay until discarded.")
    running: int = Field(description="Images that are being retried already.")
    next: str | None = Field(description="Call again with it as `before`; null when these were all.")

    @classmethod
    def from_redriven(cls, redriven: Retried) -> Self:
        """Return the body of the outcome."""
        counts = redriven.counts
        return cls.copied_from(redriven, refused=counts["refused"], gone=counts["gone"], next=redriven.next_after)


@api.get("/dead-letters")
@operation(
    ApiResponse(200, "A page of dead letters, of all jobs.", DeadLettersBody),
    name="list_dead_letters",
    tag="Dead letters",
    query=DeadLettersQuery,
)
def list_letters() -> Response:
    """List dead letters, newest jobs first.

    A dead letter is an image that the system gave up, because it ended three processes, or three whole workers, that
    classified it alone. It stays until it is retried or discarded, or its job is deleted. For operators, who see the
    file and job names of all users here.
    """
    query = parse_query(DeadLettersQuery)
    return json_response(DeadLettersBody.from_page(_letters().page(query.before, limit=query.limit)))


@api.get("/dead-letters/<job_id>/<image_id>")
@operation(ApiResponse(200, "The dead letter.", DeadLetterBody), name="show_dead_letter", tag="Dead letters")
def show_letter(job_id: str, image_id: str) -> Response:
    """Show a dead letter."""
    return json_response(DeadLetterBody.from_letter(_letters().get(known_ref(job_id, image_id))))


@api.post("/dead-letters/<job_id>/<image_id>/redrive", audit="dead letter redriven")
@operation(ApiResponse(200, "The outcome.", RedriveBody), name="redrive_dead_letter", tag="Dead letters")
def redrive_letter(job_id: str, image_id: str) -> Response:
    """Redrive a dead letter.

    The image is requested again, once, however often this is called, and costs its owner nothing. Its failed result
    stays until there is a newer one.
    """
    outcome = redrive(current_backend().intake, known_ref(job_id, image_id))
    audit_details(outcome=outcome)
    return json_response(RedriveBody(job_id=job_id, image_id=image_id, outcome=outcome))


@api.post("/dead-letters/redrive", audit="dead letters redriven")
@operation(
    ApiResponse(200, "The outcome of up to 1,000 dead letters.", RedriveAllBody),
    name="redrive_dead_letters",
    tag="Dead letters",
    query=RedriveQuery,
)
def redrive_letters() -> Response:
    """Redrive dead letters, newest jobs first."""
    redriven = redrive_all(current_backend().intake, parse_query(RedriveQuery).before)
    audit_details(sent=redriven.sent)
    return json_response(RedriveAllBody.from_redriven(redriven))


@api.delete("/dead-letters/<job_id>/<image_id>", audit="dead letter discarded")
@operation(
    ApiResponse(204, "There is no dead letter of the image any more, or the image is being retried."),
    name="discard_dead_letter",
    tag="Dead letters",
)
def discard_letter(job_id: str, image_id: str) -> ResponseReturnValue:
    """Discard a dead letter.

    The image keeps its failed result, and its owner can still retry it.
    """
    _letters().discard(known_ref(job_id, image_id))
    return "", 204


def _letters() -> DeadLetterStore:
    return DeadLetterStore(current_backend().store)
