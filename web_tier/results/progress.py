"""Progress and cost of a job: figures, and the sentences that the job page has for them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from core.config import PriceSettings
from core.cost import MIN_PRICED_IMAGES, JobCost
from core.fleet.models import BillingPeriod, FleetSnapshot
from core.fleet.store import FleetStore
from core.format import (
    STALE_SECONDS,
    blocked_words,
    dollars,
    duration,
    fleet_sentence,
    joined,
    percent_text,
    plural,
    rate_words,
)
from core.jobs.models import Counts, JobState, JobStatus, SourceListing
from services.clock import utc_now
from web_tier.http.bodies import ApiBody
from web_tier.results.query import images_per_second

REFRESH_SECONDS = 2
SETTLED_SECONDS = 10.0
"""A job that finished this recently may still get images from the same upload, so its page continues to refresh."""

MAX_SETTLING_SECONDS = 60.0
"""How long a page waits for images that are being retried."""

WAITING = "Waiting. Workers start within seconds."

OPEN_CIRCUIT_MEANS = "No worker can classify images at the moment. Yours wait, and go on once the fault is repaired."

MIN_SAVED_SHARE = 0.05
"""Share of the remaining time that one more worker must save to be of help."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A job's progress: shares in percent of its images, rates in images/s, times in seconds.

    Attributes:
        failed_share: without the cancelled images.
        refresh_seconds: time after which a page without JavaScript reloads; None if it need not.
        settled: whether the job will not change any more.
        retried: whether the user retried failed images recently.
        answered_at: when the last image was answered.
    """

    status: JobStatus
    done_share: float
    failed_share: float
    rate: float | None
    left_seconds: float | None
    refresh_seconds: int | None
    settled: bool
    retried: bool
    answered_at: datetime | None

    @classmethod
    def from_status(cls, status: JobStatus, now: datetime | None = None) -> "JobProgress":
        """Return the progress of a job `now`."""
        rate = images_per_second(status)
        whole, now = max(1, status.accepted), now or utc_now()
        answered_at = status.counts.last_result_at
        retried_at = status.retried_at
        retried = retried_at is not None and (now - retried_at).total_seconds() <= MAX_SETTLING_SECONDS
        # A job with a source without images has no answer.
        is_quiet = answered_at is None or (now - answered_at).total_seconds() > SETTLED_SECONDS
        settled = status.is_answered and not retried and is_quiet
        return cls(
            status=status,
            done_share=100 * status.counts.done / whole,
            failed_share=100 * (status.counts.failed - status.counts.cancelled) / whole,
            rate=rate,
            left_seconds=status.waiting / rate if rate and status.waiting else None,
            refresh_seconds=None if settled else REFRESH_SECONDS,
            settled=settled,
            retried=retried,
            answered_at=answered_at,
        )


class ProgressBody(ApiBody):
    """A job's progress as a page shows it; figures with a unit are texts.

    Attributes:
        words: the state, or why the job is blocked, such as `blocked: paused by ops`.
        blocked: why no waiting image can be classified now; None if nothing prevents it.
        cancelled: those of the failed images that were cancelled.
        failed_words: what the failed images are: failed, cancelled, or both.
        in_flight: images that a worker has for certain; they wait for their results, too.
        rate, left: images/s such as `46`, of a finished job over its whole time, and time left such as `3 s`; None
            if they are not known.
        workers: workers that run or start.
        halt: what keeps workers from starting, in the words of the header; None if nothing does.
        sentence: what happens at the moment, and why.
        problem: what prevents a launch, if anything does.
        settled: whether the job will not change any more.
        system_retries: how many images the system retried and why, if it retried any.
        resends: how many requests the system sent again.
        border: an identifier of the scores below which images are unsure.
        border_words: these scores in words.
        below: the score of labels without their own, in percent.
        usual_border: whether images with a score of more than one half are sure.
        cost: cost of the job so far, such as `$0.0012`; None if it is not known.
        price: the parts of the cost.
        retried: whether the user retried failed images recently.
    """

    state: JobState
    words: str
    blocked: str | None
    accepted: int
    done: int
    failed: int
    cancelled: int
    failed_words: str
    waiting: int
    in_flight: int
    rate: str | None
    left: str | None
    workers: int
    halt: str | None
    sentence: str
    problem: str | None
    settled: bool
    system_retries: str | None
    resends: int
    border: str
    border_words: str
    below: str
    usual_border: bool
    cost: str | None
    price: str | None
    retried: bool

    @classmethod
    def from_progress(
        cls,
        progress: JobProgress,
        fleet: FleetSnapshot | None,
        cost: JobCost | None,
        silent_seconds: float = 0.0,
        minimum_billed_seconds: float = 0.0,
    ) -> "ProgressBody":
        """Return the body of a job's progress.

        Args:
            progress: of the job.
            fleet: the last report of the controller.
            cost: of the job.
            silent_seconds: how long the controller has not reported.
            minimum_billed_seconds: what EC2 bills for an instance at least.
        """
        status = progress.status
        blocked = blocked_reason(status, fleet, silent_seconds)
        if not has_cost(status.counts):
            cost = None
        retried, scores = status.counts.system_retried, status.job.min_scores
        sentence, problem = _finished_sentence(progress), None
        left = _left_seconds(progress, None if silent_seconds > STALE_SECONDS else fleet)
        if status.cancelled_at is not None:
            sentence = cancelled_sentence(status)
        elif status.listing is not None and (status.is_listing or status.accepted == 0 or status.listing.error):
            source = "/".join(filter(None, (status.job.source, status.job.source_pattern)))
            sentence = listing_sentence(source, status.listing)
        elif not status.is_answered:
            describe = waiting_sentence if status.waiting else fleet_sentence
            sentence = describe(fleet, silent_seconds)
            if fleet is not None and silent_seconds <= STALE_SECONDS:
                sentence = f"{sentence} {next_worker_sentence(fleet, minimum_billed_seconds)}".rstrip()
            problem = None if fleet is None else _problem(fleet)
        return cls.copied_from(
            progress,
            status,
            status.counts,
            words=f"blocked: {blocked}" if blocked else status.state,
            blocked=blocked,
            failed_words=failed_words(status.counts),
            in_flight=0 if silent_seconds > STALE_SECONDS else in_flight_images(status.waiting, fleet),
            rate=rate_words(progress.rate) if progress.rate else None,
            left=duration(left) if left else None,
            workers=fleet.running + fleet.pending if fleet else 0,
            halt=None if fleet is None else fleet.halt,
            sentence=sentence,
            problem=problem,
            system_retries=f"The system retried {plural(retried, 'image')}: a worker failed, or a message was "
            "presumed lost."
            if retried
            else None,
            border=scores.digest,
            border_words=scores.words,
            below=percent_text(scores.every),
            usual_border=scores.is_usual,
            cost=None if cost is None else dollars(cost.dollars),
            price=None if cost is None else _price_text(cost),
        )

    def for_viewers(self) -> Self:
        """Return what viewers of a shared job see: nothing of the fleet, of S3 or of the cost."""
        sentence = f"{self.done + self.failed:,} of {plural(self.accepted, 'image')} done."
        words = self.state if self.blocked else self.words
        hidden = dict.fromkeys(("blocked", "halt", "problem", "cost", "price", "left"))
        return self.model_copy(update={**hidden, "in_flight": 0, "workers": 0, "words": words, "sentence": sentence})


def blocked_reason(status: JobStatus, fleet: FleetSnapshot | None, silent_seconds: float) -> str | None:
    """Return why no waiting image of a job can be classified now, and no further one added; None if nothing does."""
    if status.state != "running":
        return None
    model = status.job.model
    if status.waiting and fleet and model and model.bundle in fleet.failed_models:
        return f"workers cannot load the model {model.name}"
    if status.waiting:
        return blocked_words(fleet, silent_seconds)
    paused_until = status.listing and status.listing.paused_until
    return f"quota of today used up; goes on at {paused_until:%H:%M} UTC" if paused_until else None


def _problem(fleet: FleetSnapshot) -> str | None:
    """Return what keeps the images of a job waiting, for its owner; None if nothing is known to, or the pause is.

    The sentence on the fleet says that it is paused, and why.
    """
    if fleet.paused is not None:
        return None
    return fleet.problem if fleet.circuit.is_closed else OPEN_CIRCUIT_MEANS


def failed_words(counts: Counts) -> str:
    """Return what the failed images of a job are, since cancelled ones count as failed."""
    if not counts.cancelled:
        return "failed"
    return "cancelled" if counts.cancelled == counts.failed else "failed or cancelled"


def cancelled_sentence(status: JobStatus) -> str:
    """Return what became of the images of a cancelled job, or what happens to them."""
    done, others = f"{status.counts.done:,} classified", status.accepted - status.counts.done
    if status.stopped:
        return f"Stopped: {status.stopped}. {done.capitalize()}, {others:,} not. A retry resumes the job."
    if status.waiting:
        return f"Cancelling: {done}, {others:,} not yet answered."
    return f"Cancelled: {done}, {others:,} not." if others else "Cancelled after every image had its label."


def listing_sentence(source: str, listing: SourceListing) -> str:
    """Return how far the source of a job is listed."""
    others, unmatched = (listing.skipped.get(reason, 0) for reason in ("not_an_image", "not_matched"))
    rejected = sum(listing.skipped.values()) - others - unmatched
    parts = ((rejected, "rejected"), (others, "no images"), (unmatched, "with other names"))
    found = joined(plural(listing.listed, "object"), *(f"{count:,} {words}" for count, words in parts if count))
    if listing.error:
        return f"Could not list {listing.error}. So far: {found}."
    if listing.state != "listing":
        return f"Listed {source}: {found}."
    if listing.paused_until is not None:
        return f"Listing {source}: {found} so far. Your quota is used up until {listing.paused_until:%H:%M} UTC."
    return f"Listing {source}: {found} so far."


def next_worker_sentence(fleet: FleetSnapshot, minimum_billed_seconds: float) -> str:
    """Return when the fleet is done, and what one more worker would save and cost.

    It is empty while that is not known: before the first answers, while workers start, in a paused fleet, and while a
    spending cap is reached.
    """
    left, workers = fleet_left_seconds(fleet), fleet.running
    if left is None or not fleet.billed_seconds:
        return ""
    work = left * workers
    done = f"Done in about {duration(left)}"
    if fleet.boot_seconds is None or workers >= fleet.max_workers:
        return f"{done}."
    saved = left - (work + fleet.boot_seconds) / (workers + 1)  # the present workers go on while it boots
    if saved < MIN_SAVED_SHARE * left:
        return f"{done}; one more worker would start too late to help."
    price = dollars(minimum_billed_seconds * fleet.cost / fleet.billed_seconds)
    return f"{done}; one more worker would save {duration(saved)} and cost at least {price}."


def fleet_left_seconds(fleet: FleetSnapshot) -> float | None:
    """Return the time until the running workers have answered all images, or None while it is not known."""
    waiting = fleet.visible + fleet.in_flight + fleet.delayed
    if not (waiting and fleet.running and fleet.image_seconds) or fleet.pending or fleet.paused or fleet.is_capped:
        return None
    return waiting * fleet.image_seconds / fleet.running


def _left_seconds(progress: JobProgress, fleet: FleetSnapshot | None) -> float | None:
    """Return the time left of a job, which agrees with that of the fleet if most images are the job's."""
    whole = None if fleet is None else fleet_left_seconds(fleet)
    if fleet is None or whole is None or not progress.status.waiting:
        return progress.left_seconds
    if 2 * progress.status.waiting >= fleet.visible + fleet.in_flight + fleet.delayed:
        return whole
    return progress.left_seconds and min(progress.left_seconds, whole)


def waiting_sentence(fleet: FleetSnapshot | None, silent_seconds: float) -> str:
    """Return what happens to waiting images: the sentence on the fleet, or that they are not yet counted."""
    return WAITING if _is_unaware(fleet, silent_seconds) else fleet_sentence(fleet, silent_seconds)


def _is_unaware(fleet: FleetSnapshot | None, silent_seconds: float) -> bool:
    """Return whether the controller has not counted the waiting images of a job yet: it calls the fleet idle."""
    if fleet is None or silent_seconds > STALE_SECONDS or fleet.halt:
        return False
    return fleet.running + fleet.pending + fleet.visible + fleet.in_flight + fleet.delayed == 0


def _finished_sentence(progress: JobProgress) -> str:
    status, failed = progress.status, progress.status.counts.failed
    whole = "1 image" if status.accepted == 1 else f"All {status.accepted:,} images"
    took, last = "", progress.answered_at
    if last is not None:
        took = f" in {duration((last - status.job.created_at).total_seconds())}"
    return f"{whole} done{took}{f' ({failed:,} failed)' if failed else ''}."


def in_flight_images(waiting: int, fleet: FleetSnapshot | None) -> int:
    """Return how many of a job's `waiting` images are in flight at least.

    The fleet counts the images of all jobs. Those of other jobs are assumed to be in flight first.
    """
    if fleet is None:
        return 0
    of_others = max(0, fleet.visible + fleet.in_flight + fleet.delayed - waiting)
    return max(0, min(waiting, fleet.in_flight - of_others))


def _price_text(cost: JobCost) -> str:
    compute, requests = dollars(cost.instances.dollars), dollars(cost.request_dollars)
    thousand, rate = cost.dollars_per_thousand, ""
    if thousand is not None and cost.images >= MIN_PRICED_IMAGES:
        rate = f" ({dollars(thousand)} per 1,000 images)"
    return f"{dollars(cost.dollars)}: compute {compute} + requests {requests}{rate}"


def has_cost(counts: Counts) -> bool:
    """Return whether a job shows its cost: once an image was answered, and not only cancelled."""
    return counts.done + counts.failed > counts.cancelled


def job_costs(
    statuses: Sequence[JobStatus], fleet: FleetSnapshot | None, store: FleetStore, prices: PriceSettings
) -> list[JobCost | None]:
    """Return the costs of jobs so far, with one read of earlier billing periods.

    None: a cost is not known, as of jobs before the first billing period.
    """
    periods = billing_periods({number for each in statuses for number, _ in each.counts.runs}, fleet, store)
    return [JobCost.from_status(each, periods, prices) for each in statuses]


def billing_periods(
    numbers: Collection[int], fleet: FleetSnapshot | None, store: FleetStore
) -> dict[int, BillingPeriod]:
    """Return those of these billing periods that are known, by number; only those that are over are read."""
    current = fleet.run if fleet else None
    last = current.number if current else 0
    # Counts of answers may be newer than the snapshot: the cost of such a period is not known yet.
    periods = {number: BillingPeriod(number=number) for number in numbers if number > last}
    if current is not None:
        periods[last] = current
    return periods | store.runs({number for number in numbers if number < last})
