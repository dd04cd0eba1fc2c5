"""The controls of the fleet for operators: pause, resume, limits of the number of workers, drain of an instance."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from core.config import MAX_WORKERS
from core.fleet.models import LimitsOverride, WorkerLimits
from core.fleet.store import FleetState
from core.format import limits_words
from web_tier.audit import audit_details
from web_tier.backend import current_backend
from web_tier.drain_requests import drainable_instance, request_drain
from web_tier.text import clean_reason

MAX_SHOWN_CHARACTERS = 10
"""Characters of an invalid field that the form shows again."""


def limits_in_force(state: FleetState, configured: WorkerLimits) -> WorkerLimits:
    """Return the limits that operators set last, even if the controller has not applied them yet.

    `configured` are the limits of config.yaml; they count if no controller has reported yet.
    """
    snapshot = state.snapshot
    if state.limits is not None:
        return state.limits
    if snapshot is None:
        return configured
    if snapshot.limits_order is not None and snapshot.configured is not None:
        return snapshot.configured
    return WorkerLimits(min_workers=snapshot.min_workers, max_workers=snapshot.max_workers)


@dataclass(frozen=True, slots=True)
class LimitsForm:
    """The fields of the form that sets limits, and the error message if they are not valid."""

    min_workers: str
    max_workers: str
    reason: str = ""
    fault: str | None = None

    @classmethod
    def of(cls, limits: WorkerLimits) -> Self:
        """Return the form that shows `limits`."""
        return cls(str(limits.min_workers), str(limits.max_workers))

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Self:
        """Return the form that a browser sent, validated."""
        low, high = (fields.get(name, "").strip()[:MAX_SHOWN_CHARACTERS] for name in ("min_workers", "max_workers"))
        invalid = [
            name
            for name, text in (("minimum", low), ("maximum", high))
            if not (text.isascii() and text.isdigit() and int(text) <= MAX_WORKERS)
        ]
        fault = None
        if invalid:
            fault = f"The {invalid[0]} must be a whole number from 0 to {MAX_WORKERS:,}."
        elif int(low) > int(high):
            fault = f"The minimum ({low}) must be at most the maximum ({high})."
        return cls(low, high, clean_reason(fields.get("reason", "")), fault)

    def override(self, now: datetime) -> LimitsOverride | None:
        """Return the limits of the form, or None if a field is not valid."""
        if self.fault is not None:
            return None
        return LimitsOverride(
            min_workers=int(self.min_workers), max_workers=int(self.max_workers), since=now, reason=self.reason
        )


def pause() -> ResponseReturnValue:
    """Pause the fleet and redirect to its page."""
    pause = current_backend().fleet.pause(datetime.now(UTC), clean_reason(request.form.get("reason", "")))
    audit_details(reason=pause.reason)
    return _redirect_to_fleet()


def resume() -> ResponseReturnValue:
    """Resume the fleet and redirect to its page."""
    current_backend().fleet.resume()
    return _redirect_to_fleet()


def limits_page() -> str:
    """Show the form that sets limits."""
    state = current_backend().fleet.state()
    return _limits_page(state, LimitsForm.of(limits_in_force(state, _configured())))


def set_limits() -> ResponseReturnValue:
    """Set limits and redirect to the fleet's page; show the form again if a field is not valid."""
    form = LimitsForm.of_fields(request.form)
    override = form.override(datetime.now(UTC))
    store = current_backend().fleet
    if override is None:
        return _limits_page(store.state(), form), 422
    store.set_limits(override)
    audit_details(min_workers=override.min_workers, max_workers=override.max_workers, reason=override.reason)
    return _redirect_to_fleet()


def reset_limits() -> ResponseReturnValue:
    """Reset the limits to those of config.yaml and redirect to the fleet's page."""
    current_backend().fleet.reset_limits()
    return _redirect_to_fleet()


def confirm_drain(instance_id: str) -> str:
    """Show the form that confirms the drain of an instance."""
    backend = current_backend()
    instance = drainable_instance(backend.fleet, instance_id)
    return render_template("drain.html", instance_id=instance_id, instance=instance, fleet=backend.fleet.snapshot())


def drain(instance_id: str) -> ResponseReturnValue:
    """Drain an instance and redirect to the fleet's page."""
    request_drain(current_backend().fleet, instance_id, datetime.now(UTC))
    return _redirect_to_fleet()


def _redirect_to_fleet() -> ResponseReturnValue:
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
