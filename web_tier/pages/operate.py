"""Forms with which ops pause and resume the fleet."""

from datetime import UTC, datetime

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from web_tier.backend import current_backend
from web_tier.intake.names import shown_reason

operate = Blueprint("operate", __name__)


@operate.post("/fleet/pause")
def pause() -> ResponseReturnValue:
    """Pause the fleet and go back to its page."""
    current_backend().fleet.pause(datetime.now(UTC), shown_reason(request.form.get("reason", "")))
    return redirect(url_for("pages.fleet_page"), 303)


@operate.post("/fleet/resume")
def resume() -> ResponseReturnValue:
    """Resume the fleet and go back to its page."""
    current_backend().fleet.resume()
    return redirect(url_for("pages.fleet_page"), 303)
