import pytest

from app_tier.task import new_task
from tests.support.worker import delivery


def test_the_time_in_the_queue_is_what_sqs_own_clock_says() -> None:
    assert new_task(delivery(sent=10.0, first=12.5)).timings.queued == pytest.approx(2500)


def test_the_time_in_the_queue_is_never_negative() -> None:
    assert new_task(delivery(sent=10.001, first=10.0)).timings.queued == 0


def test_each_stage_adds_its_time_and_keeps_those_before() -> None:
    task = new_task(delivery()).with_payload(b"data", fetched=3.14159).with_payload("pixels", decoded=1.0)
    assert task.payload == "pixels"
    assert (task.timings.queued, task.timings.fetched, task.timings.decoded) == (500.0, 3.142, 1.0)


def test_a_message_that_comes_again_is_known_by_its_receive_count() -> None:
    assert not delivery(count=1).redelivered
    assert delivery(count=2).redelivered
