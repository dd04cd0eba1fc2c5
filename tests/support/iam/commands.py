"""The permissions that calls of `fleetsight up`, `roll` and `down` need, by operation and parameters."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import getattr_static
from pathlib import Path
from typing import Any

from scripts.aws.context import AwsAccount, ServiceClient
from scripts.aws.preflight.permissions import deploy_policies
from tests.support.iam.checks import ACCOUNT
from tests.support.iam.judge import PermissionCheck, Verdict, judge


def calls_in_source(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield the calls of AWS in modules, such as `account.ec2.describe_images(…)`: name of the client, operation."""
    account = AwsAccount("us-east-1")
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner, method = ast.unparse(node.func.value).rpartition(".")[2], node.func.attr
            if not isinstance(getattr_static(AwsAccount, owner, None), ServiceClient):
                continue
            method = str(ast.literal_eval(node.args[0])) if method == "get_paginator" else method
            if (call := getattr(account, owner).meta.method_to_api_mapping.get(method)) is not None:
                yield owner, call


SERVICES = {
    "cognito": "cognito-idp",
    "quotas": "servicequotas",
    "service-quotas": "servicequotas",
}
"""Names of actions begin so, where not by the name of the client."""

OTHERWISE_NAMED = {
    "budgets:DescribeBudgets": "budgets:ViewBudget",
    "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListBuckets": "s3:ListAllMyBuckets",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
}
"""Operations with an action of another name.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsbudgetservice.html
"""

WITHOUT_POLICY = frozenset({"sts:GetCallerIdentity"})
"""Calls that need no permission."""

_NAMED_BY = {
    "budgets": {"AccountId": "arn:aws:budgets::{account}:budget/name"},
    "cloudformation": {
        "StackName": "arn:aws:cloudformation:{region}:{account}:stack/{prefix}/1",
        "ChangeSetName": "arn:aws:cloudformation:{region}:{account}:stack/{prefix}/1",
    },
    "cloudwatch": {"AlarmNamePrefix": "arn:aws:cloudwatch:{region}:{account}:alarm:{value}alarm"},
    "dynamodb": {
        "TableName": "arn:aws:dynamodb:{region}:{account}:table/{value}",
        "ResourceArn": "{value}",
    },
    "iam": {"PolicyArn": "{value}"},
    "logs": {"logGroupName": "arn:aws:logs:{region}:{account}:log-group:{value}"},
    "sqs": {
        "QueueName": "arn:aws:sqs:{region}:{account}:{value}",
        "QueueUrl": "arn:aws:sqs:{region}:{account}:{end}",
    },
    "ssm": {"Name": "arn:aws:ssm:{region}:{account}:parameter{value}"},
}
"""Resources by the parameter that names them; other services are allowed on all resources."""


def checks_of_command(
    service: str, operation: str, parameters: Mapping[str, Any], prefix: str, region: str
) -> Iterator[PermissionCheck]:
    """Yield the permissions that a call needs."""
    action = f"{SERVICES.get(service, service)}:{operation}"
    action = OTHERWISE_NAMED.get(action, action)
    if action in WITHOUT_POLICY:
        return
    if service == "s3" and "Bucket" in parameters:
        of_bucket = f"arn:aws:s3:::{parameters['Bucket']}"
        deleted = parameters.get("Delete", {}).get("Objects", [])
        for each in deleted:
            version = "Version" if each.get("VersionId") else ""
            yield PermissionCheck(f"{action}{version}", f"{of_bucket}/{each['Key']}")
        if not deleted:
            yield PermissionCheck(action, f"{of_bucket}/{parameters['Key']}" if "Key" in parameters else of_bucket)
        return
    names = parameters.get("Names", []) if service == "ssm" else []
    for name in names:
        yield PermissionCheck(action, f"arn:aws:ssm:{region}:{ACCOUNT}:parameter{name}")
    if names:
        return
    named = [(value, parameters[key]) for key, value in _NAMED_BY.get(service, {}).items() if key in parameters]
    resource = "*"
    if named:
        form, value = named[0]
        end = str(value).rpartition("/")[2]
        resource = form.format(account=ACCOUNT, region=region, prefix=prefix, value=value, end=end)
    yield PermissionCheck(action, resource)


@dataclass
class PrintedPolicy:
    """The policy that `aws check --policy` prints, and the permissions that the calls of an account's commands need.

    Attributes:
        is_running: whether a command runs, and not a test that looks at what it did.
    """

    account: AwsAccount
    prefix: str
    is_running: bool = True
    needed: dict[str, PermissionCheck] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.account._session.events.register("before-parameter-build", self._note)  # before there are clients

    def _note(self, model: Any, params: Mapping[str, Any], **_: Any) -> None:
        if self.is_running:
            call = (model.service_model.service_name, model.name, params)
            checks = checks_of_command(*call, self.prefix, self.account.region_name)
            self.needed |= {str(check): check for check in checks}

    def denied(self) -> list[PermissionCheck]:
        """Return what the commands needed and the policy does not allow."""
        checks = list(self.needed.values())
        return [check for check, verdict in zip(checks, self._judge(checks), strict=True) if not verdict.allowed]

    def allowed_for(self, prefix: str) -> list[PermissionCheck]:
        """Return what the policy allows for the resources of another prefix, of what the commands needed."""
        named = [check for check in self.needed.values() if self.prefix in check.resource]
        others = [replace(check, resource=check.resource.replace(self.prefix, prefix)) for check in named]
        return [check for check, verdict in zip(others, self._judge(others), strict=True) if verdict.allowed]

    def _judge(self, checks: list[PermissionCheck]) -> list[Verdict]:
        values = {"partition": "aws", "region": self.account.region_name, "account": ACCOUNT}
        printed = deploy_policies(self.prefix, values)
        return judge(f"arn:aws:iam::{ACCOUNT}:user/ann", {str(n): each for n, each in enumerate(printed)}, checks)
