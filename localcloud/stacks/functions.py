"""The intrinsic functions of a template."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from localcloud.stacks.errors import StackError
from localcloud.stacks.model import Resource
from localcloud.stacks.template import PLACEHOLDER, Template

NO_VALUE = object()
"""The value of ``AWS::NoValue``: the property that has it is left out."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluates values of a template.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html

    Args:
        template: its conditions.
        values: of its parameters and of CloudFormation's pseudo parameters.
        resources: those that exist.
    """

    template: Template
    values: Mapping[str, Any]
    resources: Mapping[str, Resource]
    _functions: dict[str, Callable[[Any], Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """List the functions."""
        functions = {
            "Ref": lambda name: NO_VALUE if name == "AWS::NoValue" else self._ref(name),
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
        """Return whether a condition holds.

        Raises:
            StackError: there is no such condition.
        """
        if name not in self.template.conditions:
            raise StackError(f"Template error: unresolved condition {name}")
        return bool(self.value(self.template.conditions[name]))

    def _ref(self, name: str) -> Any:
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
        found = self.value(value)
        return str(found).lower() if isinstance(found, bool) else str(found)

    def _select(self, argument: list[Any]) -> Any:
        found, index = self.value(argument[1]), int(self._text(argument[0]))
        if not 0 <= index < len(found):
            raise StackError(f"Template error: Fn::Select cannot select nonexistent value at index {index}")
        return found[index]

    def _sub(self, argument: Any) -> str:
        text, own = argument if isinstance(argument, list) else (argument, {})

        def replaced(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in own:
                return self._text(own[name])
            resource, dot, attribute = name.partition(".")
            return self._text({"Fn::GetAtt": [resource, attribute]} if dot else {"Ref": name})

        return PLACEHOLDER.sub(replaced, text)
