"""The timeline of one image: each step with its time, by clocks that may contradict each other."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from ulid import ULID

from core.ids import ImageRef, new_id
from core.jobs.models import ImageRecord, Resend
from core.messages import Failure, Response, Timings, crashed_worker, failed
from web_tier.pages.image import ImageTimeline
from web_tier.results.query import ImageResult

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TIMINGS = Timings(queued=1_200, fetched=40, decoded=9, inferred=0.2, stored=30)


def after(**length: float) -> datetime:
    return NOW + timedelta(**length)


RECORD = ImageRecord(
    ImageRef(new_id(), str(ULID.from_datetime(NOW))), "a.jpg", "key", 1, accepted_at=after(milliseconds=30)
)
DONE = Response(
    job_id=RECORD.ref.job_id, image_id=RECORD.ref.image_id, status="done", label="stop", score=0.9, worker="i-1",
    attempts=1, timings=TIMINGS, queued_at=after(milliseconds=40), recorded_at=after(seconds=2),
)  # fmt: skip


def failure(recorded_at: datetime) -> Response:
    found = failed(RECORD.ref, Failure(code="bad", message="the JPEG ends early"), worker="i-1", attempts=1)
    return found.response().model_copy(update={"recorded_at": recorded_at, "queued_at": after(milliseconds=40)})


def steps(record: ImageRecord, response: Response | None) -> list[tuple[str, datetime | None, float | None]]:
    return [(step.name, step.at, step.milliseconds) for step in ImageTimeline.of(ImageResult(record, response)).steps]


def sent_again(seconds: float, attempt: int = 0) -> Resend:
    return Resend(attempt, after(seconds=seconds), after(seconds=seconds), waited_seconds=600)


def names(record: ImageRecord, response: Response | None, resend: Resend) -> list[str]:
    timeline = ImageTimeline.of(ImageResult(record, response, resend))
    assert timeline.contradiction is None
    return [step.name for step in timeline.steps]


def test_an_image_that_was_classified_has_every_step_with_a_time_or_a_length() -> None:
    assert steps(RECORD, DONE) == [
        ("accepted", NOW, None),
        ("stored", after(milliseconds=30), None),
        ("queued", after(milliseconds=40), None),
        ("received", after(milliseconds=1_240), 1_200),
        ("fetched", None, 40),
        ("decoded", None, 9),
        ("classified", None, 0.2),
        ("result stored", None, 30),
        ("delivered", after(seconds=2), None),
    ]
    timeline = ImageTimeline.of(ImageResult(RECORD, DONE))
    assert (timeline.total, timeline.contradiction) == (1_279.2, None)


def test_an_image_received_more_than_once_shows_how_often_and_why() -> None:
    step = ImageTimeline.of(ImageResult(RECORD, DONE.model_copy(update={"attempts": 3}))).steps[3]
    assert step.name == "received \N{MULTIPLICATION SIGN}3"
    assert step.note.endswith("2 receives ended without an answer: a worker stopped or failed")


def test_a_dead_letter_shows_that_no_worker_answered() -> None:
    letter = failed(RECORD.ref, crashed_worker(5), worker="controller", attempts=5).response()
    [step] = [
        step for step in ImageTimeline.of(ImageResult(RECORD, letter)).steps if step.name.startswith("received")
    ]
    assert step.note == "5 receives ended without an answer: a worker stopped or failed"


def test_a_resend_has_its_time_and_reason() -> None:
    timeline = ImageTimeline.of(ImageResult(RECORD, None, sent_again(600)))
    [step] = [step for step in timeline.steps if step.name == "requested again by the system"]
    assert step.at == after(minutes=10)
    assert step.note == "no result for 10 min: its request or its response was presumed lost"
    again = replace(sent_again(1_800), first_at=after(minutes=10), times=2)
    step = ImageTimeline.of(ImageResult(RECORD, None, again)).steps[2]
    assert step.name == "requested again by the system \N{MULTIPLICATION SIGN}2"
    assert step.note.endswith("; the first time at 12:10:00.000")


def test_a_resend_is_placed_by_its_time() -> None:
    system = "requested again by the system"
    assert names(RECORD, None, sent_again(600)) == ["accepted", "stored", system, "queued"]
    late = DONE.model_copy(update={"queued_at": after(seconds=601), "recorded_at": after(seconds=605)})
    assert names(RECORD, late, sent_again(600))[:5] == ["accepted", "stored", system, "queued", "received"]
    first = DONE.model_copy(update={"recorded_at": after(seconds=605)})
    assert names(RECORD, first, sent_again(600))[-3:] == ["result stored", system, "delivered"]
    old = DONE.model_copy(update={"queued_at": None, "recorded_at": None})
    assert names(RECORD, old, sent_again(600))[-2:] == [system, "delivered"]


def test_a_resend_is_placed_before_or_after_the_retry_by_its_attempt() -> None:
    system, user = "requested again by the system", "requested again"
    record = replace(RECORD, retried_at=after(seconds=700), attempt=1)
    failure_at = failure(after(seconds=650))
    assert names(record, failure_at, sent_again(600))[2:] == [system, "failed", user, "queued"]
    assert names(record, failure_at, sent_again(900, attempt=1))[2:] == ["failed", user, system, "queued"]
    answered = DONE.model_copy(
        update={"queued_at": after(seconds=701), "recorded_at": after(seconds=705), "attempt": 1}
    )
    assert names(record, answered, sent_again(600))[:5] == ["accepted", "stored", system, user, "queued"]


def test_a_waiting_image_has_its_steps_until_now() -> None:
    assert [name for name, _, _ in steps(RECORD, None)] == ["accepted", "stored", "queued"]
    assert ImageTimeline.of(ImageResult(RECORD, None)).steps[-1].state == "open"


def test_an_image_answered_from_the_cache_has_two_steps() -> None:
    answer = DONE.model_copy(update={"cached": True, "attempts": 0, "queued_at": None, "timings": Timings()})
    assert [name for name, _, _ in steps(replace(RECORD, cached=True), answer)] == ["accepted", "answered at once"]


def test_a_retried_image_has_its_failure_and_an_open_step() -> None:
    record = replace(RECORD, retried_at=after(seconds=5), attempt=1)
    assert [name for name, _, _ in steps(record, failure(after(seconds=2)))] == [
        "accepted", "stored", "failed", "requested again", "queued",
    ]  # fmt: skip


def test_an_image_that_failed_again_has_the_steps_of_its_last_attempt() -> None:
    record = replace(RECORD, retried_at=after(milliseconds=35))
    found = steps(record, failure(after(seconds=2)))
    assert [name for name, _, _ in found] == [
        "accepted",
        "stored",
        "requested again",
        "queued",
        "received",
        "delivered",
    ]


def test_contradicting_clocks_are_named() -> None:
    behind = DONE.model_copy(update={"queued_at": after(seconds=-3)})
    timeline = ImageTimeline.of(ImageResult(RECORD, behind))
    assert timeline.contradiction is not None
    assert "“queued” reads 3.03 s earlier than “stored”" in timeline.contradiction
    assert timeline.total == 1_279.2


@pytest.mark.parametrize("ahead", [-600, 600])
def test_row_53_the_total_does_not_depend_on_how_clocks_differ_and_a_contradiction_is_named(ahead: int) -> None:
    at = after(seconds=ahead)
    ref = replace(RECORD.ref, image_id=str(ULID.from_datetime(at)))
    timeline = ImageTimeline.of(
        ImageResult(replace(RECORD, ref=ref, accepted_at=at + timedelta(milliseconds=30)), DONE)
    )
    assert timeline.total == 1_279.2
    assert (timeline.contradiction is not None) == (ahead > 0), "a clock that is behind contradicts nothing"


def test_a_waiting_image_has_no_total() -> None:
    assert ImageTimeline.of(ImageResult(RECORD, None)).total is None


def test_a_result_of_an_older_worker_has_durations_without_times() -> None:
    old = DONE.model_copy(update={"queued_at": None, "recorded_at": None})
    assert ("received", None, 1_200) in steps(RECORD, old)
