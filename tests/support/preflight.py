"""A plan for the preflight in an account of stubs."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from botocore.stub import Stubber

from scripts.aws.bake.spec import Role
from scripts.aws.context import AwsAccount, AwsContext
from scripts.aws.deploy.settings import StackSettings, parameter_values, validated_config
from scripts.aws.preflight.findings import PreflightCheck, StackPlan, run_checks
from tests.support.stubs import stubbed

USER = "arn:aws:iam::123456789012:user/ann"


@dataclass
class StubbedAccount:
    """An account of stubs, and the stack that is about to be created there.

    Attributes:
        stubs: by service.
        fleet: overrides of this section of its configuration.
        engine: of its workers.
        parameters: given parameters of the stack.
        images: the existing images.
    """

    stubs: Mapping[str, Stubber]
    caller: str = USER
    fleet: Mapping[str, Any] = field(default_factory=dict)
    engine: str = "openvino"
    parameters: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[Role, str] = field(default_factory=lambda: {"web": "ami-1", "worker": "ami-2"})
    is_new: bool = True

    @property
    def account(self) -> AwsAccount:
        account = AwsAccount("us-east-1", _clients={name: stub.client for name, stub in self.stubs.items()})
        account.__dict__["_caller"] = {"Account": "123456789012", "Arn": self.caller}  # known already
        return account

    def plan(self) -> StackPlan:
        context = AwsContext(self.account, "fs", lambda _: None, lambda _: None)
        network = {"VpcId": "vpc-1", "SubnetIds": "subnet-1,subnet-2", "RouteTableIds": ""}
        values = parameter_values(StackSettings(self.parameters), None)
        config = validated_config({"worker.engine": self.engine})
        config = config.model_copy(update={"fleet": config.fleet.model_copy(update=dict(self.fleet))})
        return StackPlan(context, network, config, values, self.images, self.is_new)

    def found(self, check: PreflightCheck) -> list[tuple[str, str, str]]:
        """Return level, words and remedy of each finding of a check."""
        return [(each.level.value, each.found, each.remedy) for _, each in run_checks(self.plan(), {"it": check})]


@contextmanager
def stubbed_account(*services: str, **changes: Any) -> Iterator[StubbedAccount]:
    """Yield an account with stubs of these services; each of their answers must have been asked for at the end."""
    with ExitStack() as stack:
        yield StubbedAccount({each: stack.enter_context(stubbed(each)) for each in services}, **changes)
