"""The way of one image: every step with its time, by clocks that may disagree."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ulid import ULID

from services.ids import ImageRef, new_id
from services.job_records import ImageRecord
from services.messages import Failure, Response, Timings, failed
from web_tier.pages.timeline import Timeline
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
    return [(step.name, step.at, step.milliseconds) for step in Timeline.of(ImageResult(record, response)).steps]


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
    timeline = Timeline.of(ImageResult(RECORD, DONE))
    assert (timeline.total, timeline.doubt) == (2_000, None)


def test_an_image_that_was_received_more_than_once_says_how_often() -> None:
    names = [name for name, _, _ in steps(RECORD, DONE.model_copy(update={"attempts": 3}))]
    assert names[3] == "received \N{MULTIPLICATION SIGN}3"


def test_a_waiting_image_shows_what_is_known_so_far() -> None:
    assert [name for name, _, _ in steps(RECORD, None)] == ["accepted", "stored", "queued"]
    assert Timeline.of(ImageResult(RECORD, None)).steps[-1].state == "open"


def test_a_repeated_image_has_a_short_way_that_says_so() -> None:
    answer = DONE.model_copy(update={"cached": True, "attempts": 0, "queued_at": None, "timings": Timings()})
    assert [name for name, _, _ in steps(replace(RECORD, cached=True), answer)] == ["accepted", "answered at once"]


def test_an_image_that_is_tried_again_shows_its_failure_and_then_what_is_open() -> None:
    record = replace(RECORD, retried_at=after(seconds=5), attempt=1)
    assert [name for name, _, _ in steps(record, failure(after(seconds=2)))] == [
        "accepted", "stored", "failed", "requested again", "queued",
    ]  # fmt: skip


def test_an_image_that_failed_once_more_shows_its_last_way() -> None:
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


def test_clocks_that_contradict_each_other_are_named_and_give_no_total() -> None:
    behind = DONE.model_copy(update={"queued_at": after(seconds=-3)})
    timeline = Timeline.of(ImageResult(RECORD, behind))
    assert timeline.doubt is not None
    assert "“queued” reads 3.03 s earlier than “stored”" in timeline.doubt
    assert timeline.total is None


def test_a_result_of_an_older_writer_has_lengths_without_clock_times() -> None:
    old = DONE.model_copy(update={"queued_at": None, "recorded_at": None})
    assert ("received", None, 1_200) in steps(RECORD, old)
