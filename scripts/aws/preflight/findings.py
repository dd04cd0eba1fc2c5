"""The preflight: checks of what an AWS account lacks for a stack that is about to be created or changed.

Each check reads AWS, changes nothing, and yields findings. A check that fails is a warning.
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
from scripts.aws.bake.spec import Role
from scripts.aws.context import AwsAccount, AwsContext, explain_error
from scripts.aws.instances import InstanceType, describe_instance_types
from services.errors import FleetsightError

MAX_CHECK_SECONDS = 100.0
"""The longest time of all checks together."""

MAX_CHARACTERS = 600
"""The longest finding that is shown; some services answer with a page of HTML."""


class Level(StrEnum):
    """Severity of a finding, the worst first: `up` stops at `STOP`."""

    STOP = "stop"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True)
class Finding:
    """A result of a check.

    Attributes:
        remedy: what the user can do, or empty.
    """

    level: Level
    found: str
    remedy: str = ""

    def line(self, check: str) -> str:
        """Return the finding as a line that begins with its level and the name of its check."""
        found = " ".join(self.found.split())
        short = found if len(found) <= MAX_CHARACTERS else f"{found[: MAX_CHARACTERS - 1]}…"
        return f"{self.level:<8} {check}: {short}" + (f". {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class StackPlan:
    """The stack that is about to be created or changed.

    Attributes:
        network: the stack's parameters of its network; empty if no network was found.
        config: of its web instance.
        images: ids of the existing images, by role.
        service_role: ARN of the role that CloudFormation assumes; empty to use the rights of the caller.
        passes_role: whether the caller gives the stack this role; else the stack has it already.
        type_option, subnet_option: the options by which the user names other instance types, and other subnets.
    """

    context: AwsContext
    network: Mapping[str, str]
    config: Config
    parameters: Mapping[str, str]
    images: Mapping[Role, str]
    is_new: bool
    service_role: str = ""
    passes_role: bool = False
    type_option: str = "--set WebInstanceType=TYPE, --config fleet.instance_types=[TYPE]"
    subnet_option: str = "--subnets"

    @property
    def account(self) -> AwsAccount:
        """The account of the stack."""
        return self.context.account

    @property
    def fleet(self) -> FleetSettings:
        """The section `fleet` of the configuration."""
        return self.config.fleet

    @property
    def subnet_ids(self) -> list[str]:
        """The subnets of web instances, workers and builders."""
        return self.network["SubnetIds"].split(",")

    @property
    def web_type(self) -> str:
        """The instance type of the web instances."""
        return self.parameters["WebInstanceType"]

    def builder_type(self, role: Role) -> str:
        """Return the instance type of an image's builder: the web tier's, if it has the right architecture."""
        web, first = self.instance_types[self.web_type], self.instance_types[self.fleet.instance_types[0]]
        return self.web_type if role == "web" or web.architecture == first.architecture else first.name

    @property
    def web_instances(self) -> int:
        """The number of web instances of the stack."""
        return int(self.parameters["WebInstances"])

    @property
    def types(self) -> list[str]:
        """The names of all instance types, without duplicates."""
        return list(dict.fromkeys((self.web_type, *self.fleet.instance_types)))

    @cached_property
    def instance_types(self) -> Mapping[str, InstanceType]:
        """EC2's descriptions of all instance types, by their names."""
        return describe_instance_types(self.account.ec2, self.types)

    @property
    def markets(self) -> tuple[str, ...]:
        """The markets on which workers are launched, the preferred one first."""
        return ("spot", "on_demand") if self.fleet.market == "spot" else ("on_demand",)


PreflightCheck = Callable[[StackPlan], Iterable[Finding]]


def run_checks(
    plan: StackPlan, checks: Mapping[str, PreflightCheck], seconds: float = MAX_CHECK_SECONDS
) -> list[tuple[str, Finding]]:
    """Return the findings with the names of their checks, which run in parallel for so many seconds at most."""
    end = time.monotonic() + seconds
    futures = {name: _start_check(plan, check) for name, check in checks.items()}
    found = []
    for name, future in futures.items():
        try:
            findings = future.result(timeout=max(0.0, end - time.monotonic()))
        except TimeoutError:
            findings = [Finding(Level.WARNING, f"unknown: AWS did not answer within {seconds:.0f} s", "Try again")]
        found += [(name, each) for each in findings]
    return found


def _start_check(plan: StackPlan, check: PreflightCheck) -> "Future[list[Finding]]":
    future: Future[list[Finding]] = Future()

    def work() -> None:
        try:
            future.set_result(guarded(lambda: check(plan)))
        except BaseException as error:  # noqa: BLE001 (`run_checks` raises it again)
            future.set_exception(error)

    # The process does not wait for a daemon thread at its end, as it would for the threads of a pool.
    threading.Thread(target=work, daemon=True).start()
    return future


def guarded(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return the findings of a check, or a warning if AWS cannot be called."""
    try:
        return list(check())
    except (BotoCoreError, ClientError, FleetsightError) as error:
        return [Finding(Level.WARNING, f"unknown: {explain_error(error)}")]
