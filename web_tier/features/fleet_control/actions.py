"""What operators do to the fleet, by its page or by the API; the audit trail has the details."""

from werkzeug.exceptions import UnprocessableEntity

from core.fleet.models import FleetPause, FleetSpending, LimitsOverride
from core.fleet.store import NoSpendingCapError
from services.clock import utc_now
from web_tier.auth.audit import audit_details
from web_tier.http.backend import current_backend
from web_tier.http.parameters import clean_reason


def pause_fleet(reason: str) -> FleetPause:
    """Pause the fleet; a paused one stays as it is."""
    pause = current_backend().fleet.pause(utc_now(), clean_reason(reason))
    audit_details(reason=pause.reason)
    return pause


def set_fleet_limits(min_workers: int, max_workers: int, reason: str) -> LimitsOverride:
    """Set the least and the most workers in place of those of config.yaml."""
    limits = LimitsOverride(
        min_workers=min_workers, max_workers=max_workers, since=utc_now(), reason=clean_reason(reason)
    )
    current_backend().fleet.set_limits(limits)
    audit_details(min_workers=min_workers, max_workers=max_workers, reason=limits.reason)
    return limits


def allow_fleet_dollars(dollars: float, reason: str) -> FleetSpending:
    """Raise the spending caps today.

    Raises:
        UnprocessableEntity: there is no spending cap.
    """
    try:
        spending = current_backend().fleet.allow_dollars(dollars, clean_reason(reason), utc_now())
    except NoSpendingCapError as error:
        raise UnprocessableEntity(str(error)) from error
    audit_details(dollars=dollars, day=spending.day, reason=clean_reason(reason))
    return spending
