"""Values of a template as a service's API wants them: "30" where it takes a number, a number where it takes text."""

import json
from collections.abc import Callable
from typing import Any


def fitted(value: Any, shape: Any) -> Any:
    """Return a value in the types of botocore's shape; what does not fit is left for botocore to refuse.

    Args:
        value: of a template, evaluated.
        shape: a ``botocore.model.Shape``.
    """
    fitting = _FITTINGS.get(shape.type_name)
    return value if fitting is None else fitting(value, shape)


def _structure(value: Any, shape: Any) -> Any:
    if not isinstance(value, dict):
        return value
    members = shape.members
    return {name: fitted(one, members[name]) if name in members else one for name, one in value.items()}


def _list(value: Any, shape: Any) -> Any:
    return [fitted(one, shape.member) for one in value] if isinstance(value, list) else value


def _map(value: Any, shape: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {str(name): fitted(one, shape.value) for name, one in value.items()}


def _boolean(value: Any, _shape: Any) -> Any:
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _integer(value: Any, _shape: Any) -> Any:
    return _number(value, int) if isinstance(value, str) else value


def _float(value: Any, _shape: Any) -> Any:
    return _number(value, float) if isinstance(value, str | int) else value


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    try:
        return kind(value)
    except ValueError:
        return value


def _text(value: Any, _shape: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value) if isinstance(value, int | float) else value


_FITTINGS: dict[str, Callable[[Any, Any], Any]] = {
    "structure": _structure,
    "list": _list,
    "map": _map,
    "string": _text,
    "integer": _integer,
    "long": _integer,
    "double": _float,
    "float": _float,
    "boolean": _boolean,
}
