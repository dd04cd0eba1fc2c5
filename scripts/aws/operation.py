"""What every step of `up` and `down` works with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scripts.aws.account import Account, Done
from scripts.aws.bake.recipe import Site
from scripts.aws.waiting import Waiting

if TYPE_CHECKING:
    from rich.console import RenderableType

Say = Callable[["RenderableType"], None]
"""Shows a person a sentence or a table; nothing depends on it."""


@dataclass(frozen=True)
class Operation:
    """The account, the prefix of the resources, and who gets reports.

    Attributes:
        prefix: begins every name; the stack has it for its own.
        done: told of each step that has changed something.
        say: told of everything else that a person may want to know.
    """

    account: Account
    prefix: str
    done: Done
    say: Say
    waiting: Waiting = field(default_factory=Waiting)

    @property
    def site(self) -> Site:
        """The same, as the bake wants it."""
        return Site(self.account, self.prefix, self.done, self.waiting)
