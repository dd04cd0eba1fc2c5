"""A stack's commands on a local cloud: an account, a clock without long sleeps, and the output for the user."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from botocore.stub import Stubber
from rich.console import Console, RenderableType

from core.config import load_config
from core.ids import new_id
from scripts.aws import down as downs
from scripts.aws.bake.builders import BuilderConfig
from scripts.aws.bake.spec import ROLES, Role
from scripts.aws.context import TAG, AwsAccount, AwsContext, Waiter
from scripts.aws.deploy import up as ups

IMAGE = "ami-12c6146b"
"""An image that moto has from the start."""


class CrashError(Exception):
    """Raised where a test simulates a crash."""


@dataclass
class Time:
    """A clock that advances only by sleeps.

    Attributes:
        pause: real seconds of a sleep, in which the cloud, another process, can act.
    """

    now: float = 0.0
    pause: float = 0.1

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        time.sleep(self.pause)

    @property
    def waiter(self) -> Waiter:
        return Waiter(lambda: self.now, self.sleep, lambda _: None)


@cache
def account_at(endpoint_url: str) -> AwsAccount:
    """Return the account of a local cloud; its clients are shared, since making them costs more than a test."""
    return AwsAccount("us-east-1", None, endpoint_url)


@dataclass
class Stage:
    """Runs commands for one prefix.

    Attributes:
        steps: the reported changes.
        builders: the configurations of builders.
        crash_at: the step of a run at which the command crashes; None for no crash.
    """

    account: AwsAccount
    prefix: str = field(default_factory=lambda: f"t{new_id()[-12:].lower()}")
    steps: list[str] = field(default_factory=list)
    builders: list[BuilderConfig] = field(default_factory=list)
    crash_at: int | None = None
    time: Time = field(default_factory=Time)
    _shown: io.StringIO = field(default_factory=io.StringIO)
    _run: int = 0

    @property
    def context(self) -> AwsContext:
        return AwsContext(self.account, self.prefix, self._done, self._say, self.time.waiter)

    @property
    def seen(self) -> str:
        """The output since the last call."""
        shown = self._shown.getvalue()
        self._shown = io.StringIO()
        return shown

    def store_images(self, roles: Sequence[Role] = ROLES) -> None:
        for role in roles:
            self.account.ssm.put_parameter(
                Name=f"/{self.prefix}/image/{role}", Value=IMAGE, Type="String",
                Tags=[{"Key": TAG, "Value": self.prefix}],
            )  # fmt: skip

    def up(
        self, *, says_yes: bool = True, meanwhile: Callable[[], None] = lambda: None, **options: Any
    ) -> str | None:
        """Run the command; `meanwhile` is called while the user is asked."""

        def confirm(_: str) -> bool:
            meanwhile()
            return says_yes

        self._run = 0
        prompts = ups.Prompts(confirm, lambda _: True, self._bake)
        return ups.up(self.context, ups.UpOptions(**options), prompts)

    def down(self, *, says_yes: bool = True, **options: Any) -> None:
        self._run = 0
        wanted = downs.DownOptions(**{"drain_seconds": 5.0, **options})
        downs.down(self.context, wanted, load_config().prices, lambda _: says_yes)

    def _bake(
        self,
        _operation: AwsContext,
        roles: Sequence[Role],
        _bundle: str | None,
        _engine: str,
        builder_config: BuilderConfig,
    ) -> None:
        self.builders.append(builder_config)
        self.store_images(roles)

    def _done(self, sentence: str) -> None:
        self._run += 1
        self.steps.append(sentence)
        if self._run == self.crash_at:
            raise CrashError(sentence)

    def _say(self, shown: RenderableType) -> None:
        Console(file=self._shown, width=200).print(shown, markup=not isinstance(shown, str), highlight=False)


def stubbed_stage(**stubs: Stubber) -> Stage:
    """Return a stage for the prefix fs with these stubs of its account, by service; its sleeps take no time."""
    clients = {service.replace("_", "-"): stub.client for service, stub in stubs.items()}
    return Stage(AwsAccount("us-east-1", _clients=clients), "fs", time=Time(pause=0))
