"""The users who need a second factor by `auth.require_second_factor`, and those who have none to show."""

from services.accounts import OPERATORS
from web_tier.access.access import current_access
from web_tier.access.current_session import known_session
from web_tier.access.identity import Identity
from web_tier.backend import current_backend


def is_required_of(identity: Identity) -> bool:
    """Return True if the configuration requires a second factor of a user."""
    match current_backend().config.auth.require_second_factor:
        case "everyone":
            return not identity.is_local
        case "operators":
            return OPERATORS in identity.groups and not identity.is_local
        case "none":
            return False


def lacks_second_factor(identity: Identity) -> bool:
    """Return True if a second factor is required of a user, and what they came with does not show one.

    A session shows one if it began with one. A token shows one if its account has one now, because the pool gives
    no token for such an account without a code. A pool token from before that is good for its hour.
    """
    if not is_required_of(identity):
        return False
    session = known_session() if identity.by == "session" else None
    if session is not None:
        return not session.record.second_factor
    account = current_access().accounts.find(identity.owner)
    return account is None or not account.second_factor
