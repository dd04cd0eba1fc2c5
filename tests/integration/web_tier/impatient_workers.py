"""gunicorn workers with other time limits: short ones to save time, long ones so that a wrong wait never ends."""

from gunicorn import util

from tests.support.waiting import NEVER_SECONDS
from web_tier.slow_clients import BoundedThreadWorker


class HurriedWorker(BoundedThreadWorker):
    """As in production, with limits that a test can wait for."""

    head_seconds = 1.0
    answer_seconds = 1.0


class LingeringWorker(BoundedThreadWorker):
    """As in production, but for a client that does not close its end it waits longer than any test does."""

    def init_process(self) -> None:
        """Change gunicorn's own limit of two seconds, wherever it is used."""
        _, max_bytes = util.close_graceful.__defaults__
        util.close_graceful.__defaults__ = (NEVER_SECONDS, max_bytes)
        super().init_process()
