import threading

from app_tier.channel import Channel
from app_tier.stage import Stage
from app_tier.task import Task, begin
from tests.support.waiting import DEADLINE_SECONDS
from tests.unit.app_tier.fakes import deliveries


def test_a_stage_does_its_step_for_everything_until_its_channel_is_closed() -> None:
    inbox: Channel[Task[None]] = Channel(3)
    tasks = [begin(each) for each in deliveries(3)]
    for task in tasks:
        inbox.put(task)
    inbox.close()
    done: list[Task[None]] = []

    def take() -> list[Task[None]]:
        task = inbox.get()
        return [] if task is None else [task]

    stage = Stage("test", 1, take, done.extend)
    stage.start()
    assert stage.join(DEADLINE_SECONDS)
    assert done == tasks


def test_a_stage_that_hangs_is_reported_and_not_waited_for() -> None:
    let_go = threading.Event()

    def take() -> list[Task[None]]:
        let_go.wait(DEADLINE_SECONDS)
        return []

    stage = Stage("test", 2, take, lambda _: None)
    stage.start()
    assert not stage.join(0.01)
    let_go.set()
    assert stage.join(DEADLINE_SECONDS)
