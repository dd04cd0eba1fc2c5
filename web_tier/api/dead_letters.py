"""Dead letters by the API, for operators: list, show, redrive, discard."""

from datetime import datetime
from typing import Self

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from core.jobs.dead_letters import DeadLetterImage, DeadLetterPage
from core.messages import Failure
from web_tier.api.exchange import from_query, json_answer
from web_tier.api.queries import DeadLettersQuery, RedriveQuery
from web_tier.audit import audit_details
from web_tier.backend import current_backend
from web_tier.parameters import known_ref
from web_tier.uploads.retry import Redriven, RedriveOutcome, redrive, redrive_all

dead_letters_api = Blueprint("dead_letters_api", __name__)


class _LetterModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeadLetterBody(_LetterModel):
    """An image that the system gave up, because workers received it too often without an answer."""

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
    def of(cls, letter: DeadLetterImage) -> Self:
        """Return the body of a dead letter."""
        record, result = letter.record, letter.result
        return cls(
            job_id=letter.job.job_id,
            job_name=letter.job.name,
            image_id=record.ref.image_id,
            filename=record.filename,
            bytes=record.size,
            accepted_at=record.accepted_at,
            retried_at=record.retried_at,
            attempt=result.attempt,
            tries=result.attempts,
            error=result.error,
            recorded_at=result.recorded_at,
        )


class DeadLettersBody(_LetterModel):
    """Dead letters, newest jobs first; `next` is the cursor of the next page (`before`), null at the end."""

    dead_letters: tuple[DeadLetterBody, ...]
    next: str | None

    @classmethod
    def of(cls, page: DeadLetterPage) -> Self:
        """Return the body of a page."""
        return cls(dead_letters=tuple(map(DeadLetterBody.of, page.letters)), next=page.next_before)


class RedriveBody(_LetterModel):
    """What became of a dead letter that was to be redriven.

    `sent`: the image was requested again; `running`: it is being retried already; `gone`: the image is no longer
    stored, so its owner must upload it again; `refused`: the queue refused the request, call again;
    `no_dead_letter`: there is no dead letter of the image, for example since it has a label by now.
    """

    job_id: str
    image_id: str
    outcome: RedriveOutcome


class RedriveAllBody(_LetterModel):
    """What became of up to 1,000 dead letters that were to be redriven."""

    sent: int = Field(description="Images that were requested again.")
    refused: int = Field(
        description="Images with a request that the queue refused; their dead letters stay: call again."
    )
    gone: int = Field(description="Images that are no longer stored; their dead letters stay until discarded.")
    running: int = Field(description="Images that are being retried already.")
    next: str | None = Field(description="Call again with it as `before`; null when these were all.")

    @classmethod
    def of(cls, redriven: Redriven) -> Self:
        """Return the body of the outcome."""
        return cls(
            sent=redriven.sent,
            refused=redriven.rejected,
            gone=redriven.missing,
            running=redriven.running,
            next=redriven.next_before,
        )


@dead_letters_api.get("/dead-letters")
def list_letters() -> Response:
    """List the dead letters of all jobs."""
    query = from_query(DeadLettersQuery)
    return json_answer(DeadLettersBody.of(current_backend().dead_letters.page(query.before, limit=query.limit)))


@dead_letters_api.get("/dead-letters/<job_id>/<image_id>")
def show_letter(job_id: str, image_id: str) -> Response:
    """Return one dead letter."""
    return json_answer(DeadLetterBody.of(current_backend().dead_letters.get(known_ref(job_id, image_id))))


@dead_letters_api.post("/dead-letters/<job_id>/<image_id>/redrive")
def redrive_letter(job_id: str, image_id: str) -> Response:
    """Request the image of a dead letter again."""
    backend = current_backend()
    outcome = redrive(backend.intake, backend.dead_letters, known_ref(job_id, image_id))
    audit_details(outcome=outcome)
    return json_answer(RedriveBody(job_id=job_id, image_id=image_id, outcome=outcome))


@dead_letters_api.post("/dead-letters/redrive")
def redrive_letters() -> Response:
    """Request the images of up to 1,000 dead letters again."""
    backend = current_backend()
    redriven = redrive_all(backend.intake, backend.dead_letters, from_query(RedriveQuery).before)
    audit_details(sent=redriven.sent)
    return json_answer(RedriveAllBody.of(redriven))


@dead_letters_api.delete("/dead-letters/<job_id>/<image_id>")
def discard_letter(job_id: str, image_id: str) -> ResponseReturnValue:
    """Discard a dead letter, if there is one."""
    current_backend().dead_letters.discard(known_ref(job_id, image_id))
    return "", 204
