"""The images of several users on the same threads."""

import threading
from functools import partial

from web_tier.uploads.turns import TurnExecutor


def test_the_calls_of_users_start_in_turn() -> None:
    started, may_start = list[str](), threading.Event()
    with TurnExecutor(1, thread_name_prefix="turns") as pool:
        pool.submit(may_start.wait)
        for call in ("ann 1", "ann 2", "ann 3", "bob 1", "cleo 1", "bob 2"):
            pool.submit_in_turn(call.split()[0], partial(started.append, call))
        may_start.set()
    assert started == ["ann 1", "bob 1", "cleo 1", "ann 2", "bob 2", "ann 3"]


def test_a_caller_gets_the_error_of_a_call() -> None:
    with TurnExecutor(1, thread_name_prefix="turns") as pool:
        assert isinstance(pool.submit_in_turn("ann", partial(int, "x")).exception(), ValueError)
        assert pool.submit_in_turn("ann", partial(int, "7")).result() == 7
