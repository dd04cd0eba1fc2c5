"""Values of a template in the types of an API: the text "30" becomes a number, or a number becomes text."""

import json
from typing import Any


def coerced(value: Any, shape: Any) -> Any:
    """Return a value in the types of a shape; botocore refuses what has another form.

    Args:
        value: of a template, evaluated.
        shape: a ``botocore.model.Shape``.

    Raises:
        ValueError: a text is no number.
    """
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        members = shape.members
        return {name: coerced(one, members[name]) if name in members else one for name, one in value.items()}
    if kind == "list" and isinstance(value, list):
        return [coerced(one, shape.member) for one in value]
    if kind == "map" and isinstance(value, dict):
        return {str(name): coerced(one, shape.value) for name, one in value.items()}
    return _scalar(value, kind)


def _scalar(value: Any, kind: str) -> Any:
    if kind == "string" and isinstance(value, bool | dict | int | float):
        return json.dumps(value)
    if kind == "boolean" and isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    if kind in {"integer", "long"} and isinstance(value, str):
        return int(value)
    if kind in {"double", "float"} and isinstance(value, str | int):
        return float(value)
    return value
