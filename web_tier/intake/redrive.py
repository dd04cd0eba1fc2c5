"""Redrives: operators request images again that the system gave up (`core/dead_letters.py`).

A redrive is a retry as in `web_tier/intake/retry.py`. It raises the attempt by a conditional write, so of two
redrives of one dead letter only one sends a request. It costs the owner of the image nothing.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from core.dead_letters import DeadLetterStore
from core.ids import ImageRef
from services.errors import NotFoundError
from web_tier.intake.retry import Retried, retry_image, retry_images
from web_tier.intake.store import ImageIngest

MAX_REDRIVEN: Final = 1_000
"""Dead letters that one call redrives."""

RedriveOutcome = Literal["sent", "refused", "gone", "running", "no_dead_letter"]


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of many dead letters, in images.

    Attributes:
        sent: requested again.
        refused: not taken by the queue; the dead letters stay.
        gone: no longer stored; the dead letters stay.
        running: being retried already.
        next_before: the cursor to go on with when there are more dead letters; None when these were all.
    """

    sent: int
    refused: int
    gone: int
    running: int
    next_before: str | None


def redrive(intake: ImageIngest, letters: DeadLetterStore, ref: ImageRef) -> RedriveOutcome:
    """Request the image of a dead letter again.

    Raises:
        NotFoundError: when its job is being deleted.
    """
    letter = letters.find(ref)
    if letter is None:
        return "no_dead_letter"
    match retry_image(intake, letter.record, letter.result).of_one():
        case "sent" | "refused" | "gone" | "running" as outcome:
            return outcome
        case _:
            return "no_dead_letter"


def redrive_all(intake: ImageIngest, letters: DeadLetterStore, before: str | None = None) -> Redriven:
    """Request the images of up to `MAX_REDRIVEN` dead letters again, from the cursor `before` on."""
    page, retried = letters.page(before, limit=MAX_REDRIVEN), list[Retried]()
    for job_id, of_job in groupby(page.letters, lambda letter: letter.job.job_id):
        try:
            retried.append(retry_images(intake, job_id, [(letter.record, letter.result) for letter in of_job]))
        except NotFoundError:
            continue  # the job is being deleted, and its dead letters with it
    return Redriven(
        sent=sum(each.sent for each in retried),
        refused=sum(each.refused for each in retried),
        gone=sum(len(each.gone) for each in retried),
        running=sum(each.running for each in retried),
        next_before=page.next_before,
    )
