"""What can go wrong with a bake."""

from services.errors import FleetsightError


class BakeError(FleetsightError):
    """Raised when an image could not be made; the message names what failed and what to do."""


class BuilderError(BakeError):
    """Raised when a builder has ended without a good image on it; `log` is what it wrote."""

    def __init__(self, problem: str, log: str) -> None:
        self.log = log
        super().__init__(problem)
