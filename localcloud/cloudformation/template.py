"""Templates: their sections, the references between their resources, and the values of their parameters.

Patterns, bounds and rules of parameters are not checked:
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from moto.core.exceptions import ServiceException

from services.cloudformation import parse_template


class StackError(ServiceException):  # type: ignore[misc]
    """Raised when CloudFormation rejects a request, or a resource cannot be created or deleted.

    Args:
        code: CloudFormation's error code, if it is not ValidationError.
        message: the reason, as the caller sees it.
    """

    code = "ValidationError"


Definitions = dict[str, dict[str, Any]]

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
"""A name in the text of ``Fn::Sub``."""


@dataclass(frozen=True)
class Template:
    """The sections of a template, its functions in their long form (``{"Fn::Sub": …}``).

    Attributes:
        text: the original text.
    """

    text: str
    parameters: Definitions
    conditions: dict[str, Any]
    resources: Definitions
    outputs: Definitions


def read_template(text: str) -> Template:
    """Return the template of a text in YAML or JSON.

    Raises:
        StackError: the text is neither, has no resources, or has a resource without a type.
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


def needed_resources(definition: Mapping[str, Any], known: set[str]) -> frozenset[str]:
    """Return the known resources that must exist before a resource with this definition."""
    named = definition.get("DependsOn", [])
    named = {named} if isinstance(named, str) else set(named)
    return frozenset((named | set(references(definition.get("Properties", {})))) & known)


def references(value: Any) -> Iterator[str]:
    """Yield the resources and parameters that a value refers to, in both branches of its conditions."""
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
    """Return all resources, each after those that it needs, otherwise in the order of the template.

    Raises:
        StackError: the references have a cycle.
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


_OF_SSM = "AWS::SSM::Parameter::Value<"

Lookup = Callable[[str], str]
"""Returns the value of a parameter of the parameter store.

Raises:
    StackError: the parameter does not exist.
"""


def complete_parameters(template: Template, given: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each parameter: the given one, or its default.

    Raises:
        StackError: a parameter is missing, unknown or not allowed.
    """
    if unknown := sorted(set(given) - set(template.parameters)):
        raise StackError(f"Parameters: {unknown} do not exist in the template")
    texts = {
        name: str(given[name] if name in given else definition["Default"])
        for name, definition in template.parameters.items()
        if name in given or "Default" in definition
    }
    if missing := sorted(set(template.parameters) - set(texts)):
        raise StackError(f"Parameters: {missing} must have values")
    for name, text in texts.items():
        allowed = [_allowed_text(one) for one in template.parameters[name].get("AllowedValues", [text])]
        if text not in allowed:
            raise StackError(f"Parameter '{name}' must be one of AllowedValues ({', '.join(allowed)})")
    return texts


def resolve_parameters(template: Template, texts: Mapping[str, str], lookup: Lookup) -> dict[str, Any]:
    """Return the value that ``Ref`` of each parameter has: a list for list types, the stored value for those of SSM.

    Raises:
        StackError: the parameter store does not have a named parameter.
    """
    return {name: _parameter_value(text, template.parameters[name]["Type"], lookup) for name, text in texts.items()}


def _parameter_value(text: str, kind: str, lookup: Lookup) -> Any:
    if kind.startswith(_OF_SSM):
        return lookup(text)
    if kind == "CommaDelimitedList" or kind.startswith("List<"):
        return [part.strip() for part in text.split(",")] if text else [""]
    return text


def _allowed_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
