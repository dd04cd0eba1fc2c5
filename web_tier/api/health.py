"""Health: does this process live, and could it serve?"""

from collections.abc import Mapping

from flask import Blueprint, Response

from web_tier.api.exchange import json_answer
from web_tier.api.models import Alive, Ready
from web_tier.auth.context import current_auth
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
    return json_answer(Ready(ready=not faults, missing=_shown(faults)), 503 if faults else 200)


def _shown(faults: Mapping[str, str]) -> dict[str, str]:
    """Return what is missing, and why where there are no strangers: the kind of an error tells of the inside."""
    reveals = not current_auth().signs_in
    return {name: error if reveals else "does not answer" for name, error in faults.items()}
