"""What people say for a stack: its parameters, and what config.yaml says otherwise there.

Instances read the config.yaml of their image. `--config fleet.max_workers=5` says a key otherwise for this stack: its
parameters `WebSettings` and `WorkerSettings` export it in user data, as `FLEETSIGHT__FLEET__MAX_WORKERS`.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from core.config import PREFIX, Config, parse_config
from scripts.aws.deploy.stacks import Stack
from scripts.aws.deploy.template import Template
from services.errors import ConfigError, FleetsightError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef

CONFIG = Path(__file__).parents[3] / "config.yaml"

MAX_BYTES = 4_096
"""Of a parameter's value."""

OF_THE_STACK = {
    "fleet.launch_template": "the stack makes it",
    "fleet.subnet_ids": "give --subnets",
    "fleet.scale_in": "give --set ScaleIn=terminate or stop",
    "worker.bundle": "give --set BundleAddress=…",
    "web.hosts": "give --set PageNames=NAME,NAME",
    "auth.mode": "give --set CreateUserPool=true or false",
    "auth.open": "give --set CreateUserPool=true or false",
    "auth.user_pool_id": "the stack makes it",
    "auth.client_id": "the stack makes it",
    "auth.sign_up": "give --set OpenSignUp=true or false",
}
"""Keys that the stack sets itself, and what to say of them."""

SECTIONS_OF_THE_STACK = {
    "aws": "leave it out",
    "names": "leave it out",
    "queues": "its queues are standard ones, with the times that infra/stack.yaml gives them",
}
"""Sections of which the stack sets every key, and what to say of them."""

BY_THE_STACK = {"controller.interval_seconds": "1", "limits.store": "table", "worker.idle_seconds": "30"}
"""What user data says otherwise of itself; --config may say it otherwise again."""

OF_WORKERS = ("worker.", "web.max_image_")
"""Begin the keys that workers read; the web instance reads all. Any other key may change without a roll."""


class SettingError(FleetsightError):
    """Raised when a parameter or a key of the configuration is unknown or has a value that it cannot have."""


@dataclass(frozen=True)
class StackSettings:
    """What a person has asked for; what they have not stays as it is.

    Attributes:
        parameters: of the stack, by name.
        config: keys of config.yaml such as fleet.max_workers, and values as YAML; an empty one takes the key back.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)


def refuse_wrong_parameters(template: Template, wishes: StackSettings, stack: Stack | None) -> None:
    """Check the parameters that a person wishes as CloudFormation will, before anything is made.

    Raises:
        SettingError: one is unknown or has a value that it cannot have, or a rule of the template is broken.
    """
    if unknown := sorted(set(wishes.parameters) - set(template.parameters)):
        known = ", ".join(sorted(template.parameters))
        raise SettingError(f"the stack has no parameter {', '.join(unknown)}; it has {known}")
    for name, value in wishes.parameters.items():
        if refusal := template.parameters[name].refusal(value):
            raise SettingError(f"{name}={value}: {refusal} ({template.parameters[name].description})")
    if broken := template.broken_rules(parameter_values(template, wishes, stack)):
        raise SettingError(" ".join(broken))


def parameters(template: Template, wished: Mapping[str, str], stack: Stack | None) -> "list[ParameterTypeDef]":
    """Return the parameters for a change set: what is wished, else what the stack has, else the template's default.

    Raises:
        SettingError: one must be given and is not.
    """
    found: list[ParameterTypeDef] = []
    for name, each in template.parameters.items():
        if name in wished:
            found.append({"ParameterKey": name, "ParameterValue": wished[name]})
        elif stack is not None and name in stack.parameters:
            found.append({"ParameterKey": name, "UsePreviousValue": True})
        elif each.default is None:
            raise SettingError(f"the stack needs its parameter {name} ({each.description}): give --set {name}=…")
    return found


def parameter_values(template: Template, wishes: StackSettings, stack: Stack | None) -> dict[str, str]:
    """Return all parameters that have a value: as they are wished, else as the stack has them, else the defaults."""
    defaults = {name: each.default for name, each in template.parameters.items() if each.default is not None}
    return {**defaults, **({} if stack is None else stack.parameters), **wishes.parameters}


def settings_of(stack: Stack | None) -> dict[str, str]:
    """Return what config.yaml says otherwise on the stack: values as YAML, by keys such as fleet.max_workers."""
    line = "" if stack is None else stack.parameters.get("WebSettings", "")
    pairs = [word.split("=", 1) for word in shlex.split(line)[1:]]
    return {name.removeprefix(PREFIX).lower().replace("__", ".", 1): value for name, value in pairs}


def changed(settings: Mapping[str, str], wishes: Mapping[str, str]) -> dict[str, str]:
    """Return `settings` with `wishes` in them, without those taken back."""
    return {key: value for key, value in sorted({**settings, **wishes}.items()) if value}


def checked(settings: Mapping[str, str], path: Path = CONFIG) -> Config:
    """Return the configuration of the web instance, which config.yaml and `settings` make.

    Raises:
        SettingError: a key is unknown, is the stack's own, or has a value that it cannot have.
    """
    for key, value in settings.items():
        _refuse(key, value)
    environment = {_variable(key): value for key, value in {**BY_THE_STACK, **settings}.items()}
    values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return parse_config(values, environment, source="config.yaml with what --config says")
    except ConfigError as error:
        raise SettingError(str(error)) from error


def setting_parameters(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the two parameters of the stack that carry the settings.

    Raises:
        SettingError: they are longer than a parameter may be.
    """
    of_workers = {key: value for key, value in settings.items() if key.startswith(OF_WORKERS)}
    lines = {"WebSettings": _line(settings), "WorkerSettings": _line(of_workers)}
    if len(lines["WebSettings"].encode()) > MAX_BYTES:
        raise SettingError(
            f"what --config says comes to more than the {MAX_BYTES:,} bytes of a parameter: write it into "
            "config.yaml, and bake it into the images with `fleetsight bake`"
        )
    return lines


def _refuse(key: str, value: str) -> None:
    if not re.fullmatch(r"[a-z]+\.[a-z0-9_]+", key):
        raise SettingError(f"--config {key}={value}: write SECTION.KEY=VALUE, such as fleet.max_workers=5")
    remedy = OF_THE_STACK.get(key) or SECTIONS_OF_THE_STACK.get(key.split(".", maxsplit=1)[0])
    if remedy is not None:
        raise SettingError(f"--config {key}: the stack says that itself; {remedy}")
    if "'" in value or "\n" in value:
        raise SettingError(
            f"--config {key}={value}: quotes (') and line breaks cannot be in it; use JSON's \" instead"
        )


def _line(settings: Mapping[str, str]) -> str:
    words = "".join(f" {_variable(key)}='{value}'" for key, value in settings.items())
    return f"export{words}" if words else ""


def _variable(key: str) -> str:
    section, _, name = key.partition(".")
    return f"{PREFIX}{section.upper()}__{name.upper()}"
