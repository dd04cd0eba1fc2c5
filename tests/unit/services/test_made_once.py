"""Parts of an object that are made on their first use."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.made_once import made_once


class Maker:
    """An object with a part that is made from the next of `outcomes`."""

    def __init__(self, *outcomes: str | Exception) -> None:
        self._lock = threading.RLock()
        self._outcomes = list(outcomes)
        self.began, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()

    @made_once
    def part(self) -> str:
        """The part."""
        self.began.set()
        self.goes_on.wait()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_threads_that_need_a_part_at_once_get_the_same_one() -> None:
    maker = Maker("first", "second")
    maker.goes_on.clear()
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(lambda: maker.part) for _ in range(2)]
        maker.began.wait()
        maker.goes_on.set()
    assert [each.result() for each in found] == ["first", "first"]
    assert maker.part == "first"


def test_a_part_that_could_not_be_made_is_made_at_the_next_use() -> None:
    maker = Maker(RuntimeError("not yet"), "part")
    with pytest.raises(RuntimeError, match="not yet"):
        assert maker.part
    assert maker.part == "part"
