"""Endpoints for infrastructure: liveness, readiness, metrics, and nginx's check of the sender of a body."""

from typing import Literal

from flask import Response
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import Unauthorized

from web_tier.auth.context import signs_in
from web_tier.auth.identity import known_identity
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parsing import json_response
from web_tier.http.routes import Routes

health = Routes("health", right=Right.PUBLIC, is_counted=False, is_quiet=True, is_authenticated=False)
admission = Routes("admission")
metrics = Routes("metrics")


class Alive(ApiBody):
    """The process lives."""

    status: Literal["alive"] = "alive"


class Ready(ApiBody):
    """Whether uploads can be taken, and what is in the way if not."""

    ready: bool
    missing: dict[str, str]


@health.get("/healthz")
@operation(ApiResponse(200, "The process is alive.", Alive), tag="System")
def alive() -> Response:
    """Check that the process is alive."""
    return json_response(Alive())


@health.get("/readyz")
@operation(
    ApiResponse(200, "Bucket, table and queue answer.", Ready),
    ApiResponse(503, "`missing` names what does not answer.", Ready),
    tag="System",
)
def ready() -> Response:
    """Check that uploads can be accepted."""
    faults, shows_reason = current_backend().faults(), not signs_in()
    missing = {name: reason if shows_reason else "does not answer" for name, reason in faults.items()}
    return json_response(Ready(ready=not faults, missing=missing), 503 if faults else 200)


@admission.get("/internal/admission", right=Right.PUBLIC, is_counted=False)  # nginx sends it for a counted request
def may_send() -> ResponseReturnValue:
    """Return 204 if the sender has signed in or there is no sign-in, else 401."""
    if known_identity() is None:
        raise Unauthorized("sign in, or send a token in the Authorization header (Bearer TOKEN)")
    return "", 204


@metrics.get("/metrics", right=Right.OPERATE, is_quiet=True)
def metrics_text() -> Response:
    """Return the metrics of all processes of this web tier, for the Prometheus server of an operator."""
    return Response(current_backend().metrics.text(), content_type=CONTENT_TYPE_LATEST)
