"""The AWS commands in tests: an account on an emulator or of stubs, a clock without long sleeps, and the output."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import boto3
from botocore.stub import Stubber
from rich.console import RenderableType

from core.config import load_config
from core.ids import new_id
from fleetsight_client.console import Console
from scripts.aws import down as downs
from scripts.aws.bake.builders import BuilderConfig
from scripts.aws.bake.spec import ROLES, Role
from scripts.aws.context import TAG, AwsAccount, AwsContext, Waiter
from scripts.aws.deploy import up as ups
from scripts.aws.deploy.settings import StackSettings, parameter_values, validated_config
from scripts.aws.preflight.findings import PreflightCheck, StackPlan, run_checks
from scripts.aws.resources import RESOURCE_TYPES
from tests.support.clocks import ManualClock

IMAGE = "ami-0deb1a12000000002"
"""Debian's newest, which the account has from the start."""


class CrashError(Exception):
    """Raised where a test simulates a crash."""


class Time(ManualClock):
    """A clock that advances only by sleeps.

    Attributes:
        pause: real seconds of a sleep, in which the cloud, another process, can act.
    """

    def __init__(self, now: float = 0.0, pause: float = 0.1) -> None:
        super().__init__(now)
        self.pause = pause

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        time.sleep(self.pause)

    @property
    def waiter(self) -> Waiter:
        return Waiter(self, lambda _: None)


@cache
def account_at(endpoint_url: str) -> AwsAccount:
    """Return the account of an emulator; its clients are shared, since making them costs more than a test."""
    return AwsAccount("us-east-1", None, endpoint_url)


@dataclass
class Stage:
    """Runs commands for one prefix.

    Attributes:
        steps: the reported changes.
        builders: the configurations of builders.
        baked: the bundle of each bake.
        crash_at: the step of a run at which the command crashes; None for no crash.
    """

    account: AwsAccount
    prefix: str = field(default_factory=lambda: f"t{new_id()[-12:].lower()}")
    steps: list[str] = field(default_factory=list)
    builders: list[BuilderConfig] = field(default_factory=list)
    baked: list[str | None] = field(default_factory=list)
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

    def up(self, *, says_yes: bool = True, **options: Any) -> str | None:
        """Run the command."""
        self._run = 0
        prompts = ups.Prompts(lambda _: says_yes, lambda _: True, self._bake)
        return ups.up(self.context, ups.UpOptions(**options), prompts)

    def down(self, *, says_yes: bool = True, **options: Any) -> None:
        self._run = 0
        wanted = downs.DownOptions(**{"drain_seconds": 5.0, **options})
        downs.down(self.context, wanted, load_config().prices, lambda _: says_yes)

    def _bake(
        self,
        _operation: AwsContext,
        roles: Sequence[Role],
        bundle: str | None,
        _engine: str,
        builder_config: BuilderConfig,
    ) -> None:
        self.builders.append(builder_config)
        self.baked.append(bundle)
        self.store_images(roles)

    def _done(self, sentence: str) -> None:
        self._run += 1
        self.steps.append(sentence)
        if self._run == self.crash_at:
            raise CrashError(sentence)

    def _say(self, shown: RenderableType) -> None:
        Console(file=self._shown, width=200).print(shown)


def stubbed_stage(**stubs: Stubber) -> Stage:
    """Return a stage for the prefix fs with these stubs of its account, by service; its sleeps take no time."""
    clients = {service.replace("_", "-"): stub.client for service, stub in stubs.items()}
    return Stage(AwsAccount("us-east-1", _clients=clients), "fs", time=Time(pause=0))


WITH_SITE = {
    "StaticSite": "true",
    "WebCidr": "0.0.0.0/0",
    "DomainName": "images.example.org",
    "HostedZoneId": "Z1",
    "CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1",
}
"""Parameters of a stack with a static site, as the rules of the template want them."""


def tagged(stage: Stage, *kinds: str, **more: str) -> Any:
    """Return the tags for new things of these types."""
    tags = [{"Key": key, "Value": value} for key, value in {TAG: stage.prefix, **more}.items()]
    return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


def launch_workers(stage: Stage, count: int) -> list[str]:
    """Launch workers, as the controller does, and return their ids."""
    launched = stage.account.ec2.run_instances(
        MinCount=count,
        MaxCount=count,
        ImageId=IMAGE,
        TagSpecifications=tagged(stage, "instance", Name=f"{stage.prefix}-worker"),
    )
    return [each["InstanceId"] for each in launched["Instances"]]


def make_belongings(stage: Stage) -> None:
    """Make one of each kind that a bake, or an instance that was forgotten, may leave; and a user pool."""
    ec2 = stage.account.ec2
    specs = tagged(stage, "instance")
    (builder,) = ec2.run_instances(MinCount=1, MaxCount=1, ImageId=IMAGE, TagSpecifications=specs)["Instances"]
    specs = tagged(stage, "image", "snapshot")
    ec2.create_image(InstanceId=builder["InstanceId"], Name=f"{stage.prefix}-1", TagSpecifications=specs)
    specs = tagged(stage, "volume")
    volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=8, TagSpecifications=specs)["VolumeId"]
    ec2.create_snapshot(VolumeId=volume, TagSpecifications=tagged(stage, "snapshot"))
    specs = tagged(stage, "security-group")
    ec2.create_security_group(GroupName=f"{stage.prefix}-bake", Description="a builder", TagSpecifications=specs)
    stage.account.cognito.create_user_pool(PoolName=stage.prefix, UserPoolTags={TAG: stage.prefix})


def data_buckets(stage: Stage) -> list[str]:
    """Return the names of the buckets of images and of results."""
    return [f"{stage.prefix}-{each}-123456789012-us-east-1" for each in ("input", "output")]


def left(stage: Stage) -> set[str]:
    """Return the kinds of which there is something."""
    return {kind.name for kind in RESOURCE_TYPES if kind.find(stage.account, stage.prefix)}


@contextmanager
def stubbed(service: str) -> Iterator[Stubber]:
    """Yield the stub of a client of `service`; every answer that was added must have been asked for at the end."""
    client = cast(Any, boto3.client)(service, region_name="us-east-1")
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


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
