"""The stack's template as plain data, and what its functions make of the parameters' defaults."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from core.config import Config, parse_config
from scripts.aws.deploy.settings import TEMPLATE_PATH
from services.cloudformation import parse_template
from tests.conftest import shipped_values

GIVEN: dict[str, Any] = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/fleetsight/0123",
    "VpcId": "vpc-1",
    "SubnetIds": ["subnet-1", "subnet-2"],
    "BundleAddress": "s3://models/resnet18",
    "SourceBuckets": ["arn:aws:s3:::photos"],
    "SourcePrefixes": ["incoming/*"],
    "SourceObjects": ["arn:aws:s3:::photos/incoming/*"],
    "DestinationObjects": ["arn:aws:s3:::photos/labels/*"],
    "TlsParameter": "/fleetsight/tls",
    "DiskKeyArn": "arn:aws:kms:eu-central-1:123456789012:key/0123",
    "DataKeyArn": "arn:aws:kms:eu-central-1:123456789012:key/4567",
    "Alerts": "arn:aws:sns:eu-central-1:123456789012:fleetsight-alerts",
    "Events": "arn:aws:sns:eu-central-1:123456789012:fleetsight-events",
    "UserPool": "eu-central-1_Example1",
    "UserPoolClient": "exampleclient",
}
"""What has no default; a bundle, a certificate and keys that a role has to be allowed to use; and ids that have the
form of such."""

SERVER_ROLES = ("WebRole", "ControllerRole", "WorkerRole")
"""The roles of the instances."""

NO_VALUE = object()
"""What ``AWS::NoValue`` comes to: it is left out."""


TEMPLATE: dict[str, Any] = parse_template(TEMPLATE_PATH.read_text())
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]


def of_type(kind: str) -> dict[str, Any]:
    """Return the properties of every resource of that type, such as ``SQS::Queue``, by its name in the template."""
    return {name: each["Properties"] for name, each in RESOURCES.items() if each["Type"] == f"AWS::{kind}"}


def value_of(value: Any) -> Any:
    """Return `value` with its functions applied; ``<Name>`` and ``<Name.Arn>`` stand for what only AWS knows."""
    if isinstance(value, dict) and len(value) == 1 and (name := next(iter(value))) in _FUNCTIONS:
        return _FUNCTIONS[name](value[name])
    if isinstance(value, dict):
        return {key: found for key, each in value.items() if (found := value_of(each)) is not NO_VALUE}
    if isinstance(value, list):
        return [found for each in value if (found := value_of(each)) is not NO_VALUE]
    return value


def _reference(name: str) -> Any:
    if name == "AWS::NoValue":
        return NO_VALUE
    if name in GIVEN:
        return GIVEN[name]
    if name in TEMPLATE["Parameters"]:
        return TEMPLATE["Parameters"][name]["Default"]
    properties = RESOURCES[name]["Properties"]
    return value_of(properties.get("BucketName") or properties.get("TableName") or f"<{name}>")


def _attribute(name: str, attribute: str) -> Any:
    if attribute == "QueueName":
        return value_of(RESOURCES[name]["Properties"]["QueueName"])
    return GIVEN.get(f"{name}.{attribute}", f"<{name}.{attribute}>")


def _substituted(value: Any) -> str:
    text, names = (value, {}) if isinstance(value, str) else (value[0], value_of(value[1]))

    def found(match: re.Match[str]) -> str:
        name, _, attribute = match[1].partition(".")
        return str(_attribute(name, attribute) if attribute else names[name] if name in names else _reference(name))

    return re.sub(r"\$\{([\w:.]+)\}", found, text)


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Ref": _reference,
    "Fn::GetAtt": lambda value: _attribute(*value),
    "Fn::Sub": _substituted,
    "Fn::Join": lambda value: value[0].join(value_of(value[1])),
    "Fn::Split": lambda value: value_of(value[1]).split(value[0]),
    "Fn::Select": lambda value: value_of(value[1])[value[0]],
    "Fn::If": lambda value: value_of(value[1] if value_of(TEMPLATE["Conditions"][value[0]]) else value[2]),
    "Fn::Not": lambda value: not value_of(value[0]),
    "Fn::And": lambda value: all(value_of(each) for each in value),
    "Fn::Or": lambda value: any(value_of(each) for each in value),
    "Condition": lambda name: value_of(TEMPLATE["Conditions"][name]),
    "Fn::Equals": lambda value: value_of(value[0]) == value_of(value[1]),
    "Fn::Base64": value_of,
}


def policies(role: str) -> dict[str, Any]:
    """Return the documents of the role of that name in the template, by the names of the policies."""
    own = list(RESOURCES[role]["Properties"].get("Policies", []))
    own += [each for each in of_type("IAM::Policy").values() if {"Ref": role} in each["Roles"]]
    return {each["PolicyName"]: each["PolicyDocument"] for each in own}


def statements(role: str) -> dict[str, Any]:
    """Return all that the role of that name in the template may do, by the names of the statements."""
    return {each["Sid"]: each for document in policies(role).values() for each in document["Statement"]}


def references(value: Any) -> Iterator[str]:
    """Yield the names that a part of the template refers to."""
    if isinstance(value, dict):
        if "Ref" in value:
            yield value["Ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def listed(value: Any) -> list[Any]:
    """Return `value` as a list, which a policy may leave out around one."""
    return value if isinstance(value, list) else [value]


def allowed(role: str) -> set[tuple[str, str]]:
    """Return each pair of action and resource that the role is allowed."""
    return {
        (action, str(resource))
        for statement in statements(role).values()
        if statement["Effect"] == "Allow"
        for action in listed(statement["Action"])
        for resource in listed(value_of(statement["Resource"]))
    }


def user_data(template: str) -> str:
    """Return the script that an instance of this launch template runs at boot."""
    return str(value_of(RESOURCES[template]["Properties"]["LaunchTemplateData"]["UserData"]))


def settings(script: str) -> dict[str, str]:
    """Return the configuration that a script of `user_data` sets, by the names of the variables."""
    pairs = re.findall(r"^(?:export )?(FLEETSIGHT__\w+)='?(.*?)'?$", script, re.MULTILINE)
    return dict(pairs)


def as_json(value: Any) -> Any:
    """Return what a text of JSON in the template holds."""
    return json.loads(value_of(value))


def of_this_stack() -> Config:
    """Return the configuration of the web instance: config.yaml under what its user data sets."""
    return parse_config(shipped_values(), settings(user_data("WebTemplate")))
