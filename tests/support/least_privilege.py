"""Least privilege: a deployed stack, and the calls that each of its roles must be denied.

In the parameters of a call ``{…}`` stands for a value that only the test knows.
"""

import base64
import json
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

from core.provision import provision
from localcloud.launch import REGION, LocalCloud
from scripts.aws.preflight.permissions import OTHER_RESOURCES, boundary_policy
from services.clients import Clients
from services.endpoint import Endpoint
from tests.conftest import ROOT
from tests.support.iam.checks import ACCOUNT
from tests.support.iam.judge import PermissionCheck, Verdict, judge
from tests.support.iam.recording import RecordedCall, as_recorded
from tests.support.stack_template import (
    GIVEN,
    RESOURCES,
    SERVER_ROLES,
    TEMPLATE,
    of_this_stack,
    of_type,
    policies,
    value_of,
)

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
    """What the roles of the stack reach, in the account of a local cloud: `GIVEN` has the ids of the resources.

    Buckets, queues and table are provisioned by the configuration that the template's user data makes. Roles, launch
    templates and policies are the template's.
    """

    cloud: LocalCloud

    def client(self, service: str) -> Any:
        """Return a client of the cloud, which may do everything."""
        return _client(service, REGION, self.cloud.endpoint_url)

    def create(self) -> None:
        """Create the resources in the default VPC, and launch the web instance."""
        iam, ec2 = self.client("iam"), self.client("ec2")
        GIVEN["VpcId"] = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        GIVEN["SubnetIds"] = [each["SubnetId"] for each in ec2.describe_subnets()["Subnets"][:2]]
        for kind in ("SQS::Queue", "S3::Bucket", "DynamoDB::Table"):
            for name, properties in of_type(kind).items():
                if (key := f"{kind.partition('::')[2]}Name") in properties:
                    GIVEN[f"{name}.Arn"] = _arn(kind, value_of(properties[key]))
        for name in ("WebSecurityGroup", "WorkerSecurityGroup"):
            group = ec2.create_security_group(GroupName=name, Description=name, VpcId=GIVEN["VpcId"])["GroupId"]
            GIVEN[name] = GIVEN[f"{name}.GroupId"] = group
        for role in SERVER_ROLES:
            trusted = json.dumps(value_of(RESOURCES[role]["Properties"]["AssumeRolePolicyDocument"]))
            created = iam.create_role(RoleName=f"{NAME}-{role}-0123", AssumeRolePolicyDocument=trusted)["Role"]
            GIVEN[role], GIVEN[f"{role}.Arn"] = created["RoleName"], created["Arn"]
        for name, properties in of_type("IAM::InstanceProfile").items():
            profile = iam.create_instance_profile(InstanceProfileName=f"{NAME}-{name}")["InstanceProfile"]
            GIVEN[f"{name}.Arn"] = profile["Arn"]
            for role in value_of(properties["Roles"]):
                iam.add_role_to_instance_profile(InstanceProfileName=f"{NAME}-{name}", RoleName=role)
        config = of_this_stack()
        provision(Clients(Endpoint(REGION, self.cloud.endpoint_url)), config)
        sqs, names = self.client("sqs"), config.names
        GIVEN["ResponseQueue"] = sqs.get_queue_url(QueueName=config.queue_name(names.response_queue))["QueueUrl"]
        for name, properties in of_type("EC2::LaunchTemplate").items():
            template = value_of(properties)
            encoded = base64.b64encode(template["LaunchTemplateData"]["UserData"].encode()).decode()
            template["LaunchTemplateData"]["UserData"] = encoded
            GIVEN[name] = ec2.create_launch_template(**template)["LaunchTemplate"]["LaunchTemplateId"]
        named = {"LaunchTemplateId": GIVEN["WebTemplate"]}
        ec2.run_instances(LaunchTemplate=named, SubnetId=GIVEN["SubnetIds"][0], MinCount=1, MaxCount=1)

    @property
    def outputs(self) -> dict[str, str]:
        """The outputs of the template, with those whose condition is not met."""
        return {name: str(value_of(each["Value"])) for name, each in TEMPLATE["Outputs"].items()}

    def instances(self, name: str) -> list[dict[str, Any]]:
        """Return all instances of a name, ended ones too."""
        filters = [{"Name": "tag:Name", "Values": [name]}]
        found = self.client("ec2").describe_instances(Filters=filters)["Reservations"]
        return [one for each in found for one in each["Instances"]]

    def verdicts(self, role: str, checks: Sequence[PermissionCheck]) -> list[Verdict]:
        """Return what iam-simulate decides about the checks, for a session of a role with the printed boundary."""
        session = f"arn:aws:sts::{ACCOUNT}:assumed-role/{GIVEN[role]}/session"
        bound = boundary_policy(NAME, {"partition": "aws", "region": REGION, "account": ACCOUNT})
        bound["Statement"].append({**OTHER_RESOURCES, "Resource": OUTSIDE})
        documents = {value_of(name): value_of(each) for name, each in policies(role).items()}
        return judge(session, documents, checks, bound)


def _arn(kind: str, name: str) -> str:
    service = kind.partition("::")[0].lower()
    if service == "s3":
        return f"arn:aws:s3:::{name}"
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{'table/' if service == 'dynamodb' else ''}{name}"


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
    "a worker reads nothing else of a source's bucket": Attempt(
        "WorkerRole", "s3", "get_object", {"Bucket": "photos", "Key": "incoming2/a.jpg"}
    ),
    "a worker writes to no source": Attempt(
        "WorkerRole", "s3", "put_object", {"Bucket": "photos", "Key": "incoming/a.jpg", "Body": b""}
    ),
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
