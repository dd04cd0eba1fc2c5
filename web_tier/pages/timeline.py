"""The way of one image, step by step, with the time of each, as far as it is known.

Three clocks tell the times: the web tier's (accepted, stored, requested again by the user), the queue's (queued,
first received) and the controller's (requested again by the system, delivered). What the worker says are lengths
only, so that a worker with a wrong clock falsifies nothing. Where times of two clocks contradict each other, that is
said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from ulid import ULID

from core.format import clock, duration, milliseconds, plural
from core.jobs.models import Resend
from core.messages import CRASHED_WORKER, Response
from web_tier.results.query import ImageResult

CLOCK_STEP = timedelta(milliseconds=2)
"""SQS and the ids of images tell whole milliseconds, so times may seem to be so much out of order."""

TIMES = "\N{MULTIPLICATION SIGN}"

_WORKER_STEPS = (
    ("fetched", "fetched", "from the input bucket"),
    ("decoded", "decoded", "and made ready for the model"),
    ("inferred", "classified", "by the model"),
    ("stored", "result stored", "in the output bucket"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        name: such as `queued`.
        note: what happened, in words.
        at: when, by the clock of a service; None where only the length is known.
        milliseconds: how long it took, or how long it waited for this step; None where that is not known.
        share: of the longest step, in percent.
        state: `done`, `failed`, or `open` for what has not come yet.
    """

    name: str
    note: str = ""
    at: datetime | None = None
    milliseconds: float | None = None
    share: float = 0.0
    state: str = "done"


@dataclass(frozen=True, slots=True)
class Timeline:
    """An image's steps in their order; `doubt` says which clocks contradict each other, if any do."""

    steps: tuple[Step, ...]
    doubt: str | None

    @classmethod
    def of(cls, result: ImageResult) -> "Timeline":
        """Return the way of an image as far as it has come."""
        steps = _steps(result)
        longest = max((step.milliseconds or 0.0 for step in steps), default=0.0) or 1.0
        return cls(tuple(_with_share(step, longest) for step in steps), _doubt(steps))

    @property
    def total(self) -> float | None:
        """The lengths of the steps together, in milliseconds; None if none is known.

        The times of the first step and the last are by two clocks, so their difference is no duration.
        """
        lengths = [step.milliseconds for step in self.steps if step.milliseconds is not None]
        return sum(lengths) if lengths else None


def _with_share(step: Step, longest: float) -> Step:
    share = 100 * (step.milliseconds or 0.0) / longest
    return Step(step.name, step.note, step.at, step.milliseconds, share, step.state)


def _steps(result: ImageResult) -> list[Step]:
    record, response = result.record, result.response
    if record.cached or (response is not None and response.cached):
        return _repeated(result)
    known = [
        Step("accepted", "checked by the web tier", _id_time(record.ref.image_id)),
        Step("stored", "in the input bucket", record.accepted_at),
    ]
    resent, retried = _resent(result.resend), _requested_again(record.retried_at)
    # Before the last retry of the user, or after it; the attempt tells.
    early, late = (resent, []) if result.resend and result.resend.attempt < record.attempt else ([], resent)
    if response is None:
        return [*known, *late, Step("queued", "waits for a worker", state="open")]
    if result.retrying:
        return [*known, *early, *_failed_before(response), *retried, *late, _still_open()]
    return [*known, *early, *retried, *_in_order(late, _answered(response))]


def _repeated(result: ImageResult) -> list[Step]:
    record, response = result.record, result.response
    accepted = Step("accepted", "checked by the web tier", _id_time(record.ref.image_id))
    at = response.recorded_at if response and response.recorded_at else record.accepted_at
    return [accepted, Step("answered at once", "with the result of an earlier image of the same bytes", at)]


def _failed_before(response: Response) -> list[Step]:
    return [Step("failed", response.error.message if response.error else "", response.recorded_at, state="failed")]


def _requested_again(at: datetime | None) -> list[Step]:
    return [] if at is None else [Step("requested again", "by its user, after it had failed", at)]


def _resent(resend: Resend | None) -> list[Step]:
    """Return the step that says how often and why the controller requested the image again."""
    if resend is None:
        return []
    waited = duration(resend.waited_seconds)
    note, times = f"no result for {waited}: its request or its response was presumed lost", ""
    if resend.times > 1:
        times = f" {TIMES}{resend.times}"
        note += f"; the first time at {clock(resend.first_at)}"
    return [Step(f"requested again by the system{times}", note, resend.last_at)]


def _in_order(resent: list[Step], answered: list[Step]) -> list[Step]:
    """Return the steps with the resend in its place by time: the request that was answered may be an earlier one."""
    later = (index for index, step in enumerate(answered) if resent and _is_later(step, resent[0]))
    at = next(later, len(answered) - 1)
    return [*answered[:at], *resent, *answered[at:]]


def _is_later(step: Step, than: Step) -> bool:
    return step.at is not None and than.at is not None and step.at > than.at


def _still_open() -> Step:
    return Step("queued", "waits for a worker once more", state="open")


def _answered(response: Response) -> list[Step]:
    """Return the steps from the queue to the delivery."""
    timings, steps = response.timings, list[Step]()
    if response.queued_at is not None:
        steps.append(Step("queued", "taken by the request queue", response.queued_at))
    if response.attempts:
        steps.append(_received(response))
    lengths = timings.model_dump()
    steps += [
        Step(name, note, milliseconds=lengths[key]) for key, name, note in _WORKER_STEPS if lengths[key] is not None
    ]
    failed = response.status == "failed"
    note = "the failure is visible to its owner" if failed else "the result is visible to its owner"
    steps.append(Step("delivered", note, response.recorded_at, state="failed" if failed else "done"))
    return steps


def _received(response: Response) -> Step:
    waited = response.timings.queued
    times, note = "", f"by worker {response.worker}"
    if response.attempts > 1:
        times = f" {TIMES}{response.attempts}"
        note = f"last by worker {response.worker}; the time is that of the first"
        note += f". {_unanswered(response.attempts - 1)}"
    if response.error and response.error.code == CRASHED_WORKER and waited is None:
        note = _unanswered(response.attempts)  # a dead letter, which the controller has answered
    at = None
    if response.queued_at is not None and waited is not None:
        at = response.queued_at + timedelta(milliseconds=waited)
    return Step(f"received{times}", note, at, waited)


def _unanswered(receives: int) -> str:
    return f"{plural(receives, 'receive')} ended without an answer: a worker stopped or failed"


def _doubt(steps: Sequence[Step]) -> str | None:
    """Say which two neighbouring times contradict each other, if any do."""
    timed = [(step.name, step.at) for step in steps if step.at is not None]
    for (first, before), (second, after) in pairwise(timed):
        if after < before - CLOCK_STEP:
            ahead = milliseconds((before - after).total_seconds() * 1_000)
            return (
                f"The clocks disagree: “{second}” reads {ahead} earlier than “{first}”, which came before it. "
                "The times of different services cannot be compared here; the lengths of the steps hold."
            )
    return None


def _id_time(image_id: str) -> datetime:
    """Return when an image's id was made, which is when the web tier took it."""
    return datetime.fromtimestamp(ULID.from_str(image_id).timestamp, UTC)
