"""Values of a template: its parameters, conditions and functions.

Patterns, bounds and rules of parameters are not checked:
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
"""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moto.core.exceptions import ServiceException


class StackError(ServiceException):  # type: ignore[misc]
    """Raised when CloudFormation rejects a request, or a resource cannot be created or deleted."""

    code = "ValidationError"


@dataclass
class Resource:
    """A resource of a stack.

    Attributes:
        properties: evaluated.
        physical_id: the value of ``Ref``.
        attributes: the values of ``Fn::GetAtt``.
    """

    logical_id: str
    type: str
    properties: dict[str, Any]
    physical_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


def complete_parameters(template: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each parameter: the given one, or its default.

    Raises:
        StackError: a parameter is missing, unknown or not allowed.
    """
    known = template.get("Parameters", {})
    texts = {name: str(one["Default"]) for name, one in known.items() if "Default" in one} | dict(given)
    if set(texts) != set(known):
        raise StackError(f"Parameters: {sorted(set(texts) ^ set(known))} are missing, or not in the template")
    for name, text in texts.items():
        if text not in map(_text, known[name].get("AllowedValues", [text])):
            raise StackError(f"Parameter '{name}' must be one of AllowedValues, not {text}")
    return texts


def resolve_parameters(
    template: Mapping[str, Any], texts: Mapping[str, str], stored: Callable[[str], str]
) -> dict[str, Any]:
    """Return the value that ``Ref`` of each parameter has: a list for list types, the `stored` one for SSM's."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        kind = template["Parameters"][name]["Type"]
        if kind.startswith("AWS::SSM::Parameter::Value<"):
            values[name] = stored(text)
        elif kind == "CommaDelimitedList" or kind.startswith("List<"):
            values[name] = [part.strip() for part in text.split(",")]
        else:
            values[name] = text
    return values


NO_VALUE = object()
"""The value of ``AWS::NoValue``: a property with this value is left out."""


@dataclass
class Evaluation:
    """Evaluates values of a template.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html

    Attributes:
        conditions: of the template.
        values: of parameters and CloudFormation's pseudo parameters.
        resource: returns a resource by its name in the template; `StackError` is raised if it does not exist.
    """

    conditions: Mapping[str, Any]
    values: Mapping[str, Any]
    resource: Callable[[str], Resource]
    _functions: dict[str, Callable[[Any], Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Define the functions."""
        self._functions = {
            "Ref": self._ref,
            "Condition": self.condition,
            "Fn::GetAtt": lambda pair: self.resource(pair[0]).attributes[pair[1]],
            "Fn::If": lambda three: self.value(three[1] if self.condition(three[0]) else three[2]),
            "Fn::Equals": lambda pair: self._text(pair[0]) == self._text(pair[1]),
            "Fn::Not": lambda one: not self.value(one[0]),
            "Fn::And": lambda all_of: all(self.value(one) for one in all_of),
            "Fn::Or": lambda any_of: any(self.value(one) for one in any_of),
            "Fn::Join": lambda pair: pair[0].join(map(_text, self.value(pair[1]))),
            "Fn::Split": lambda pair: self._text(pair[1]).split(pair[0]),
            "Fn::Select": lambda pair: self.value(pair[1])[int(pair[0])],
            "Fn::Sub": lambda text: self._substituted(*text) if isinstance(text, list) else self._substituted(text),
            "Fn::Base64": lambda one: base64.b64encode(self._text(one).encode()).decode(),
        }

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
            [(name, argument)] = value.items()
            if name in self._functions:
                return self._functions[name](argument)
            if name.startswith("Fn::"):
                raise StackError(f"Template error: {name} is not known to the local cloud's CloudFormation")
        return {name: found for name, one in value.items() if (found := self.value(one)) is not NO_VALUE}

    def condition(self, name: str) -> bool:
        """Return True if a condition is met."""
        return bool(self.value(self.conditions[name]))

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        return self.values[name] if name in self.values else self.resource(name).physical_id

    def _text(self, value: Any) -> str:
        return _text(self.value(value))

    def _substituted(self, text: str, own: Mapping[str, Any] | None = None) -> str:
        def replaced(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if own and name in own:
                return self._text(own[name])
            resource, dot, attribute = name.partition(".")
            return self.resource(resource).attributes[attribute] if dot else _text(self._ref(name))

        return re.sub(r"\$\{([^}]*)\}", replaced, text)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
