"""Health: does this process live, and could it serve?"""

from flask import Blueprint, Response

from web_tier.api.exchange import json_answer
from web_tier.api.models import Alive, Ready
from web_tier.backend import current_backend

health = Blueprint("health", __name__)


@health.get("/healthz")
def alive() -> Response:
    """Answer 200: the process lives."""
    return json_answer(Alive())


@health.get("/readyz")
def ready() -> Response:
    """Answer 200 when bucket, table and queue answer, else 503 with what does not."""
    faults = current_backend().faults()
    return json_answer(Ready(ready=not faults, missing=faults), 503 if faults else 200)
