"""The stack's template, as CloudFormation takes it from us."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from scripts.aws.bake.store import provide_bucket
from scripts.aws.operation import Operation
from services.cloudformation import parse_template

PATH = Path(__file__).parents[3] / "infra" / "stack.yaml"
_NAME = re.compile(r'^( +(?:BucketName|TableName): )!Sub "([^"]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """A parameter of the template.

    Attributes:
        description: empty where there is none.
        default: None where one must be given.
        allowed: values that it may have; empty for any.
        pattern: regular expression that the whole value matches; empty for none.
        is_number: whether CloudFormation takes only numbers.
    """

    description: str = ""
    default: str | None = None
    allowed: tuple[str, ...] = ()
    pattern: str = ""
    is_number: bool = False

    def refusal(self, value: str) -> str:
        """Return why CloudFormation would refuse a value, or an empty text if it would not."""
        if self.is_number and not re.fullmatch("-?[0-9]+([.][0-9]+)?", value):
            return "it must be a number"
        if self.allowed and value not in self.allowed:
            return f"it must be one of {', '.join(self.allowed)}"
        if self.pattern and not re.fullmatch(self.pattern, value):
            return f"it must match {self.pattern}"
        return ""


@dataclass(frozen=True)
class Template:
    """A template.

    Attributes:
        body: the file.
        parameters: by name.
        resources: by their logical names, as they stand in the file; `!Sub "x"` is {"Fn::Sub": "x"}.
        rules: about parameters that need each other, by name, as they stand in the file.
    """

    body: str
    parameters: Mapping[str, Parameter]
    resources: Mapping[str, Mapping[str, Any]]
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def kept(self) -> frozenset[str]:
        """The logical names of the resources that stay when the stack is deleted."""
        return frozenset(name for name, each in self.resources.items() if each.get("DeletionPolicy") == "Retain")

    def broken_rules(self, values: Mapping[str, str]) -> list[str]:
        """Return what the template says against parameters with these values.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/rules-section-structure.html
        """
        return [
            each["AssertDescription"]
            for rule in self.rules.values()
            if _holds(rule["RuleCondition"], values)
            for each in rule["Assertions"]
            if not _holds(each["Assert"], values)
        ]


def _holds(rule: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    ((function, argument),) = rule.items()
    if function == "Fn::Equals":
        first, second = (values[each["Ref"]] if isinstance(each, dict) else each for each in argument)
        return bool(first == second)
    if function == "Fn::Not":
        return not _holds(argument[0], values)
    if function == "Fn::And":
        return all(_holds(each, values) for each in argument)
    raise AssertionError(f"{function} is not used in our rules")


@cache
def template(path: Path = PATH) -> Template:
    """Return the template in `path`."""
    body = path.read_text(encoding="utf-8")
    read = parse_template(body)
    parameters = {name: _parameter(each) for name, each in read["Parameters"].items()}
    return Template(body, parameters, read["Resources"], read["Rules"])


def _parameter(said: Mapping[str, Any]) -> Parameter:
    default = said.get("Default")
    return Parameter(
        said.get("Description", ""),
        None if default is None else str(default),
        tuple(str(each) for each in said.get("AllowedValues", [])),
        said.get("AllowedPattern", ""),
        said["Type"] == "Number",
    )


def with_static_names(body: str, values: Mapping[str, str]) -> str:
    """Return a template in which the names of buckets and tables are literals rather than functions of `values`.

    CloudFormation takes in a bucket or a table that is there already only by such a name: "Dynamic names (using !Ref
    or other functions) are not currently supported".
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/import-resources-automatically.html
    """

    def literal(found: re.Match[str]) -> str:
        return f'{found[1]}"{substituted(found[2], values)}"'

    return _NAME.sub(literal, body)


def substituted(text: str, values: Mapping[str, str]) -> str:
    """Return what `Fn::Sub` makes of a text in which only names of `values` stand in braces."""
    return re.sub(r"[$][{]([^}]+)[}]", lambda name: values[name[1]], text)


def pseudo_values(operation: Operation) -> dict[str, str]:
    """Return what names in the template are made of: the prefix, the account and the region."""
    account = operation.account
    return {"Prefix": operation.prefix, "AWS::AccountId": account.id, "AWS::Region": account.region_name}


def upload(operation: Operation, wanted: Template) -> str:
    """Put the template where CloudFormation can read it, and return the address.

    It is larger than the 51,200 bytes that a call may carry. So it goes into the bake's bucket, which forgets it
    after a day.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    """
    provide_bucket(operation.site)
    bucket, region = operation.site.bucket, operation.account.region_name
    body = with_static_names(wanted.body, pseudo_values(operation)).encode()
    key = f"stack/{hashlib.sha256(body).hexdigest()}.yaml"
    operation.account.s3.put_object(Bucket=bucket, Key=key, Body=body)
    operation.done(f"uploaded the template to the bucket {bucket}")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{bucket}.s3.{region}.{suffix}/{key}"
