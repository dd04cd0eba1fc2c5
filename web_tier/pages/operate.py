"""Forms with which ops pause and resume the fleet, set its limits, and drain an instance."""

from datetime import UTC, datetime

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from core.fleet.models import WorkerLimits
from core.fleet.store import FleetState
from core.format import limits_words
from web_tier.audit import audit_details
from web_tier.backend import current_backend
from web_tier.fleet_orders import drainable, order_drain
from web_tier.pages.limits import LimitsForm, limits_in_force
from web_tier.text import clean_reason

operate = Blueprint("operate", __name__)


@operate.post("/fleet/pause")
def pause() -> ResponseReturnValue:
    """Pause the fleet and go back to its page."""
    pause = current_backend().fleet.pause(datetime.now(UTC), clean_reason(request.form.get("reason", "")))
    audit_details(reason=pause.reason)
    return _back()


@operate.post("/fleet/resume")
def resume() -> ResponseReturnValue:
    """Resume the fleet and go back to its page."""
    current_backend().fleet.resume()
    return _back()


@operate.get("/fleet/limits")
def limits_page() -> str:
    """Show the form that sets limits."""
    state = current_backend().fleet.state()
    return _limits_page(state, LimitsForm.of(limits_in_force(state, _configured())))


@operate.post("/fleet/limits")
def set_limits() -> ResponseReturnValue:
    """Set limits and go back to the fleet's page; show the form again when they cannot be."""
    form = LimitsForm.sent(request.form)
    order = form.order(datetime.now(UTC))
    store = current_backend().fleet
    if order is None:
        return _limits_page(store.state(), form), 422
    store.set_limits(order)
    audit_details(min_workers=order.min_workers, max_workers=order.max_workers, reason=order.reason)
    return _back()


@operate.post("/fleet/limits/reset")
def reset_limits() -> ResponseReturnValue:
    """Take limits back and go back to the fleet's page."""
    current_backend().fleet.reset_limits()
    return _back()


@operate.get("/fleet/instances/<instance_id>/drain")
def ask_to_drain(instance_id: str) -> str:
    """Ask whether an instance is to be drained."""
    backend = current_backend()
    there = drainable(backend.fleet, instance_id)
    return render_template("drain.html", instance_id=instance_id, there=there, fleet=backend.fleet.snapshot())


@operate.post("/fleet/instances/<instance_id>/drain")
def drain(instance_id: str) -> ResponseReturnValue:
    """Drain an instance and go back to the fleet's page."""
    order_drain(current_backend().fleet, instance_id, datetime.now(UTC))
    return _back()


def _back() -> ResponseReturnValue:
    return redirect(url_for("pages.fleet_page"), 303)


def _configured() -> WorkerLimits:
    fleet = current_backend().config.fleet
    return WorkerLimits(min_workers=fleet.min_workers, max_workers=fleet.max_workers)


def _limits_page(state: FleetState, form: LimitsForm) -> str:
    limits = limits_in_force(state, _configured())
    configured = state.snapshot.configured if state.snapshot else _configured()
    return render_template(
        "limits.html",
        form=form,
        words=limits_words(limits, configured, datetime.now(UTC)),
        is_set=state.limits is not None,
        fleet=state.snapshot,
    )
