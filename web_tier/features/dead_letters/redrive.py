"""Redrives of dead letters by operators: retries that charge no quota."""

from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from typing import Final, Literal

from core.ids import ImageRef
from services.errors import NotFoundError
from web_tier.features.dead_letters.store import DeadLetterStore
from web_tier.uploads.ingest import ImageIngest
from web_tier.uploads.retry import Retried, retry_image, retry_images

MAX_REDRIVEN: Final = 1_000
"""Dead letters that one call redrives."""

RedriveOutcome = Literal["sent", "refused", "gone", "running", "no_dead_letter"]


def redrive(ingest: ImageIngest, ref: ImageRef) -> RedriveOutcome:
    """Request the image of a dead letter again.

    Raises:
        NotFoundError: its job is being deleted.
    """
    letter = DeadLetterStore(ingest.store).find(ref)
    if letter is None:
        return "no_dead_letter"
    match retry_image(ingest, letter.job, letter.record, letter.result).of_one():
        case "sent" | "refused" | "gone" | "running" as outcome:
            return outcome
        case _:
            return "no_dead_letter"


def redrive_all(ingest: ImageIngest, before: str | None = None) -> Retried:
    """Request the images of up to `MAX_REDRIVEN` dead letters again, from the cursor `before` on."""
    page, retried = DeadLetterStore(ingest.store).page(before, limit=MAX_REDRIVEN), Retried()
    for job, of_job in groupby(page.letters, lambda letter: letter.job):
        with suppress(NotFoundError):  # the job is being deleted, and its dead letters with it
            retried += retry_images(ingest, job, [(letter.record, letter.result) for letter in of_job])
    return replace(retried, next_after=page.next_before)
