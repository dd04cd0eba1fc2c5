"""The parameters of a stack, completed before anything is created. Patterns, bounds and rules are not checked here.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
"""

from collections.abc import Callable, Mapping
from typing import Any

from localcloud.stacks.errors import StackError
from localcloud.stacks.template import Template

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
        allowed = [_text(one) for one in template.parameters[name].get("AllowedValues", [text])]
        if text not in allowed:
            raise StackError(f"Parameter '{name}' must be one of AllowedValues ({', '.join(allowed)})")
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


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
