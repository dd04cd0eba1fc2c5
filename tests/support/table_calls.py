"""Counting of the calls of the job table."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask

from services.clients import Clients
from web_tier.backend import current_backend


@contextmanager
def counted(clients: Clients) -> Iterator[Counter[str]]:
    """Count the calls of the job table, by operation, while the context lasts."""
    calls: Counter[str] = Counter()

    def count(model: Any, **_more: Any) -> None:
        calls[model.name] += 1

    clients.dynamodb.meta.events.register("before-call.dynamodb", count)
    try:
        yield calls
    finally:
        clients.dynamodb.meta.events.unregister("before-call.dynamodb", count)


def clients_of(app: Flask) -> Clients:
    """Return the clients by which the web tier calls the table."""
    with app.app_context():
        return current_backend().shared_clients()
