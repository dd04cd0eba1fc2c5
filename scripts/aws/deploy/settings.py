"""The stack's template, its parameters, and the keys of config.yaml that it overrides.

Instances read the config.yaml of their image. `--config fleet.max_workers=5` overrides a key for this stack: its
parameters `WebSettings` and `WorkerSettings` export the key in user data, as `FLEETSIGHT__FLEET__MAX_WORKERS`.
"""

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import PREFIX, Config, RetentionSettings, parse_config
from core.s3_locations import S3Location
from core.yaml_text import parse_yaml
from scripts.aws.buckets import ensure_bucket
from scripts.aws.context import AwsContext
from scripts.aws.deploy.stack import StackDescription
from services.cloudformation import parse_template
from services.errors import ConfigError, FleetsightError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef

TEMPLATE_PATH = Path(__file__).parents[3] / "infra" / "stack.yaml"
_NAME_PROPERTY = re.compile(r'^( +(?:BucketName|TableName): )!Sub "([^"]+)"$', re.MULTILINE)
OPTIONAL_PARTS = {"MonthlyBudget": ["HasBudget"], "StaticSite": ["HasSite", "HasSiteName"]}
"""The conditions of parts of the stack that some regions cannot have, by the parameter that turns the part off."""

OFF = {"", "0", "false"}
"""Values of a parameter that turn its part of the stack off."""
CONFIG_PATH = Path(__file__).parents[3] / "config.yaml"

MAX_BYTES = 4_096
"""The largest value of a parameter."""

MAX_RIGHTS_CHARACTERS = 2_540
"""The most that the rights to import sources and destinations may take of the controller's role.

The inline policies of a role are limited to 10,240 characters, and those of a stack with all its parts take the rest.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
"""

STACK_KEYS = {
    "fleet.launch_template": "the stack makes it",
    "fleet.subnet_ids": "give --subnets",
    "fleet.scale_in": "give --set ScaleIn=terminate or stop",
    "queues.max_message_bytes": "give --set MaxMessageBytes=1024 to 1048576",
    "worker.bundle": "give --set BundleAddress=…",
    "web.hosts": "give --set PageNames=NAME,NAME",
    "auth.mode": "give --set CreateUserPool=true or false, or --set Issuer=URL",
    "auth.open": "give --set CreateUserPool=true or false",
    "auth.issuer": "give --set Issuer=URL",
    "auth.client_id": "give --set ClientId=ID",
    "auth.scopes": "give --set Scopes=openid,email",
    "auth.groups_claim": "give --set GroupsClaim=NAME",
    "auth.operators_group": "give --set OperatorsGroupName=NAME",
    "metrics.cloudwatch_namespace": "it is the prefix, where its alarms find the metrics",
}
"""Keys that the stack sets itself, and what to do instead of overriding them."""

STACK_SECTIONS = {
    "aws": "leave it out",
    "names": "leave it out",
    "queues": "its queues are standard ones, with the times that infra/stack.yaml gives them",
}
"""Sections of which the stack sets every key, and what to do instead of overriding them."""

STACK_VALUES = {
    "controller.interval_seconds": "1",
    "fleet.policy": "deadline",
    "fleet.target_seconds": "30",
    "limits.store": "table",
    "worker.idle_seconds": "30",
}
"""Keys that user data overrides in every stack; --config may override them again."""

WORKER_KEYS = ("worker.", "sandbox.", "web.max_image_", "logs.", "tracing.")
"""Prefixes of the keys that workers read; the web instance reads all keys. Other keys change without a rollout."""

UNKEPT_PARAMETER = "UnkeptDays"
"""Age at which the input bucket deletes images that no user asked to keep.

The controller deletes jobs after `retention.unkept_days`. The bucket's rule must apply later: a retry of a job needs
its images.
"""

UNKEPT_KEY = "retention.unkept_days"

SPARE_DAYS = 23
"""Added to the days of the configuration: with the default of 7, the sum is the template's default."""


@dataclass(frozen=True)
class TemplateParameter:
    """A parameter of the template.

    Attributes:
        description: may be empty.
        default: None if a value is required.
        allowed: the allowed values; empty if all are.
        pattern: regular expression that the whole value must match, or empty.
        is_number: whether CloudFormation accepts only numbers.
    """

    description: str = ""
    default: str | None = None
    allowed: tuple[str, ...] = ()
    pattern: str = ""
    is_number: bool = False

    def refusal(self, value: str) -> str:
        """Return why CloudFormation would reject a value, or an empty text if it would not."""
        if self.is_number and not re.fullmatch("-?[0-9]+([.][0-9]+)?", value):
            return "it must be a number"
        if self.allowed and value not in self.allowed:
            return f"it must be one of {', '.join(self.allowed)}"
        if self.pattern and not re.fullmatch(self.pattern, value):
            return f"it must match {self.pattern}"
        return ""


@dataclass(frozen=True)
class StackTemplate:
    """The template of the stack.

    Attributes:
        resources: by logical name, as the file defines them; `!Sub "x"` is {"Fn::Sub": "x"}.
        rules: about parameters that need each other, by name, as the file defines them.
    """

    body: str
    parameters: Mapping[str, TemplateParameter]
    resources: Mapping[str, Mapping[str, Any]]
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def retained(self) -> frozenset[str]:
        """The logical names of the resources that the deletion of the stack retains."""
        return frozenset(name for name, each in self.resources.items() if each.get("DeletionPolicy") == "Retain")

    def broken_rules(self, values: Mapping[str, str]) -> list[str]:
        """Return the descriptions of the template's rules that these values break.

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
def load_template() -> StackTemplate:
    """Return the template of the stack."""
    body = TEMPLATE_PATH.read_text(encoding="utf-8")
    read = parse_template(body)
    parameters = {name: _parameter(each) for name, each in read["Parameters"].items()}
    return StackTemplate(body, parameters, read["Resources"], read["Rules"])


def _parameter(definition: Mapping[str, Any]) -> TemplateParameter:
    default = definition.get("Default")
    return TemplateParameter(
        definition.get("Description", ""),
        None if default is None else str(default),
        tuple(str(each) for each in definition.get("AllowedValues", [])),
        definition.get("AllowedPattern", ""),
        definition["Type"] == "Number",
    )


def with_static_names(body: str, values: Mapping[str, str]) -> str:
    """Return a template in which the names of buckets and tables are literals rather than functions of `values`.

    CloudFormation imports an existing bucket or table only by such a name: "Dynamic names (using !Ref
    or other functions) are not currently supported".
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/import-resources-automatically.html
    """
    return _NAME_PROPERTY.sub(lambda found: f'{found[1]}"{substitute(found[2], values)}"', body)


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Return the result of `Fn::Sub` for a text with only names of `values` in braces."""
    return re.sub(r"[$][{]([^}]+)[}]", lambda name: values[name[1]], text)


def pseudo_values(context: AwsContext) -> dict[str, str]:
    """Return the values in the names of resources: the prefix, the account and the region."""
    account = context.account
    return {"Prefix": context.prefix, "AWS::AccountId": account.id, "AWS::Region": account.region_name}


def template_for(parameters: Mapping[str, str]) -> str:
    """Return the template without the budget, and without the site, if the parameters turn them off.

    CloudFormation refuses a template that names a type which the region does not have, such as a budget in
    eu-central-2, or CloudFront's types in AWS GovCloud, even if a condition leaves it out:
    https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/2177
    """
    off = [each for name, parts in OPTIONAL_PARTS.items() if parameters[name] in OFF for each in parts]
    if not off:
        return load_template().body
    is_off = re.compile(rf"^(?:    |  \w+: \{{)Condition: (?:{'|'.join(off)})\b", re.MULTILINE)
    entries = re.split(r"^(?=  \w|\w)", load_template().body, flags=re.MULTILINE)
    left = "".join(each for each in entries if not is_off.search(each))
    # A condition leaves these lines out, too, and yet CloudFormation wants the resource to exist.
    return re.sub(r"^.*!GetAtt Site[.].*\n", "", left, flags=re.MULTILINE) if "HasSite" in off else left


def upload_template(context: AwsContext, body: str) -> str:
    """Upload a template to the bake's bucket, which deletes it after a day, and return its URL.

    The template is larger than the 51,200 bytes that a call may contain.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    """
    ensure_bucket(context)
    bucket, region = context.bake_bucket, context.account.region_name
    static = with_static_names(body, pseudo_values(context)).encode()
    key = f"stack/{hashlib.sha256(static).hexdigest()}.yaml"
    context.account.s3.put_object(Bucket=bucket, Key=key, Body=static)
    context.report_change(f"uploaded the template to the bucket {bucket}")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{bucket}.s3.{region}.{suffix}/{key}"


class SettingError(FleetsightError):
    """Raised when a parameter or a key of the configuration is unknown or has an invalid value."""


@dataclass(frozen=True)
class StackSettings:
    """The settings that the user has given; all others stay as they are.

    Attributes:
        config: overridden keys of config.yaml such as fleet.max_workers, with values in YAML; an empty value removes
            the override.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)


def check_parameters(settings: StackSettings, stack: StackDescription | None) -> None:
    """Check the given parameters as CloudFormation will, before anything is created.

    Raises:
        SettingError: a parameter is unknown or has an invalid value, or a rule of the template is broken.
    """
    template = load_template()
    if unknown := sorted(set(settings.parameters) - set(template.parameters)):
        known = ", ".join(sorted(template.parameters))
        raise SettingError(f"the stack has no parameter {', '.join(unknown)}; it has {known}")
    for name, value in settings.parameters.items():
        if refusal := template.parameters[name].refusal(value):
            raise SettingError(f"{name}={value}: {refusal} ({template.parameters[name].description})")
    if broken := template.broken_rules(parameter_values(settings, stack)):
        raise SettingError(" ".join(broken))


def change_set_parameters(
    template: StackTemplate, wanted: Mapping[str, str], stack: StackDescription | None
) -> "list[ParameterTypeDef]":
    """Return the parameters of a change set: the wanted value, else the stack's, else the template's default.

    Raises:
        SettingError: a required parameter has no value.
    """
    found: list[ParameterTypeDef] = []
    for name, each in template.parameters.items():
        if name in wanted:
            found.append({"ParameterKey": name, "ParameterValue": wanted[name]})
        elif stack is not None and stack.is_deleted and name in stack.parameters:
            found.append({"ParameterKey": name, "ParameterValue": stack.parameters[name]})
        elif stack is not None and name in stack.parameters:
            found.append({"ParameterKey": name, "UsePreviousValue": True})
        elif each.default is None:
            raise SettingError(f"the stack needs its parameter {name} ({each.description}): give --set {name}=…")
    return found


def parameter_values(settings: StackSettings, stack: StackDescription | None) -> dict[str, str]:
    """Return all parameters with a value: the given one, else the stack's, else the template's default."""
    defaults = {name: each.default for name, each in load_template().parameters.items() if each.default is not None}
    return {**defaults, **({} if stack is None else stack.parameters), **settings.parameters}


def stack_config(stack: StackDescription | None) -> dict[str, str]:
    """Return the stack's overrides of config.yaml: values in YAML by keys such as fleet.max_workers."""
    line = "" if stack is None else stack.parameters.get("WebSettings", "")
    pairs = [word.split("=", 1) for word in shlex.split(line)[1:]]
    return {name.removeprefix(PREFIX).lower().replace("__", ".", 1): value for name, value in pairs}


def merge_config(config: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return the overrides `config` with `changes`; an empty value removes a key."""
    return {key: value for key, value in sorted({**config, **changes}.items()) if value}


def validated_config(settings: Mapping[str, str]) -> Config:
    """Return the configuration of the web instance: config.yaml with the overrides in `settings`.

    Raises:
        SettingError: a key is unknown, is set by the stack itself, or has an invalid value.
    """
    for key, value in settings.items():
        _check_key(key, value)
    environment = {_variable(key): value for key, value in {**STACK_VALUES, **settings}.items()}
    try:
        return parse_config(_config_values(CONFIG_PATH), environment, source="config.yaml with what --config says")
    except ConfigError as error:
        raise SettingError(str(error)) from error


@cache
def _config_values(path: Path) -> Any:
    return parse_yaml(path.read_text(encoding="utf-8"))


def config_parameters(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the two parameters of the stack that carry the overrides.

    Raises:
        SettingError: the overrides are longer than a parameter may be.
    """
    of_workers = {key: value for key, value in settings.items() if key.startswith(WORKER_KEYS)}
    lines = {"WebSettings": _export_line(settings), "WorkerSettings": _export_line(of_workers)}
    if len(lines["WebSettings"].encode()) > MAX_BYTES:
        raise SettingError(
            f"what --config says comes to more than the {MAX_BYTES:,} bytes of a parameter: write it into "
            "config.yaml, and bake it into the images with `fleetsight bake`"
        )
    return lines


def _check_key(key: str, value: str) -> None:
    if not re.fullmatch(r"[a-z]+\.[a-z0-9_]+", key):
        raise SettingError(f"--config {key}={value}: write SECTION.KEY=VALUE, such as fleet.max_workers=5")
    remedy = STACK_KEYS.get(key) or STACK_SECTIONS.get(key.split(".", maxsplit=1)[0])
    if remedy is not None:
        raise SettingError(f"--config {key}: the stack says that itself; {remedy}")
    if "'" in value or "\n" in value:
        raise SettingError(
            f"--config {key}={value}: quotes (') and line breaks cannot be in it; use JSON's \" instead"
        )


def _export_line(settings: Mapping[str, str]) -> str:
    words = "".join(f" {_variable(key)}='{value}'" for key, value in settings.items())
    return f"export{words}" if words else ""


def _variable(key: str) -> str:
    section, _, name = key.partition(".")
    return f"{PREFIX}{section.upper()}__{name.upper()}"


def source_parameters(config: Config, partition: str) -> dict[str, str]:
    """Return the parameters with the controller's rights to sources and destinations; a prefix ends with a slash.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/example-policies-s3.html

    Raises:
        SettingError: the inline policies of the controller's role would be larger than IAM allows.
    """
    locations = [S3Location.parse(grant.location) for grant in config.imports.sources]
    arns = {each: f"arn:{partition}:s3:::{each.bucket}" for each in locations}
    destinations = [S3Location.parse(grant.location) for grant in config.imports.destinations]
    rights = {
        "SourceBuckets": list(dict.fromkeys(arns.values())),
        "SourcePrefixes": list(dict.fromkeys(f"{each.prefix}*" for each in locations)),
        "SourceObjects": [f"{arn}/{each.prefix}*" for each, arn in arns.items()],
        "DestinationObjects": [f"arn:{partition}:s3:::{each.bucket}/{each.prefix}*" for each in destinations],
    }
    size = sum(len(one) + len('"",') for each in rights.values() for one in each)
    room = MAX_RIGHTS_CHARACTERS - 43 * (len(partition) - len("aws"))  # some 43 other ARNs name the partition
    if size > room:
        raise SettingError(
            f"imports.sources and imports.destinations take {size:,} characters of the controller's policies, which "
            f"leave {room:,}: name fewer locations, such as one folder or bucket that holds several"
        )
    return {name: ",".join(each) for name, each in rights.items()}


def unkept_days(retention: RetentionSettings, settings: StackSettings, stack: StackDescription | None) -> str:
    """Return `UnkeptDays`: the given value, else the stack's value if the configuration still allows it.

    Otherwise the configuration determines it, as for a new stack, or if `retention.unkept_days` is given.

    Raises:
        SettingError: the given value would delete images before the controller deletes their jobs, or is no number.
    """
    if UNKEPT_PARAMETER in settings.parameters:
        return _check_unkept_days(settings.parameters[UNKEPT_PARAMETER], retention)
    days = None if stack is None else stack.parameters.get(UNKEPT_PARAMETER)
    if (
        UNKEPT_KEY not in settings.config
        and days is not None
        and days.isdigit()
        and _is_late_enough(int(days), retention)
    ):
        return days
    return str(ceil(retention.unkept_days + SPARE_DAYS) if retention.unkept_days else 0)


def _check_unkept_days(days: str, retention: RetentionSettings) -> str:
    if not (days.isascii() and days.isdigit()):
        raise SettingError(f"--set {UNKEPT_PARAMETER}={days}: give whole days, or 0 for never")
    if not _is_late_enough(int(days), retention):
        until = f"after {retention.unkept_days:g} days" if retention.unkept_days else "never"
        more = f"more than {retention.unkept_days:g}, or 0" if retention.unkept_days else "0"
        raise SettingError(
            f"--set {UNKEPT_PARAMETER}={days}: jobs that are not kept expire {until} ({UNKEPT_KEY}), and the bucket "
            f"must not delete their images sooner: give {more}"
        )
    return days


def _is_late_enough(days: int, retention: RetentionSettings) -> bool:
    return days == 0 or 0 < retention.unkept_days < days
