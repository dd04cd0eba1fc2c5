import threading
from collections.abc import Iterator

import pytest

from app_tier.lifecycle import Lifetime, is_protected, watch_notices
from services.metadata import DRAIN_TAG, PROTECTED_TAG, Metadata
from tests.support.metadata_service import SPOT_ACTION, SPOT_NOTICE, Answer, MetadataService
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS


def test_the_first_reason_stands() -> None:
    lifetime = Lifetime()
    lifetime.end("idle")
    lifetime.end("SIGTERM")
    assert (lifetime.over, lifetime.reason, lifetime.status) == (True, "idle", 0)


def test_a_fault_during_an_orderly_end_makes_the_end_a_failure() -> None:
    lifetime = Lifetime()
    lifetime.end("SIGTERM")
    lifetime.fail("access denied")
    lifetime.fail("out of memory")
    assert (lifetime.reason, lifetime.status) == ("access denied", 1)


def test_an_orderly_end_does_not_hide_a_fault() -> None:
    lifetime = Lifetime()
    lifetime.fail("access denied")
    lifetime.end("SIGTERM")
    assert (lifetime.reason, lifetime.status) == ("access denied", 1)


def test_the_end_is_told_once() -> None:
    told: list[bool] = []
    lifetime = Lifetime(on_end=lambda: told.append(True))
    lifetime.end("idle")
    lifetime.fail("again")
    assert told == [True]


def test_waiting_says_whether_the_end_has_come() -> None:
    lifetime = Lifetime()
    assert not lifetime.wait(0)
    lifetime.end("idle")
    assert lifetime.wait(0)


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with MetadataService.serve() as started:
        yield started


def test_a_spot_notice_ends_the_worker_whatever_was_answered_before(service: MetadataService) -> None:
    service.answers[SPOT_ACTION] = [(404, ""), (500, "broken"), (200, "not JSON"), (200, SPOT_NOTICE)]
    lifetime = Lifetime()
    watch_notices(Metadata(service.url), lifetime, every_seconds=0.001)
    assert (lifetime.reason, lifetime.status) == ("Spot notice: terminate", 0)


def test_a_worker_that_is_asked_to_drain_ends_in_good_order(service: MetadataService) -> None:
    service.answers[f"tags/instance/{DRAIN_TAG}"] = [(200, "asked")]
    lifetime = Lifetime()
    watch_notices(Metadata(service.url), lifetime, every_seconds=0.001)
    assert (lifetime.reason, lifetime.status) == ("asked to drain", 0)


def test_the_watch_for_notices_ends_with_the_worker(service: MetadataService) -> None:
    lifetime = Lifetime()
    arguments = (Metadata(service.url), lifetime, NEVER_SECONDS)
    watching = threading.Thread(target=watch_notices, args=arguments, daemon=True)
    watching.start()
    lifetime.end("idle")
    watching.join(DEADLINE_SECONDS)
    assert not watching.is_alive()


@pytest.mark.parametrize(
    ("answer", "expected"), [((200, "asked"), True), ((200, ""), True), ((404, ""), False), ((500, "broken"), False)]
)
def test_an_idle_worker_stays_while_its_instance_has_the_tag_and_ends_when_that_is_not_known(
    service: MetadataService, answer: Answer, expected: bool
) -> None:
    service.answers[f"tags/instance/{PROTECTED_TAG}"] = [answer]
    assert is_protected(Metadata(service.url)) is expected


def test_a_worker_without_an_instance_is_no_standby() -> None:
    assert not is_protected(None)


def test_a_worker_that_is_to_stay_does_not_end_for_being_idle_but_for_any_other_reason() -> None:
    lifetime = Lifetime(is_protected=lambda: True)
    assert not lifetime.stop_if_idle("idle for 5 s")
    assert lifetime.reason == ""
    lifetime.end("asked to drain")
    assert lifetime.reason == "asked to drain"
    ending = Lifetime()
    assert ending.stop_if_idle("idle for 5 s")
    assert ending.reason == "idle for 5 s"
