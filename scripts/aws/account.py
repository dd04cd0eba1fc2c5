"""The AWS account that a command works on: its clients, created on first use, its id, and errors of its calls."""

import re
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from services.errors import FleetsightError

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudfront import CloudFrontClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_resourcegroupstaggingapi import ResourceGroupsTaggingAPIClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_sts import STSClient
    from mypy_boto3_sts.type_defs import GetCallerIdentityResponseTypeDef

ClientT = TypeVar("ClientT")

TAG = "fleetsight"
"""The tag of every resource that the commands and the stack create; its value is the prefix."""

DENIED_CODES = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}
"""Error codes of a denied call; S3's answer to a HEAD request has only the status 403."""


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
    budgets: "ClassVar[ServiceClient[Any]]" = ServiceClient("budgets")
    cloudformation: "ClassVar[ServiceClient[CloudFormationClient]]" = ServiceClient("cloudformation")
    cloudfront: "ClassVar[ServiceClient[CloudFrontClient]]" = ServiceClient("cloudfront")
    cloudwatch: "ClassVar[ServiceClient[CloudWatchClient]]" = ServiceClient("cloudwatch")
    cognito: "ClassVar[ServiceClient[CognitoIdentityProviderClient]]" = ServiceClient("cognito-idp")
    dynamodb: "ClassVar[ServiceClient[DynamoDBClient]]" = ServiceClient("dynamodb")
    ec2: "ClassVar[ServiceClient[EC2Client]]" = ServiceClient("ec2")
    elbv2: "ClassVar[ServiceClient[Any]]" = ServiceClient("elbv2")
    iam: "ClassVar[ServiceClient[IAMClient]]" = ServiceClient("iam")
    kms: "ClassVar[ServiceClient[Any]]" = ServiceClient("kms")
    logs: "ClassVar[ServiceClient[CloudWatchLogsClient]]" = ServiceClient("logs")
    quotas: "ClassVar[ServiceClient[Any]]" = ServiceClient("service-quotas")
    s3: "ClassVar[ServiceClient[S3Client]]" = ServiceClient("s3")
    ses: "ClassVar[ServiceClient[Any]]" = ServiceClient("sesv2")
    sns: "ClassVar[ServiceClient[Any]]" = ServiceClient("sns")
    sqs: "ClassVar[ServiceClient[SQSClient]]" = ServiceClient("sqs")
    ssm: "ClassVar[ServiceClient[SSMClient]]" = ServiceClient("ssm")
    sts: "ClassVar[ServiceClient[STSClient]]" = ServiceClient("sts")
    tagging: "ClassVar[ServiceClient[ResourceGroupsTaggingAPIClient]]" = ServiceClient("resourcegroupstaggingapi")

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

    @cached_property
    def _caller(self) -> "GetCallerIdentityResponseTypeDef":
        try:
            return self.sts.get_caller_identity()
        except (BotoCoreError, ClientError) as error:
            raise AccountError(
                f"AWS does not know who asks ({error}): sign in with `aws configure`, or give --profile"
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
                "no region: give --region, such as --region us-east-1, or set one with `aws configure`"
            )
        return str(name)

    @cached_property
    def _session(self) -> boto3.Session:
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
                    region_name=self.region_name,
                    endpoint_url=self.endpoint_url,
                    config=config,
                )
        return self._clients[service]


def explain_error(error: Exception) -> str:
    """Return the message of an error; for a denied call, the name of the call and what to do."""
    if not isinstance(error, ClientError) or error.response["Error"]["Code"] not in DENIED_CODES:
        return str(error)
    # The message of most services names the caller; S3's does not.
    message = re.sub(r"\s*Encoded authorization failure message: \S+", "", error.response["Error"].get("Message", ""))
    return (
        f"AWS does not allow you to call {error.operation_name}: have your user or role allowed that, or use another "
        f"--profile ({message or error.response['Error']['Code']})"
    )
