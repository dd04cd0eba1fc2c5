"""How the commands wait: until something is so, with a time-out, on a clock that a test can replace."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import click

from services.errors import FleetsightError

T = TypeVar("T")

SPEAK_SECONDS = 30.0
"""How often a long wait says that it still is one."""


class TimedOutError(FleetsightError):
    """Raised when what was waited for did not come in time; the message says what that was."""


@dataclass(frozen=True)
class Waiting:
    """A clock, how to let time pass on it, and what gets messages about waiting.

    Attributes:
        clock: seconds since any moment.
        sleep: lets so many seconds pass.
        say: told in a sentence.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = click.echo

    def until(self, look: Callable[[], T | None], what: str, *, seconds: float, every: float = 3.0) -> T:
        """Return what `look` finds, which is nothing, or False, as long as there is nothing yet.

        Args:
            look: called at once, and then again and again.
            what: is waited for, such as "the image to be available"; and where to look when it does not come.
            seconds: how long, at most.
            every: seconds between two looks.

        Raises:
            TimedOutError: it did not come.
        """
        begun = spoken = self.clock()
        while not (found := look()):
            now = self.clock()
            if now >= begun + seconds:
                raise TimedOutError(f"waited {seconds:.0f} s in vain for {what}")
            if now >= spoken + SPEAK_SECONDS:
                spoken = now
                self.say(f"still waiting for {what} ({now - begun:.0f} s)")
            self.sleep(every)
        return found
