import threading
from collections.abc import Sequence

from app_tier.channel import Channel
from app_tier.stage import Stage
from app_tier.task import Task, begin
from tests.support.waiting import DEADLINE_SECONDS
from tests.unit.app_tier.fakes import deliveries


def test_an_image_whose_step_fails_does_not_take_the_next_one_with_it() -> None:
    inbox: Channel[Task[None]] = Channel(3)
    tasks = [begin(each) for each in deliveries(3)]
    for task in tasks:
        inbox.put(task)
    inbox.close()
    done: list[Task[None]] = []
    failed: list[tuple[Sequence[Task[object]], Exception]] = []
    error = ZeroDivisionError("a bug")

    def step(given: Sequence[Task[None]]) -> None:
        if given[0] is tasks[1]:
            raise error
        done.extend(given)

    def take() -> list[Task[None]]:
        task = inbox.get()
        return [] if task is None else [task]

    stage = Stage("test", 1, take, step, lambda given, reason: failed.append((given, reason)))
    stage.start()
    assert stage.join(DEADLINE_SECONDS)
    assert done == [tasks[0], tasks[2]]
    assert failed == [([tasks[1]], error)]


def test_a_stage_that_hangs_is_reported_and_not_waited_for() -> None:
    let_go = threading.Event()

    def take() -> list[Task[None]]:
        let_go.wait(DEADLINE_SECONDS)
        return []

    stage = Stage("test", 2, take, lambda _: None, lambda *_: None)
    stage.start()
    assert not stage.join(0.01)
    let_go.set()
    assert stage.join(DEADLINE_SECONDS)
