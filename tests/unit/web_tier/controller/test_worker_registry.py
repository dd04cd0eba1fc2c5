"""What is known of the workers, by what they say."""

from datetime import timedelta

from core.fleet import FleetInstance
from core.ids import ImageRef, new_id
from core.messages import Heartbeat, Response, WorkerState
from tests.support.controller import EPOCH, Clock
from web_tier.controller.worker_registry import BEATING_SECONDS, ENDED_SECONDS, WorkerRegistry


def beat(worker: str, images: int = 0, state: WorkerState = "busy", in_hand: int = 2) -> Heartbeat:
    return Heartbeat(worker=worker, at=EPOCH, state=state, images=images, in_hand=in_hand, images_per_second=2.4)


def answer(worker: str) -> Response:
    ref = ImageRef(new_id(), new_id())
    return Response(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label="cat", score=1, worker=worker, attempts=1
    )


def registry(clock: Clock | None = None, max_workers: int = 5) -> WorkerRegistry:
    ticking = clock or Clock()
    return WorkerRegistry(ticking, lambda: EPOCH + timedelta(seconds=ticking.now), max_workers)


def test_a_worker_is_known_by_its_heartbeats_and_by_its_answers() -> None:
    known = registry()
    known.note([beat("i-1", images=7), answer("i-1"), answer("i-2")])
    words = known.words()
    assert (words["i-1"].images, words["i-1"].state, words["i-1"].in_hand) == (8, "busy", 2)
    assert words["i-1"].images_per_second == 2.4
    assert (words["i-2"].images, words["i-2"].state) == (1, None)
    assert known.answers == 2


def test_a_heartbeat_that_counts_fewer_images_than_were_answered_takes_none_away() -> None:
    known = registry()
    known.note([answer("i-1"), answer("i-1"), beat("i-1", images=1)])
    assert known.words()["i-1"].images == 2


def test_it_is_known_when_a_worker_was_first_and_last_heard_of() -> None:
    clock = Clock(100)
    known = registry(clock)
    known.note([beat("i-1")])
    clock.now = 130
    known.note([answer("i-1")])
    word = known.words()["i-1"]
    assert (word.since, word.until, word.heard_at) == (100, 130, EPOCH + timedelta(seconds=130))


def test_a_worker_that_has_ended_is_forgotten_after_a_while() -> None:
    clock = Clock()
    known = registry(clock)
    known.note([beat("i-1"), beat("i-2"), beat("i-1", state="ended")])
    assert (known.words()["i-1"].state, known.beating()) == ("ended", 1)
    clock.now += ENDED_SECONDS + 1
    known.note([beat("i-2")])
    assert known.words().keys() == {"i-2"}


def test_what_comes_late_does_not_bring_a_worker_back_that_has_ended() -> None:
    known = registry()
    known.note([beat("i-1", images=5), beat("i-1", images=7, state="ended"), beat("i-1", images=6), answer("i-1")])
    word = known.words()["i-1"]
    assert (word.state, word.images) == ("ended", 8)


def test_a_worker_whose_instance_was_started_again_begins_anew() -> None:
    clock = Clock(100)
    known = registry(clock)
    known.note([beat("i-1", images=7, state="ended")])
    clock.now = 130
    known.note([beat("i-1", images=0, state="ready")])
    word = known.words()["i-1"]
    assert (word.state, word.images, word.since) == ("ready", 0, 130)


def test_of_too_many_workers_those_heard_of_last_stay() -> None:
    known = registry(max_workers=3)
    known.note([beat(f"i-{number}") for number in range(4)])
    known.note([beat("i-1"), beat("i-4")])
    assert known.words().keys() == {"i-3", "i-1", "i-4"}


def test_only_workers_that_were_heard_of_lately_may_have_a_heartbeat_on_its_way() -> None:
    clock = Clock()
    known = registry(clock)
    known.note([beat("i-1"), beat("i-2")])
    clock.now += BEATING_SECONDS - 1
    known.note([beat("i-2")])
    assert known.beating() == 2
    clock.now += 1
    assert known.beating() == 1


def test_a_new_controller_begins_with_what_the_last_one_told() -> None:
    told = FleetInstance(
        instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a", launched_at=EPOCH,
        worker="busy", images=40, in_hand=3, heard_at=EPOCH,
    )  # fmt: skip
    known = registry()
    known.adopt([told, told.model_copy(update={"instance_id": "i-2", "heard_at": None})])
    assert known.words().keys() == {"i-1"}
    known.note([answer("i-1")])
    assert (known.words()["i-1"].images, known.words()["i-1"].since, known.beating()) == (41, None, 1)
