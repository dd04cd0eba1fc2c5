"""What every command about AWS works with: the account and its clients, the prefix, progress reports, and a clock.

The clients of an account are created on first use. Errors of its calls are explained to the user.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

import click
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from services.clock import CLOCK, Clock
from services.errors import FleetsightError, readable

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudfront import CloudFrontClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_sts import STSClient
    from mypy_boto3_sts.type_defs import GetCallerIdentityResponseTypeDef
    from rich.console import RenderableType

ClientT = TypeVar("ClientT")

TAG = "fleetsight"
"""The tag of every resource that the commands and the stack create; its value is the prefix."""

SKEWED_CODES = {"RequestExpired", "RequestTimeTooSkewed"}
"""Error codes of a request with a time stamp that is five minutes off; STS has SignatureDoesNotMatch, and says why.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

DENIED_CODES = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}
"""Error codes of a denied call; S3's answer to a HEAD request has only the status 403."""

EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException"}
"""Error codes of a session, such as one of IAM Identity Center, that has ended."""

HOME_REGIONS = {"freetier": "us-east-1"}
"""The region of services that have only one.

https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/Welcome.html
"""

T = TypeVar("T")
P = ParamSpec("P")
PREFIX_PATTERN = r"[a-z][a-z0-9-]{1,14}[a-z0-9]"
"""The pattern of the stack's parameter `Prefix`."""

REPORT_SECONDS = 30.0
"""How often a long wait reports that it continues."""


class AccountError(FleetsightError):
    """Raised when no call can be made: no credentials, an unknown profile, or no region."""


class ServiceClient(Generic[ClientT]):
    """An attribute of an account: the client of a service, created on first use."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __get__(self, account: "AwsAccount", _: type) -> ClientT:
        """Return the client."""
        client: ClientT = account.client(self._service)
        return client


@dataclass
class AwsAccount:
    """Clients of one region of one account; threads may share it.

    Attributes:
        region: such as us-east-1; None for the profile's region.
        profile: of the AWS configuration; None for the default profile.
        endpoint_url: of a local cloud; None for AWS.
    """

    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    autoscaling: "ClassVar[ServiceClient[AutoScalingClient]]" = ServiceClient("autoscaling")
    cloudformation: "ClassVar[ServiceClient[CloudFormationClient]]" = ServiceClient("cloudformation")
    cloudfront: "ClassVar[ServiceClient[CloudFrontClient]]" = ServiceClient("cloudfront")
    cloudwatch: "ClassVar[ServiceClient[CloudWatchClient]]" = ServiceClient("cloudwatch")
    cognito: "ClassVar[ServiceClient[CognitoIdentityProviderClient]]" = ServiceClient("cognito-idp")
    dynamodb: "ClassVar[ServiceClient[DynamoDBClient]]" = ServiceClient("dynamodb")
    ec2: "ClassVar[ServiceClient[EC2Client]]" = ServiceClient("ec2")
    freetier: "ClassVar[ServiceClient[Any]]" = ServiceClient("freetier")
    iam: "ClassVar[ServiceClient[IAMClient]]" = ServiceClient("iam")
    kms: "ClassVar[ServiceClient[Any]]" = ServiceClient("kms")
    logs: "ClassVar[ServiceClient[CloudWatchLogsClient]]" = ServiceClient("logs")
    quotas: "ClassVar[ServiceClient[Any]]" = ServiceClient("service-quotas")
    s3: "ClassVar[ServiceClient[S3Client]]" = ServiceClient("s3")
    sqs: "ClassVar[ServiceClient[SQSClient]]" = ServiceClient("sqs")
    ssm: "ClassVar[ServiceClient[SSMClient]]" = ServiceClient("ssm")
    sts: "ClassVar[ServiceClient[STSClient]]" = ServiceClient("sts")

    @cached_property
    def id(self) -> str:
        """The account's number of twelve digits.

        Raises:
            AccountError: there are no credentials, or they are not valid.
        """
        return self._caller["Account"]

    @cached_property
    def caller_arn(self) -> str:
        """The ARN of the user or the session that makes the calls.

        Raises:
            AccountError: there are no credentials, or they are not valid.
        """
        return self._caller["Arn"]

    @property
    def partition(self) -> str:
        """The partition of the caller, such as aws, aws-cn or aws-us-gov."""
        return self.caller_arn.split(":")[1]

    @cached_property
    def _caller(self) -> "GetCallerIdentityResponseTypeDef":
        try:
            return self.sts.get_caller_identity()
        except (BotoCoreError, ClientError) as error:
            if _is_skewed(error):
                raise AccountError(
                    f"this machine's clock is wrong ({error}): set it, such as with `sudo timedatectl set-ntp true`"
                ) from error
            raise AccountError(
                f"AWS does not know the caller ({error}): sign in with `aws configure`, or give --profile"
            ) from error

    @cached_property
    def region_name(self) -> str:
        """The region.

        Raises:
            AccountError: no region is given, and the profile names none.
        """
        name = self.region or self._session.region_name
        if not name:
            raise AccountError(
                "no region: give --region, such as --region us-east-1, or set one with `aws configure`. "
                "This command is about AWS; the system on this machine has ./scripts/fleetsight fleet status"
            )
        return str(name)

    @cached_property
    def _session(self) -> "boto3.Session":
        import boto3  # a tenth of the start of each command

        try:
            return boto3.Session(profile_name=self.profile)
        except ProfileNotFound as error:
            raise AccountError(f"{error}; `aws configure list-profiles` shows those there are") from error

    def client(self, service: str) -> Any:
        """Return the client of a service by boto3's name of it."""
        if service in self._clients:
            return self._clients[service]
        # Five attempts with jitter, each at most 65 seconds.
        config = BotoConfig(retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=5, read_timeout=60)
        if service == "s3":
            # What it signs is for the region's own address. A bucket's name is no host name on loopback.
            style: Any = {"addressing_style": "path" if self.endpoint_url else "virtual"}
            config = config.merge(BotoConfig(signature_version="s3v4", s3=style))
        with self._lock:  # a session of boto3 must not create two clients at once
            if service not in self._clients:
                self._clients[service] = self._session.client(
                    service,  # type: ignore[call-overload]  # any of them
                    region_name=HOME_REGIONS.get(service, self.region_name),
                    endpoint_url=self.endpoint_url,
                    config=config,
                )
        return self._clients[service]


def _is_skewed(error: Exception) -> bool:
    if not isinstance(error, ClientError):
        return False
    found = error.response["Error"]
    is_dated = "Signature expired" in found.get("Message", "") or "Signature not yet current" in found.get(
        "Message", ""
    )
    return found["Code"] in SKEWED_CODES or is_dated


def explain_error(error: Exception) -> str:
    """Return the message of an error; for a denied call or an ended session, what to do."""
    if isinstance(error, ClientError) and error.response["Error"]["Code"] in EXPIRED_CODES:
        return f"your session has ended ({error}): sign in again, and repeat the command, which continues"
    if not isinstance(error, ClientError) or error.response["Error"]["Code"] not in DENIED_CODES:
        return str(error)
    # The message of most services names the caller; S3's does not.
    message = readable(error.response["Error"].get("Message", ""))
    return (
        f"AWS does not allow you to call {error.operation_name}: have your user or role allowed that, or use another "
        f"--profile ({message or error.response['Error']['Code']})"
    )


class DeclinedError(FleetsightError):
    """Raised when the user declines, or images are missing and the user has turned baking off."""


class TimedOutError(FleetsightError):
    """Raised when a condition did not become true in time; the message names the condition."""


@dataclass(frozen=True)
class Waiter:
    """Polls until a condition is true; a test replaces its clock.

    Attributes:
        report: receives a sentence about a long wait.
    """

    clock: Clock = CLOCK
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
        start = reported = self.clock.monotonic()
        while not (result := poll()):
            now = self.clock.monotonic()
            if now >= start + seconds:
                raise TimedOutError(f"waited {seconds:.0f} s in vain for {what}")
            if now >= reported + REPORT_SECONDS:
                reported = now
                self.report(f"still waiting for {what} ({now - start:.0f} s)")
            self.clock.sleep(every)
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


class NoAccountError(click.ClickException):
    """Raised when no account can be called: there are no credentials or no region."""

    exit_code = 2


def aws_command(command: Callable[Concatenate[AwsAccount, str, P], None]) -> Callable[P, None]:
    """Give a command `--region`, `--profile` and `--prefix`, and call it with the account and the prefix.

    An error becomes one line, and status 1, or 2 if no account can be called.
    """

    @click.option("--region", help="AWS region, such as us-east-1 [default: the profile's]")
    @click.option("--profile", help="Profile of the AWS configuration [default: the default one]")
    @click.option(
        "--prefix",
        default="fleetsight",
        show_default=True,
        callback=_parse_prefix,
        help="Beginning of the names of all resources.",
    )
    @click.option("--endpoint-url", hidden=True, help="Of a local cloud.")
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        region, profile, prefix, url = (kwargs.pop(name) for name in ("region", "profile", "prefix", "endpoint_url"))
        account = AwsAccount(_text(region), _text(profile), _text(url))
        try:
            command(account, str(prefix), *args, **kwargs)
        except AccountError as error:
            raise NoAccountError(str(error)) from error
        except (FleetsightError, BotoCoreError, ClientError) as error:
            raise click.ClickException(explain_error(error)) from error

    return run


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _parse_prefix(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(PREFIX_PATTERN, value):
        raise click.BadParameter(
            f"{value!r}: 3 to 16 small letters, digits and dashes, a letter first and no dash last"
        )
    return value
