"""The worker of gunicorn: what a request leaves behind in the thread that has answered it."""

from typing import Any
from unittest.mock import Mock

import pytest
from gunicorn.workers.gthread import ThreadWorker

from core.tracing import current_traceparent, new_traceparent, set_traceparent
from web_tier.slow_clients import BoundedThreadWorker


def test_the_trace_of_a_request_is_not_that_of_the_next_one_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = list[str | None]()

    def answer(_worker: ThreadWorker, _connection: Any) -> bool:
        traces.append(current_traceparent())
        set_traceparent(new_traceparent())
        return True

    monkeypatch.setattr(ThreadWorker, "handle", answer)
    worker = BoundedThreadWorker.__new__(BoundedThreadWorker)
    worker._heads = {}
    for _ in range(2):
        assert worker.handle(Mock())
    assert traces == [None, None]
    assert current_traceparent() is None
