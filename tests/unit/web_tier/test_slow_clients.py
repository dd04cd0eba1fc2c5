"""The worker of gunicorn: what a request leaves in its thread, and idle connections where files are short."""

import errno
import selectors
import socket
from typing import Any
from unittest.mock import Mock

import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker

from core.tracing import current_traceparent, new_traceparent, set_traceparent
from web_tier.http.slow_clients import BoundedThreadWorker


def test_the_trace_of_a_request_is_not_that_of_the_next_one_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = list[str | None]()

    def answer(_worker: ThreadWorker, _connection: Any) -> bool:
        traces.append(current_traceparent())
        set_traceparent(new_traceparent())
        return True

    monkeypatch.setattr(ThreadWorker, "handle", answer)
    worker = BoundedThreadWorker.__new__(BoundedThreadWorker)
    for _ in range(2):
        assert worker.handle(Mock())
    assert traces == [None, None]
    assert current_traceparent() is None


def test_an_idle_connection_is_closed_if_no_file_is_left_for_a_new_one() -> None:
    worker = BoundedThreadWorker(0, 0, [], Mock(), 30, Config(), Mock())
    worker.poller = selectors.DefaultSelector()
    server, client = socket.socketpair()
    listener = Mock()
    listener.accept.side_effect = [
        (server, ("192.0.2.1", 50_000)),
        OSError(errno.EMFILE, "Too many open files"),
    ]
    with client, worker.poller:
        client.setblocking(False)
        worker.accept(listener)
        assert client.recv(1) == b""
    worker.tmp.close()
    assert worker.nr_conns == 0
