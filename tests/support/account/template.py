"""Templates: their sections, the references between their resources, their parameters, and their functions.

Patterns, bounds and rules of parameters are not checked:
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
"""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml
from moto.core.exceptions import ServiceException

from services.cloudformation import parse_template


class StackError(ServiceException):  # type: ignore[misc]
    """Raised when CloudFormation rejects a request, or a resource cannot be created or deleted."""

    code = "ValidationError"


Definitions = dict[str, dict[str, Any]]

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
"""A name in the text of ``Fn::Sub``."""


@dataclass(frozen=True)
class Template:
    """The text of a template and its sections, with functions in their long form (``{"Fn::Sub": …}``)."""

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
                text, own = _text_and_names(value["Fn::Sub"])
                names = (name for name in PLACEHOLDER.findall(text) if not name.startswith("!"))
                yield from (name.partition(".")[0] for name in names if name not in own)
            for one in value.values():
                yield from references(one)


def _text_and_names(argument: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the text of ``Fn::Sub`` and the values of its own names."""
    return (argument[0], argument[1]) if isinstance(argument, list) else (argument, {})


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def in_order(needed: Mapping[str, frozenset[str]]) -> list[str]:
    """Return all resources, each after those that it needs, otherwise in the order of the template."""
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
        allowed = [_text(one) for one in template.parameters[name].get("AllowedValues", [text])]
        if text not in allowed:
            raise StackError(f"Parameter '{name}' must be one of AllowedValues ({', '.join(allowed)})")
    return texts


def resolve_parameters(template: Template, texts: Mapping[str, str], lookup: Callable[[str], str]) -> dict[str, Any]:
    """Return the value that ``Ref`` of each parameter has: a list for list types, the stored value for those of SSM.

    `lookup` returns the value of a parameter of the parameter store, or raises `StackError` if it does not exist.
    """
    values: dict[str, Any] = {}
    for name, text in texts.items():
        kind = template.parameters[name]["Type"]
        if kind.startswith("AWS::SSM::Parameter::Value<"):
            values[name] = lookup(text)
        elif kind == "CommaDelimitedList" or kind.startswith("List<"):
            values[name] = [part.strip() for part in text.split(",")] if text else [""]
        else:
            values[name] = text
    return values


@dataclass
class Resource:
    """One resource of a stack.

    Attributes:
        definition: its part of the template.
        properties: evaluated.
        needs: logical ids of the resources that must exist before it.
        physical_id: the value of ``Ref``, or empty until the resource is created.
    """

    logical_id: str
    type: str
    definition: dict[str, Any]
    properties: dict[str, Any]
    needs: frozenset[str]
    physical_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    status: str = ""
    reason: str | None = None
    changed_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_retained(self) -> bool:
        """Whether the resource stays when its stack is deleted."""
        return self.definition.get("DeletionPolicy") in {"Retain", "RetainExceptOnCreate"}


NO_VALUE = object()
"""The value of ``AWS::NoValue``: a property with this value is left out."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluates values of a template.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html

    The values are those of parameters and CloudFormation's pseudo parameters, the resources are the existing ones.
    """

    template: Template
    values: Mapping[str, Any]
    resources: Mapping[str, Resource]
    _functions: dict[str, Callable[[Any], Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Define the functions."""
        functions = {
            "Ref": self._ref,
            "Condition": self.condition,
            "Fn::GetAtt": lambda argument: self._attribute(*argument),
            "Fn::If": lambda argument: self.value(argument[1] if self.condition(argument[0]) else argument[2]),
            "Fn::Equals": lambda pair: self._text(pair[0]) == self._text(pair[1]),
            "Fn::Not": lambda one: not self.value(one[0]),
            "Fn::And": lambda all_of: all(self.value(one) for one in all_of),
            "Fn::Or": lambda any_of: any(self.value(one) for one in any_of),
            "Fn::Join": lambda pair: str(pair[0]).join(self._text(one) for one in self.value(pair[1])),
            "Fn::Split": lambda pair: self._text(pair[1]).split(pair[0]),
            "Fn::Select": self._select,
            "Fn::Sub": self._sub,
            "Fn::Base64": lambda one: base64.b64encode(self._text(one).encode()).decode(),
        }
        object.__setattr__(self, "_functions", functions)

    def value(self, value: Any) -> Any:
        """Return a value with its functions applied.

        Raises:
            StackError: a name in it does not exist, or a function is unknown.
        """
        if isinstance(value, list):
            return [found for one in value if (found := self.value(one)) is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name,) = value
            if function := self._functions.get(name):
                return function(value[name])
            if name.startswith("Fn::"):
                raise StackError(f"Template error: {name} is not known to the local cloud's CloudFormation")
        return {name: found for name, one in value.items() if (found := self.value(one)) is not NO_VALUE}

    def condition(self, name: str) -> bool:
        """Return True if a condition is met; raise `StackError` if it does not exist."""
        if name not in self.template.conditions:
            raise StackError(f"Template error: unresolved condition {name}")
        return bool(self.value(self.template.conditions[name]))

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        return self.values[name] if name in self.values else self._resource(name).physical_id

    def _attribute(self, name: str, attribute: str) -> str:
        resource = self._resource(name)
        try:
            return resource.attributes[attribute]
        except KeyError:
            raise StackError(f"Template error: resource {name} does not support attribute type {attribute}") from None

    def _resource(self, name: str) -> Resource:
        if name not in self.resources:
            raise StackError(f"Template error: unresolved resource dependencies [{name}] in the template")
        return self.resources[name]

    def _text(self, value: Any) -> str:
        return _text(self.value(value))

    def _select(self, argument: list[Any]) -> Any:
        found, index = self.value(argument[1]), int(self._text(argument[0]))
        if not 0 <= index < len(found):
            raise StackError(f"Template error: Fn::Select cannot select nonexistent value at index {index}")
        return found[index]

    def _sub(self, argument: Any) -> str:
        text, own = _text_and_names(argument)

        def replaced(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in own:
                return self._text(own[name])
            resource, dot, attribute = name.partition(".")
            return _text(self._attribute(resource, attribute) if dot else self._ref(name))

        return PLACEHOLDER.sub(replaced, text)
