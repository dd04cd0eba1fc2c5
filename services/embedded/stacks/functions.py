"""The functions of a template: what they refer to, and what they come to."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.embedded.stacks.errors import StackError

NO_VALUE = object()
"""What ``AWS::NoValue`` comes to: the property that has it is left out."""

_PLACE = re.compile(r"\$\{([^}]*)\}")


class Scope(Protocol):
    """What names in a template stand for."""

    def ref(self, name: str) -> Any:
        """Return what ``Ref`` of a parameter or a resource is."""

    def attribute(self, name: str, attribute: str) -> Any:
        """Return an attribute of a resource."""

    def condition(self, name: str) -> bool:
        """Return whether a condition holds."""

    def mapping(self, name: str, first: str, second: str) -> Any:
        """Return a value of a mapping."""


@dataclass(frozen=True)
class Reference:
    """That a value needs a resource, a parameter, or an attribute of a resource."""

    name: str
    attribute: str | None = None


def references(value: Any) -> Iterator[Reference]:
    """Return everything that a value refers to, in both branches of its conditions."""
    if isinstance(value, list):
        for one in value:
            yield from references(one)
    elif isinstance(value, Mapping):
        if isinstance(named := value.get("Ref"), str):
            yield Reference(named)
        elif "Fn::GetAtt" in value:
            name, attribute = _attribute_of(value["Fn::GetAtt"])
            yield Reference(name, attribute)
        else:
            if "Fn::Sub" in value:
                yield from _places(value["Fn::Sub"])
            for one in value.values():
                yield from references(one)


def _places(argument: Any) -> Iterator[Reference]:
    text, own = argument if isinstance(argument, list) else (argument, {})
    for name in _PLACE.findall(text):
        if not name.startswith("!") and name not in own:
            resource, dot, attribute = name.partition(".")
            yield Reference(resource, attribute if dot else None)


def _attribute_of(argument: Any) -> tuple[str, str]:
    name, attribute = argument.split(".", 1) if isinstance(argument, str) else argument
    return str(name), str(attribute)


@dataclass(frozen=True)
class Evaluation:
    """Evaluates values of a template in a scope.

    Args:
        scope: what names stand for.
        region: for ``Fn::GetAZs``.
    """

    scope: Scope
    region: str
    _functions: dict[str, Callable[[Any], Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """List the functions there are."""
        functions = {
            "Ref": lambda name: NO_VALUE if name == "AWS::NoValue" else self.scope.ref(name),
            "Condition": self.scope.condition,
            "Fn::GetAtt": lambda argument: self.scope.attribute(*_attribute_of(argument)),
            "Fn::If": self._if,
            "Fn::Equals": lambda pair: self._text(pair[0]) == self._text(pair[1]),
            "Fn::Not": lambda one: not self.value(one[0]),
            "Fn::And": lambda all_of: all(self.value(one) for one in all_of),
            "Fn::Or": lambda any_of: any(self.value(one) for one in any_of),
            "Fn::Join": lambda pair: str(pair[0]).join(self._text(one) for one in self.value(pair[1])),
            "Fn::Split": lambda pair: self._text(pair[1]).split(pair[0]),
            "Fn::Select": self._select,
            "Fn::Sub": self._sub,
            "Fn::Base64": lambda one: base64.b64encode(self._text(one).encode()).decode(),
            "Fn::FindInMap": lambda keys: self.scope.mapping(*(self._text(one) for one in keys)),
            "Fn::GetAZs": lambda one: [f"{self._text(one) or self.region}{letter}" for letter in "abcdef"],
        }
        object.__setattr__(self, "_functions", functions)

    def value(self, value: Any) -> Any:
        """Return what a value comes to.

        Raises:
            StackError: a name in it does not exist, or a function is not known here.
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
                raise StackError(f"Template error: {name} is not known to the embedded cloud's CloudFormation")
        return {name: found for name, one in value.items() if (found := self.value(one)) is not NO_VALUE}

    def _text(self, value: Any) -> str:
        found = self.value(value)
        return str(found).lower() if isinstance(found, bool) else str(found)

    def _if(self, argument: list[Any]) -> Any:
        condition, then, otherwise = argument
        return self.value(then if self.scope.condition(condition) else otherwise)

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

        return _PLACE.sub(replaced, text)
