"""The parameters of a stack: what is given, completed and checked, as CloudFormation does before anything is made."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.functions import Evaluation
from services.embedded.stacks.template import Template

_OF_SSM = "AWS::SSM::Parameter::Value<"

Lookup = Callable[[str], str]
"""Returns the value of a parameter of the parameter store.

Raises:
    StackError: there is none of that name.
"""


@dataclass(frozen=True)
class Parameters:
    """The parameters of a stack, and what they come to.

    Attributes:
        given: of each parameter the text that was given, or its default.
        values: what ``Ref`` of each is: a list for list types, a number as text, the stored value for those of SSM.
    """

    given: dict[str, str]
    values: dict[str, Any]

    @property
    def resolved(self) -> dict[str, str]:
        """What was found in the parameter store, by parameter."""
        return {name: str(value) for name, value in self.values.items() if name in self._stored}

    @property
    def _stored(self) -> set[str]:
        return {name for name, value in self.values.items() if isinstance(value, Stored)}


class Stored(str):
    """A value that came out of the parameter store."""

    __slots__ = ()


def resolve(template: Template, given: Mapping[str, str], lookup: Lookup) -> Parameters:
    """Complete the parameters by their defaults, check them, and look up those that name one of the store.

    Raises:
        StackError: one is missing, unknown or not allowed, or names nothing in the store.
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
    values = {}
    for name, text in texts.items():
        check(name, text, template.parameters[name])
        values[name] = _value(text, template.parameters[name]["Type"], lookup)
    return Parameters(texts, values)


def _value(text: str, kind: str, lookup: Lookup) -> Any:
    if kind.startswith(_OF_SSM):
        stored = lookup(text)
        return stored.split(",") if kind.startswith(f"{_OF_SSM}List<") else Stored(stored)
    if kind == "CommaDelimitedList" or kind.startswith("List<"):
        return [part.strip() for part in text.split(",")] if text else [""]
    return text


def check(name: str, text: str, definition: Mapping[str, Any]) -> None:
    """Refuse a value that its parameter does not allow.

    Raises:
        StackError: naming the parameter and what it allows, in the template's own words where it has some.
    """
    told = definition.get("ConstraintDescription")
    pattern, allowed = definition.get("AllowedPattern"), definition.get("AllowedValues")
    if pattern is not None and re.fullmatch(pattern, text) is None:
        raise StackError(f"Parameter {name} failed to satisfy constraint: {told or f'must match pattern {pattern}'}")
    if allowed is not None and text not in {_text(one) for one in allowed}:
        listed = ", ".join(_text(one) for one in allowed)
        raise StackError(f"Parameter '{name}' must be one of AllowedValues ({told or listed})")
    if definition["Type"] == "Number":
        _check_number(name, text, definition)


def _check_number(name: str, text: str, definition: Mapping[str, Any]) -> None:
    try:
        number = float(text)
    except ValueError:
        raise StackError(f"Parameter '{name}' must be a number.") from None
    if "MinValue" in definition and number < float(definition["MinValue"]):
        raise StackError(f"Parameter '{name}' must be a number not less than {definition['MinValue']}")
    if "MaxValue" in definition and number > float(definition["MaxValue"]):
        raise StackError(f"Parameter '{name}' must be a number not greater than {definition['MaxValue']}")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_rules(template: Template, evaluation: Evaluation) -> None:
    """Refuse parameters that the template's rules forbid together.

    Raises:
        StackError: in the words of the rule.
    """
    for name, rule in template.rules.items():
        if not evaluation.value(rule.get("RuleCondition", True)):
            continue
        for assertion in rule["Assertions"]:
            if not evaluation.value(assertion["Assert"]):
                told = assertion.get("AssertDescription", f"rule {name} does not hold")
                raise StackError(f"Template validation error: Rule {name} is violated: {told}")
