"""What operators do to the fleet, by its page and by the API alike, with the details for the audit trail."""

from werkzeug.exceptions import UnprocessableEntity

from core.fleet.models import FleetPause, FleetSpending, LimitsOverride
from core.fleet.store import NoSpendingCapError
from services.clock import utc_now
from web_tier.auth.audit import audit_details
from web_tier.auth.identity import current_identity
from web_tier.http.backend import current_backend
from web_tier.http.parameters import clean_reason


def pause_fleet(reason: str) -> tuple[FleetPause, bool]:
    """Pause the fleet, and return whether it was not paused before; a paused one stays as it is."""
    fleet = current_backend().fleet
    was_paused = fleet.paused() is not None
    pause = fleet.pause(utc_now(), clean_reason(reason))
    audit_details(reason=pause.reason)
    return pause, not was_paused


def resume_fleet() -> bool:
    """Resume the fleet; return whether it was paused."""
    identity = current_identity()
    return current_backend().fleet.resume(identity.email or identity.owner or "ops") is not None


def set_fleet_limits(min_workers: int, max_workers: int, reason: str) -> LimitsOverride:
    """Set the minimum and the maximum of workers in place of those of config.yaml."""
    limits = LimitsOverride(
        min_workers=min_workers, max_workers=max_workers, since=utc_now(), reason=clean_reason(reason)
    )
    current_backend().fleet.set_limits(limits)
    audit_details(min_workers=min_workers, max_workers=max_workers, reason=limits.reason)
    return limits


def allow_fleet_dollars(dollars: float, reason: str) -> FleetSpending:
    """Raise the spending caps today; the spending that is returned has the allowance.

    Raises:
        UnprocessableEntity: there is no spending cap.
    """
    shown_reason = clean_reason(reason)
    try:
        spending = current_backend().fleet.allow_dollars(dollars, shown_reason, utc_now())
    except NoSpendingCapError as error:
        raise UnprocessableEntity(str(error)) from error
    audit_details(dollars=dollars, day=spending.day, reason=shown_reason)
    return spending
