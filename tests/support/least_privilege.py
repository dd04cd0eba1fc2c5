"""Least privilege: a deployed stack, and the calls that each of its roles must be denied.

In the parameters of a call ``{…}`` stands for a value that only the test knows.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest

from localcloud.launch import REGION, LocalCloud
from scripts.aws.preflight.permissions import OTHER_RESOURCES, boundary_policy
from tests.conftest import ROOT
from tests.support.iam.checks import ACCOUNT
from tests.support.iam.judge import PermissionCheck, Verdict, judge
from tests.support.iam.recording import RecordedCall, as_recorded
from tests.support.waiting import wait_until

IMAGE = "ami-12c6146b"
"""An image that moto has from the start."""

NAME = "fleetsight"

OUTSIDE = ["arn:aws:s3:::photos", "arn:aws:s3:::photos/*", "arn:aws:s3:::models/*"]
"""What the administrator has named for the boundary: the bucket of sources, and that of a bundle."""


@cache
def _client(service: str, region: str, endpoint_url: str) -> Any:
    """Make a client once: making it costs more than most calls."""
    return boto3.client(service, region, endpoint_url=endpoint_url)  # type: ignore[call-overload]


@dataclass
class DeployedStack:
    """The stack in the account of a local cloud.

    Attributes:
        stack: as DescribeStacks returns it.
        ids: of the resources, by their names in the template.
    """

    cloud: LocalCloud
    stack: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """Return a client of the cloud, which may do everything."""
        return _client(service, REGION, self.cloud.endpoint_url)

    def create(self, parameters: Mapping[str, str]) -> None:
        """Create the stack in the default VPC."""
        for role in ("worker", "web"):
            self.client("ssm").put_parameter(Name=f"/{NAME}/image/{role}", Type="String", Value=IMAGE)
        self.client("s3").create_bucket(Bucket="templates")
        self.client("s3").upload_file(str(ROOT / "infra" / "stack.yaml"), "templates", "stack.yaml")
        given = {"VpcId": self.vpc, "SubnetIds": ",".join(self.subnets), **parameters}
        cloudformation = self.client("cloudformation")
        created = cloudformation.create_change_set(
            StackName=NAME,
            ChangeSetName="create",
            ChangeSetType="CREATE",
            TemplateURL=f"https://templates.s3.{REGION}.amazonaws.com/stack.yaml",
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        cloudformation.execute_change_set(ChangeSetName=created["Id"])
        self.stack = {"StackId": created["StackId"]}
        self.wait_for("CREATE_COMPLETE")
        listed = cloudformation.list_stack_resources(StackName=NAME)["StackResourceSummaries"]
        self.ids = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in listed}

    def wait_for(self, status: str) -> None:
        """Wait until no operation is in progress, and check the status."""
        cloudformation, stack_id = self.client("cloudformation"), self.stack["StackId"]

        def is_settled() -> bool:
            (self.stack,) = cloudformation.describe_stacks(StackName=stack_id)["Stacks"]
            return not self.stack["StackStatus"].endswith("_IN_PROGRESS")

        wait_until(is_settled, f"the stack to be {status}")
        events = cloudformation.describe_stack_events(StackName=stack_id)["StackEvents"]
        assert self.stack["StackStatus"] == status, [each for each in events if "FAILED" in each["ResourceStatus"]]

    @property
    def vpc(self) -> str:
        """The id of the default VPC."""
        return str(self.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"])

    @property
    def subnets(self) -> list[str]:
        """The ids of two subnets of the default VPC."""
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}]
        return [each["SubnetId"] for each in self.client("ec2").describe_subnets(Filters=filters)["Subnets"][:2]]

    @property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs."""
        return {each["OutputKey"]: each["OutputValue"] for each in self.stack["Outputs"]}

    def instances(self, name: str) -> list[dict[str, Any]]:
        """Return all instances of a name, ended ones too."""
        filters = [{"Name": "tag:Name", "Values": [name]}]
        found = self.client("ec2").describe_instances(Filters=filters)["Reservations"]
        return [one for each in found for one in each["Instances"]]

    def role_arn(self, role: str) -> str:
        """Return the ARN of a role of the template."""
        return str(self.client("iam").get_role(RoleName=self.ids[role])["Role"]["Arn"])

    def policies(self, role: str) -> dict[str, dict[str, Any]]:
        """Return the documents of a role of the template by their names, as the stack resolved them."""
        iam, named = self.client("iam"), {"RoleName": self.ids[role]}
        names = iam.list_role_policies(**named)["PolicyNames"]
        return {name: dict(iam.get_role_policy(**named, PolicyName=name)["PolicyDocument"]) for name in names}

    def verdicts(self, role: str, checks: Sequence[PermissionCheck]) -> list[Verdict]:
        """Return what iam-simulate decides about the checks, for a session of a role with the printed boundary."""
        session = f"arn:aws:sts::{ACCOUNT}:assumed-role/{self.ids[role]}/session"
        bound = boundary_policy(NAME, {"partition": "aws", "region": REGION, "account": ACCOUNT})
        bound["Statement"].append({**OTHER_RESOURCES, "Resource": OUTSIDE})
        return judge(session, self.policies(role), checks, bound)


def worker_command(endpoint_url: str) -> str:
    """Return the command that starts a worker of this checkout in place of an image's."""
    settings = {
        "FLEETSIGHT__AWS__ENDPOINT_URL": endpoint_url,
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "1",
        "FLEETSIGHT__WORKER__THREADS": "1",
    }
    return _command(settings, "app_tier")


def web_command(folder: Path, endpoint_url: str, port: int, settings: dict[str, str]) -> str:
    """Return the command that starts web tier and controller of this checkout, each with its role."""
    every = {
        "FLEETSIGHT__AWS__ENDPOINT_URL": endpoint_url,
        "AWS_ENDPOINT_URL_STS": endpoint_url,
        "FLEETSIGHT__WEB__PORT": str(port),
        "FLEETSIGHT__WEB__PROCESSES": "1",
        **settings,
    }
    return _command(every, "tests.support.web_instance", str(folder))


def _command(settings: Mapping[str, str], *module: str) -> str:
    """Return the command that runs a module of this checkout with settings."""
    assignments = (f"{name}={value}" for name, value in settings.items())
    return shlex.join(["env", "-C", str(ROOT), *assignments, sys.executable, "-m", *module])


_NAMED = {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "{worker_name}"}]}
_FROM_TEMPLATE = {
    "MinCount": 1,
    "MaxCount": 1,
    "LaunchTemplate": {"LaunchTemplateName": "{template}"},
    "TagSpecifications": [_NAMED],
}
_IMAGE, _RESULT = {"Bucket": "{inputs}", "Key": "a/b.jpg"}, {"Bucket": "{outputs}", "Key": "a/b.json"}
_MODEL = {"Bucket": "{models}", "Key": "models/a/bundle.json"}
_FLEETS_OWN, _WEB = {"InstanceIds": ["{worker}"]}, {"InstanceIds": ["{web}"]}


class _NotSentError(Exception):
    """Raised instead of sending a request.

    Attributes:
        request: the request, as it would have been sent.
    """

    def __init__(self, request: AWSPreparedRequest) -> None:
        super().__init__(request.url)
        self.request = request


def _refuse_to_send(request: AWSPreparedRequest, **_: Any) -> None:
    raise _NotSentError(request)


@dataclass(frozen=True)
class Attempt:
    """A call that a role must be denied. It is never sent."""

    role: str
    service: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    region: str = "us-east-1"

    def filled(self, known: Mapping[str, str]) -> dict[str, Any]:
        """Return the parameters with what is known of the test."""
        filled: dict[str, Any] = _filled(self.parameters, known)
        return filled

    def call(self, role_arn: str, known: Mapping[str, str]) -> RecordedCall:
        """Return the request as the local cloud would record it."""
        client = _client(self.service, self.region, "http://127.0.0.1")
        client.meta.events.register("before-send", _refuse_to_send)
        with pytest.raises(_NotSentError) as refused:
            getattr(client, self.method)(**self.filled(known))
        return as_recorded(refused.value.request, role_arn, self.service, self.region, status=403)


def _filled(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _filled(each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, known) for each in value]
    return known[value[1:-1]] if isinstance(value, str) and value.startswith("{") else value


def _launch(**more: Any) -> Attempt:
    return Attempt("ControllerRole", "ec2", "run_instances", {**_FROM_TEMPLATE, **more})


def _tagging(method: str, instance: str, **more: Any) -> Attempt:
    return Attempt("ControllerRole", "ec2", method, {"Resources": [instance], **more})


DENIED_CALLS = {
    "a worker puts no image": Attempt("WorkerRole", "s3", "put_object", {**_IMAGE, "Body": b""}),
    "a worker changes no model": Attempt("WorkerRole", "s3", "put_object", {**_MODEL, "Body": b""}),
    "web deletes no model": Attempt("WebRole", "s3", "delete_object", _MODEL),
    "the controller deletes no model": Attempt("ControllerRole", "s3", "delete_object", _MODEL),
    "web publishes no model among the results": Attempt(
        "WebRole", "s3", "put_object", {**_MODEL, "Bucket": "{outputs}", "Body": b""}
    ),
    "a worker takes no answers": Attempt("WorkerRole", "sqs", "receive_message", {"QueueUrl": "{responses}"}),
    "web reads only the fleet's consoles": Attempt("WebRole", "ec2", "get_console_output", {"InstanceId": "{web}"}),
    "web sends no answers": Attempt(
        "WebRole", "sqs", "send_message", {"QueueUrl": "{responses}", "MessageBody": "x"}
    ),
    "the controller takes no requests": Attempt(
        "ControllerRole", "sqs", "receive_message", {"QueueUrl": "{requests}"}
    ),
    "web writes no results": Attempt("WebRole", "s3", "put_object", {**_RESULT, "Body": b""}),
    "web reads no other parameter": Attempt("WebRole", "ssm", "get_parameter", {"Name": "/fleetsight/config"}),
    # It puts images of jobs from S3, which this stack allows: `SourcePolicy`.
    "the controller reads nothing else of a source's bucket": Attempt(
        "ControllerRole", "s3", "get_object", {"Bucket": "photos", "Key": "incoming2/a.jpg"}
    ),
    "the controller lists no other folder of a source's bucket": Attempt(
        "ControllerRole", "s3", "list_objects_v2", {"Bucket": "photos", "Prefix": "incoming2/"}
    ),
    "the controller writes to no source": Attempt(
        "ControllerRole", "s3", "put_object", {"Bucket": "photos", "Key": "incoming/a.jpg", "Body": b""}
    ),
    "the controller writes to no other folder of a destination's bucket": Attempt(
        "ControllerRole", "s3", "put_object", {"Bucket": "photos", "Key": "labels2/a.jsonl", "Body": b""}
    ),
    "the controller reads no destination": Attempt(
        "ControllerRole", "s3", "get_object", {"Bucket": "photos", "Key": "labels/day1/a.jsonl"}
    ),
    "web writes to no destination": Attempt(
        "WebRole", "s3", "put_object", {"Bucket": "photos", "Key": "labels/a.jsonl", "Body": b""}
    ),
    "web reads no source": Attempt("WebRole", "s3", "get_object", {"Bucket": "photos", "Key": "incoming/day1/a.jpg"}),
    "a worker reads no source": Attempt(
        "WorkerRole", "s3", "get_object", {"Bucket": "photos", "Key": "incoming/day1/a.jpg"}
    ),
    "the controller launches nothing without the template": Attempt(
        "ControllerRole",
        "ec2",
        "run_instances",
        {"MinCount": 1, "MaxCount": 1, "ImageId": "ami-12c6146b", "TagSpecifications": [_NAMED]},
    ),
    "the controller launches nothing under another name": _launch(
        TagSpecifications=[{**_NAMED, "Tags": [{"Key": "Name", "Value": "mine"}]}]
    ),
    "the controller launches no other image": _launch(ImageId="ami-00000000"),
    "the controller launches no other group": _launch(SecurityGroupIds=["{group}"]),
    "the controller passes no other role": _launch(IamInstanceProfile={"Name": "{web_profile}"}),
    "the controller launches none that takes no tokens": _launch(MetadataOptions={"HttpTokens": "optional"}),
    "the controller launches none with a key pair": _launch(KeyName="mine"),
    "the controller launches no other template": _launch(LaunchTemplate={"LaunchTemplateName": "{web_template}"}),
    "the controller ends only the fleet": Attempt("ControllerRole", "ec2", "terminate_instances", _WEB),
    "the controller starts only the fleet": Attempt("ControllerRole", "ec2", "start_instances", _WEB),
    "the controller reads only the fleet's consoles": Attempt(
        "ControllerRole", "ec2", "get_console_output", {"InstanceId": "{web}"}
    ),
    "the controller removes no tag of another instance": _tagging(
        "delete_tags", "{web}", Tags=[{"Key": "fleetsight-drain"}]
    ),
    "the controller tags no volume afterwards": _tagging(
        "create_tags", "vol-0123", Tags=[{"Key": "Name", "Value": "mine"}]
    ),
    "the controller renames nothing": _tagging("create_tags", "{worker}", Tags=[{"Key": "Name", "Value": "mine"}]),
    "the controller takes not every tag": _tagging("delete_tags", "{worker}"),
    "the controller drains only the fleet": _tagging(
        "create_tags", "{web}", Tags=[{"Key": "fleetsight-drain", "Value": "asked"}]
    ),
    "the controller sees no other region": Attempt(
        "ControllerRole", "ec2", "describe_instances", region="eu-central-1"
    ),
}
"""By what they show. An action that no statement of a role has needs no call here: a test compares those."""
