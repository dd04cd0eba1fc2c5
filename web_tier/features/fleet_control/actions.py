"""What operators do to the fleet, by its page and by the API alike, with the details for the audit trail."""

from werkzeug.exceptions import UnprocessableEntity

from core.fleet.models import FleetPause, FleetSpending, LimitsOverride, WorkerLimits
from core.fleet.store import NoSpendingCapError
from services.clock import utc_now
from web_tier.auth.audit import audit_details
from web_tier.features.fleet_control.bodies import AllowDollars, SetLimits
from web_tier.http.backend import current_backend
from web_tier.http.parameters import clean_reason


def pause_fleet(reason: str) -> tuple[FleetPause, bool]:
    """Pause the fleet, and return whether it was not paused before; a paused one stays as it is."""
    fleet = current_backend().fleet
    was_paused = fleet.paused() is not None
    pause = fleet.pause(utc_now(), clean_reason(reason))
    audit_details(reason=pause.reason)
    return pause, not was_paused


def set_fleet_limits(wanted: SetLimits) -> LimitsOverride:
    """Set the minimum and the maximum of workers in place of those of config.yaml.

    Without a minimum, that in force stays, or becomes the maximum if it is higher.
    """
    backend, low, high = current_backend(), wanted.min_workers, wanted.max_workers
    if low is None:
        in_force = backend.fleet.state().limits_in_force(WorkerLimits.configured(backend.config.fleet))
        low = min(in_force.min_workers, high)
    reason = clean_reason(wanted.reason)
    limits = LimitsOverride(min_workers=low, max_workers=high, since=utc_now(), reason=reason)
    backend.fleet.set_limits(limits)
    audit_details(min_workers=low, max_workers=high, reason=reason)
    return limits


def allow_fleet_dollars(wanted: AllowDollars) -> FleetSpending:
    """Raise the spending caps today; the spending that is returned has the allowance.

    Raises:
        UnprocessableEntity: there is no spending cap.
    """
    reason = clean_reason(wanted.reason)
    try:
        spending = current_backend().fleet.allow_dollars(wanted.dollars, reason, utc_now())
    except NoSpendingCapError as error:
        raise UnprocessableEntity(str(error)) from error
    audit_details(dollars=wanted.dollars, day=spending.day, reason=reason)
    return spending
