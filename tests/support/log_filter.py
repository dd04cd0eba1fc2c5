"""CloudWatch's filter patterns for JSON lines, as far as the stack uses them.

`{ $.name = "text" && $.figure >= 500 && $.other = * }`: comparisons of a line's own fields with a text in quotes, a
number, or `*` for any value, all of which must hold; as the page "Filter pattern syntax for metric filters" of the
CloudWatch Logs user guide has it. Whatever else stands in a pattern is refused, not guessed.
"""

import json
import operator
import re
from collections.abc import Callable
from typing import Any

_COMPARISON = re.compile(r'\$\.(?P<name>\w+) (?P<sign>=|!=|>=|<=|>|<) (?P<value>"[^"]*"|\*|-?\d+(\.\d+)?)')
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def matches(pattern: str, line: str) -> bool:
    """Return whether a line of a log is found by `pattern`; one that is no JSON object never is."""
    comparisons = _comparisons(pattern)
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    return isinstance(fields, dict) and all(_holds(each, fields) for each in comparisons)


def value_in(value: str, pattern: str, line: str) -> float:
    """Return what a metric filter makes of a line that it has found: a number, or the field that `value` names."""
    if not value.startswith("$."):
        return float(value)
    name = value.removeprefix("$.")
    assert name in {each["name"] for each in _comparisons(pattern)}, f"{value} has to be in the pattern"
    return float(json.loads(line)[name])


def _comparisons(pattern: str) -> list[re.Match[str]]:
    assert pattern.startswith("{ "), pattern
    assert pattern.endswith(" }"), pattern
    found = [_COMPARISON.fullmatch(part) for part in pattern[2:-2].split(" && ")]
    assert all(found), f"{pattern} has something that is not known here"
    return [each for each in found if each]


def _holds(comparison: re.Match[str], fields: dict[str, Any]) -> bool:
    name, sign, wanted = comparison["name"], comparison["sign"], comparison["value"]
    if name not in fields:
        return False
    if wanted == "*":
        return True
    value = fields[name]
    if wanted.startswith('"'):
        return isinstance(value, str) and _SIGNS[sign](value, wanted.strip('"'))
    return isinstance(value, int | float) and _SIGNS[sign](value, float(wanted))
