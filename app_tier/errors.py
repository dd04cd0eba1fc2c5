"""Why there is no worker."""

from services.errors import FleetsightError


class NotStartedError(FleetsightError):
    """Raised when a worker must not poll: bad configuration, bundle or credentials; the message says what to do."""
