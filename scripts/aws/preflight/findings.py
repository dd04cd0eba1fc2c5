"""Findings of the preflight: what an AWS account lacks for a stack that is about to be made or changed.

Each check asks AWS, changes nothing, and yields findings. What cannot be found out is a warning.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from botocore.exceptions import BotoCoreError, ClientError

from core.config import Config, FleetSettings
from scripts.aws.account import Account
from scripts.aws.bake.recipe import Role
from scripts.aws.machine_types import MachineType, machine_types
from scripts.aws.operation import Operation
from scripts.aws.refusals import explained
from services.errors import FleetsightError

CHECK_SECONDS = 100.0
"""Longest that all checks together take."""

MAX_CHARACTERS = 600
"""Of a line; some services answer with a page of HTML."""


class Level(StrEnum):
    """What a finding means for `up`, the worst first."""

    STOP = "stop"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        found: in words.
        remedy: what to do, in words; empty if there is nothing to do.
    """

    level: Level
    found: str
    remedy: str = ""

    def line(self, check: str) -> str:
        """Return it as a line that begins with its level and the name of its check."""
        found = " ".join(self.found.split())
        short = found if len(found) <= MAX_CHARACTERS else f"{found[: MAX_CHARACTERS - 1]}…"
        return f"{self.level:<8} {check}: {short}" + (f". {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class StackPlan:
    """The stack that is about to be made or changed.

    Attributes:
        place: the parameters that say where it is; empty if there is no place for it.
        config: of its web instance.
        parameters: of the stack, by name.
        images: ids of the images that are there, by role.
        is_new: whether there is no stack yet.
    """

    operation: Operation
    place: Mapping[str, str]
    config: Config
    parameters: Mapping[str, str]
    images: Mapping[Role, str]
    is_new: bool

    @property
    def account(self) -> Account:
        """The account of the stack."""
        return self.operation.account

    @property
    def fleet(self) -> FleetSettings:
        """The section `fleet` of its configuration."""
        return self.config.fleet

    @property
    def subnet_ids(self) -> list[str]:
        """The subnets of web instance, workers and builders."""
        return self.place["SubnetIds"].split(",")

    @property
    def web_type(self) -> str:
        """The instance type of the web instances."""
        return self.parameters["WebInstanceType"]

    def builder_type(self, role: Role) -> str:
        """Return the instance type on which an image is baked: the web tier's, if it has the architecture."""
        web, first = self.machine_types[self.web_type], self.machine_types[self.fleet.instance_types[0]]
        return self.web_type if role == "web" or web.architecture == first.architecture else first.name

    @property
    def web_instances(self) -> int:
        """How many web instances the stack has."""
        return int(self.parameters["WebInstances"])

    @property
    def types(self) -> list[str]:
        """All instance types, once each."""
        return list(dict.fromkeys((self.web_type, *self.fleet.instance_types)))

    @cached_property
    def machine_types(self) -> Mapping[str, MachineType]:
        """What EC2 says of all instance types, by their names."""
        return machine_types(self.account.ec2, self.types)

    @property
    def markets(self) -> tuple[str, ...]:
        """The markets on which workers are launched, the preferred one first."""
        return ("spot", "on_demand") if self.fleet.market == "spot" else ("on_demand",)


Check = Callable[[StackPlan], Iterable[Finding]]


def run(plan: StackPlan, checks: Mapping[str, Check], seconds: float = CHECK_SECONDS) -> list[tuple[str, Finding]]:
    """Return what the checks find, by their names; they run side by side, for so many seconds at most."""
    end = time.monotonic() + seconds
    running = {name: _start(plan, check) for name, check in checks.items()}
    found = []
    for name, future in running.items():
        try:
            findings = future.result(timeout=max(0.0, end - time.monotonic()))
        except TimeoutError:
            findings = [
                Finding(Level.WARNING, f"cannot tell: AWS did not answer within {seconds:.0f} s", "Try again")
            ]
        found += [(name, each) for each in findings]
    return found


def _start(plan: StackPlan, check: Check) -> "Future[list[Finding]]":
    future: Future[list[Finding]] = Future()

    def work() -> None:
        try:
            future.set_result(guarded(lambda: check(plan)))
        except BaseException as error:  # noqa: BLE001 (`run` raises it again)
            future.set_exception(error)

    # The end of the process waits for the threads of a pool, and not for this one.
    threading.Thread(target=work, daemon=True).start()
    return future


def guarded(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what a check finds, or a warning if AWS cannot be asked."""
    try:
        return list(check())
    except (BotoCoreError, ClientError, FleetsightError) as error:
        return [Finding(Level.WARNING, f"cannot tell: {explained(error)}")]
