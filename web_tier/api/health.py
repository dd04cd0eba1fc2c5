"""Health: does this process live, and could it serve?"""

from flask import Blueprint, Response

from web_tier.api.models import Alive, Ready
from web_tier.backend import current_backend

health = Blueprint("health", __name__)


@health.get("/healthz")
def alive() -> Response:
    """Answer 200: the process lives."""
    return _json(Alive(), 200)


@health.get("/readyz")
def ready() -> Response:
    """Answer 200 when bucket, table and queue answer, else 503 with what does not."""
    faults = current_backend().faults()
    return _json(Ready(ready=not faults, missing=faults), 503 if faults else 200)


def _json(body: Alive | Ready, status: int) -> Response:
    return Response(body.model_dump_json(), status, mimetype="application/json")
