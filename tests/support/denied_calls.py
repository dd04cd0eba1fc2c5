"""What each role of the stack must be denied: calls as data, in which ``{…}`` stands for what only a test knows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NAMED = {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "{worker_name}"}]}
_FROM_TEMPLATE = {
    "MinCount": 1,
    "MaxCount": 1,
    "LaunchTemplate": {"LaunchTemplateName": "{template}"},
    "TagSpecifications": [_NAMED],
}
_IMAGE, _RESULT = {"Bucket": "{inputs}", "Key": "a/b.jpg"}, {"Bucket": "{outputs}", "Key": "a/b.json"}
_FLEETS_OWN, _WEB = {"InstanceIds": ["{worker}"]}, {"InstanceIds": ["{web}"]}


@dataclass(frozen=True)
class Attempt:
    """A call that a role makes in vain."""

    role: str
    service: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    region: str = "us-east-1"

    def filled(self, known: Mapping[str, str]) -> dict[str, Any]:
        """Return the parameters with what is known of the test."""
        filled: dict[str, Any] = _filled(self.parameters, known)
        return filled


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
    "a worker deletes no image": Attempt("WorkerRole", "s3", "delete_object", _IMAGE),
    "a worker puts no image": Attempt("WorkerRole", "s3", "put_object", {**_IMAGE, "Body": b""}),
    "a worker changes no tag of an image": Attempt(
        "WorkerRole", "s3", "put_object_tagging", {**_IMAGE, "Tagging": {"TagSet": []}}
    ),
    "a worker deletes no result": Attempt("WorkerRole", "s3", "delete_object", _RESULT),
    "a worker lists no jobs": Attempt("WorkerRole", "dynamodb", "scan", {"TableName": "{table}"}),
    "a worker takes no answers": Attempt("WorkerRole", "sqs", "receive_message", {"QueueUrl": "{responses}"}),
    "a worker sees no instances": Attempt("WorkerRole", "ec2", "describe_instances"),
    "a worker ends no instance": Attempt("WorkerRole", "ec2", "terminate_instances", _FLEETS_OWN),
    "a worker launches nothing": Attempt("WorkerRole", "ec2", "run_instances", _FROM_TEMPLATE),
    "a worker reads no parameters": Attempt("WorkerRole", "ssm", "get_parameter", {"Name": "/fleetsight/tls"}),
    "a worker does not become the controller": Attempt(
        "WorkerRole", "sts", "assume_role", {"RoleArn": "{controller}", "RoleSessionName": "me"}
    ),
    "web launches nothing": Attempt("WebRole", "ec2", "run_instances", _FROM_TEMPLATE),
    "web ends no instance": Attempt("WebRole", "ec2", "terminate_instances", _FLEETS_OWN),
    "web takes no requests": Attempt("WebRole", "sqs", "receive_message", {"QueueUrl": "{requests}"}),
    "web writes no results": Attempt("WebRole", "s3", "put_object", {**_RESULT, "Body": b""}),
    "web makes no buckets": Attempt("WebRole", "s3", "create_bucket", {"Bucket": "another"}),
    "web deletes no table": Attempt("WebRole", "dynamodb", "delete_table", {"TableName": "{table}"}),
    "web gives itself no rights": Attempt(
        "WebRole", "iam", "put_role_policy", {"RoleName": "{web_role}", "PolicyName": "more", "PolicyDocument": "x"}
    ),
    "web makes no operators": Attempt(
        "WebRole",
        "cognito-idp",
        "admin_add_user_to_group",
        {"UserPoolId": "{pool}", "Username": "me", "GroupName": "operators"},
    ),
    "web sets no passwords": Attempt(
        "WebRole",
        "cognito-idp",
        "admin_set_user_password",
        {"UserPoolId": "{pool}", "Username": "me", "Password": "mine"},
    ),
    "web knows no accounts of other pools": Attempt(
        "WebRole", "cognito-idp", "admin_get_user", {"UserPoolId": "us-east-1_Another1", "Username": "me"}
    ),
    "a worker knows no accounts": Attempt(
        "WorkerRole", "cognito-idp", "admin_get_user", {"UserPoolId": "{pool}", "Username": "me"}
    ),
    "a worker reads no keys of sessions": Attempt(
        "WorkerRole", "ssm", "get_parameter", {"Name": "/fleetsight/session-keys"}
    ),
    "the controller reads no keys of sessions": Attempt(
        "ControllerRole", "ssm", "get_parameter", {"Name": "/fleetsight/session-keys"}
    ),
    "web reads no other parameter": Attempt("WebRole", "ssm", "get_parameter", {"Name": "/fleetsight/config"}),
    "the controller puts no image": Attempt("ControllerRole", "s3", "put_object", {**_IMAGE, "Body": b""}),
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
    "the controller stops nothing": Attempt("ControllerRole", "ec2", "stop_instances", _FLEETS_OWN),
    "the controller renames nothing": _tagging("create_tags", "{worker}", Tags=[{"Key": "Name", "Value": "mine"}]),
    "the controller takes not every tag": _tagging("delete_tags", "{worker}"),
    "the controller drains only the fleet": _tagging(
        "create_tags", "{web}", Tags=[{"Key": "fleetsight-drain", "Value": "asked"}]
    ),
    "the controller sees no other region": Attempt(
        "ControllerRole", "ec2", "describe_instances", region="eu-central-1"
    ),
}
"""By what they show."""
