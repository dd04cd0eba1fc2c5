"""The parameters of a stack, completed and checked before anything is created.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.functions import Evaluation
from services.embedded.stacks.template import Template

_OF_SSM = "AWS::SSM::Parameter::Value<"

Lookup = Callable[[str], str]
"""Returns the value of a parameter of the parameter store.

Raises:
    StackError: the store has none of that name.
"""


def complete(template: Template, given: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each parameter: the one that is given, or its default.

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
        check(name, text, template.parameters[name])
    return texts


def resolve(template: Template, texts: Mapping[str, str], lookup: Lookup) -> dict[str, Any]:
    """Return the value that ``Ref`` of each parameter has: a list for list types, the stored value for those of SSM.

    Raises:
        StackError: a parameter names nothing in the parameter store.
    """
    return {name: _value(text, template.parameters[name]["Type"], lookup) for name, text in texts.items()}


def _value(text: str, kind: str, lookup: Lookup) -> Any:
    if kind.startswith(_OF_SSM):
        return lookup(text)
    if kind == "CommaDelimitedList" or kind.startswith("List<"):
        return [part.strip() for part in text.split(",")] if text else [""]
    return text


def check(name: str, text: str, definition: Mapping[str, Any]) -> None:
    """Refuse a value that its parameter does not allow.

    Raises:
        StackError: the message names the parameter and what it allows.
    """
    described = definition.get("ConstraintDescription")
    pattern, allowed = definition.get("AllowedPattern"), definition.get("AllowedValues")
    if pattern is not None and re.fullmatch(pattern, text) is None:
        raise StackError(
            f"Parameter {name} failed to satisfy constraint: {described or f'must match pattern {pattern}'}"
        )
    if allowed is not None and text not in {_text(one) for one in allowed}:
        listed = ", ".join(_text(one) for one in allowed)
        raise StackError(f"Parameter '{name}' must be one of AllowedValues ({described or listed})")
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
        StackError: the message is the rule's own description.
    """
    for name, rule in template.rules.items():
        if not evaluation.value(rule.get("RuleCondition", True)):
            continue
        for assertion in rule["Assertions"]:
            if not evaluation.value(assertion["Assert"]):
                described = assertion.get("AssertDescription", f"rule {name} does not hold")
                raise StackError(f"Template validation error: Rule {name} is violated: {described}")
