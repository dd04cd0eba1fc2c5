"""What becomes of an item that its child did not answer."""

from services.errors import FleetsightError


class ConfinedError(FleetsightError):
    """Base of all that a confined function can end with, besides its answer and its own refusal."""


class TooCostlyError(ConfinedError):
    """Raised when an item took more time or memory than it may."""


class CrashedError(ConfinedError):
    """Raised when an item ended its child twice, or when the child sent an invalid answer."""


class PoolUnavailableError(ConfinedError):
    """Raised when there is no child to be had just now; the item is as good as it was."""
