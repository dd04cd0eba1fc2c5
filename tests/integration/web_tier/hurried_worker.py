"""A gunicorn worker whose bounds for slow clients a test does not have to wait for."""

from web_tier.slow_clients import BoundedThreadWorker


class HurriedWorker(BoundedThreadWorker):
    """As in production, in a hurry."""

    head_seconds = 1.0
    answer_seconds = 1.0
