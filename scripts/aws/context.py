"""What every command about AWS works with: account, prefix, progress reports, and a clock to wait on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import click

from scripts.aws.account import AwsAccount
from services.errors import FleetsightError

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")

REPORT_SECONDS = 30.0
"""How often a long wait reports that it continues."""


class TimedOutError(FleetsightError):
    """Raised when a condition did not become true in time; the message names the condition."""


@dataclass(frozen=True)
class Waiter:
    """Polls until a condition is true; a test replaces its clock.

    Attributes:
        clock: returns seconds since any moment.
        sleep: pauses for so many seconds.
        report: receives a sentence about a long wait.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    report: Callable[[str], None] = click.echo

    def until(self, poll: Callable[[], T | None], what: str, *, seconds: float, every: float = 3.0) -> T:
        """Poll until the result is neither None nor False, and return it.

        Args:
            poll: called at once, and then repeatedly.
            what: names the condition, such as "the image to be available", and what to check if it fails.
            seconds: the longest wait.
            every: seconds between two polls.

        Raises:
            TimedOutError: the condition did not become true in time.
        """
        start = reported = self.clock()
        while not (result := poll()):
            now = self.clock()
            if now >= start + seconds:
                raise TimedOutError(f"waited {seconds:.0f} s in vain for {what}")
            if now >= reported + REPORT_SECONDS:
                reported = now
                self.report(f"still waiting for {what} ({now - start:.0f} s)")
            self.sleep(every)
        return result


@dataclass(frozen=True)
class AwsContext:
    """The account and the prefix that a command works on, and where it reports.

    Attributes:
        prefix: begins every name, is the name of the stack, and the value of the tag of every resource.
        report_change: receives a sentence after each step that has changed something; a test's raises to simulate a
            crash there.
        report: shows the user any other sentence or table; nothing depends on it.
    """

    account: AwsAccount
    prefix: str
    report_change: Callable[[str], None]
    report: Callable[["RenderableType"], None]
    waiter: Waiter = field(default_factory=Waiter)

    @property
    def bake_bucket(self) -> str:
        """The bucket that source archives, builders' reports and templates pass through."""
        return f"{self.prefix}-bake-{self.account.id}-{self.account.region_name}"

    def builder_name(self, role: str) -> str:
        """Return the name of a role's builder and of its security group; no fleet has this name."""
        return f"{self.prefix}-bake-{role}"

    def image_parameter(self, role: str) -> str:
        """Return the name of the parameter that holds the id of a role's image."""
        return f"/{self.prefix}/image/{role}"
