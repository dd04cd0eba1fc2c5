"""A clock that tests set."""


class ManualClock:
    """Returns the seconds in `now`, which a test changes."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self.now += seconds
