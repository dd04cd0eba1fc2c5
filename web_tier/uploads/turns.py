"""Images of several users on the same threads, in turn: the costly files of one do not delay those of the others."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

from core.tracing import TracingExecutor

T = TypeVar("T")


class TurnExecutor(TracingExecutor):
    """A pool of threads that starts the calls of users in turn, and those of one user in order."""

    def __init__(self, threads: int, thread_name_prefix: str) -> None:
        super().__init__(threads, thread_name_prefix=thread_name_prefix)
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._lock = threading.Lock()

    def submit_in_turn(self, user: str, call: Callable[[], T]) -> Future[T]:
        """Submit a call of a user, which works for the span of the caller."""
        future, context = Future[T](), copy_context()

        def run() -> None:
            try:
                future.set_result(context.run(call))
            except BaseException as error:  # noqa: BLE001 - as an executor does: the caller gets it
                future.set_exception(error)

        with self._lock:
            self._waiting.setdefault(user, deque()).append(run)
        self.submit(self._run_next)
        return future

    def _run_next(self) -> None:
        with self._lock:
            user = next(iter(self._waiting))
            calls = self._waiting.pop(user)
            run = calls.popleft()
            if calls:
                self._waiting[user] = calls  # behind the other users
        run()
