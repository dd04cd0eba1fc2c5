"""The sections of a template."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from localcloud.stacks.errors import StackError
from services.cloudformation import parse_template

Definitions = dict[str, dict[str, Any]]

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
"""A name in the text of ``Fn::Sub``."""


@dataclass(frozen=True)
class Template:
    """The sections of a template, its functions in their long form (``{"Fn::Sub": …}``).

    Attributes:
        text: the template as it was given.
    """

    text: str
    parameters: Definitions
    conditions: dict[str, Any]
    resources: Definitions
    outputs: Definitions


def read(text: str) -> Template:
    """Read a template in YAML or JSON.

    Raises:
        StackError: the text is neither, or has no resources, or one without a type.
    """
    try:
        document = parse_template(text)
    except yaml.YAMLError as error:
        raise StackError(f"Template format error: YAML not well-formed. {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict) or not document["Resources"]:
        raise StackError("Template format error: At least one Resources member must be defined.")
    resources: Definitions = document["Resources"]
    for name, definition in resources.items():
        if not isinstance(definition, dict) or not isinstance(definition.get("Type"), str):
            raise StackError(
                f"Template format error: [/Resources/{name}] Every Resources object must contain a Type."
            )
    return Template(
        text=text,
        parameters=document.get("Parameters") or {},
        conditions=document.get("Conditions") or {},
        resources=resources,
        outputs=document.get("Outputs") or {},
    )


def needs(definition: Mapping[str, Any], known: set[str]) -> frozenset[str]:
    """Return which of the known resources must exist before the one that is defined here."""
    named = definition.get("DependsOn", [])
    named = {named} if isinstance(named, str) else set(named)
    return frozenset((named | set(references(definition.get("Properties", {})))) & known)


def references(value: Any) -> Iterator[str]:
    """Return the resources and parameters that a value refers to, in both branches of its conditions."""
    if isinstance(value, list):
        for one in value:
            yield from references(one)
    elif isinstance(value, Mapping):
        if isinstance(named := value.get("Ref"), str):
            yield named
        elif isinstance(attribute := value.get("Fn::GetAtt"), list):
            yield str(attribute[0])
        else:
            if "Fn::Sub" in value:
                yield from _substituted(value["Fn::Sub"])
            for one in value.values():
                yield from references(one)


def _substituted(argument: Any) -> Iterator[str]:
    text, own = argument if isinstance(argument, list) else (argument, {})
    for name in PLACEHOLDER.findall(text):
        if not name.startswith("!") and name not in own:
            yield name.partition(".")[0]


def in_order(needed: Mapping[str, frozenset[str]]) -> list[str]:
    """Return all resources, each after those that it needs; otherwise in the order of the template.

    Raises:
        StackError: some need each other.
    """
    ordered: list[str] = []
    waiting = dict(needed)
    while waiting:
        ready = [name for name, before in waiting.items() if before <= set(ordered)]
        if not ready:
            raise StackError(f"Circular dependency between resources: [{', '.join(sorted(waiting))}]")
        ordered.extend(ready)
        for name in ready:
            del waiting[name]
    return ordered
