"""What every request of moto goes through and computes again each time, computed once; and what it keeps, let go."""

import functools
from typing import Any

from localcloud.patches import Patch

PICKS_REMEMBERED = 50_000


class AttributeNames:
    """The names under which moto may keep a member of an answer, by the type that it is read from and its shape.

    Stock moto derives them anew for each member of each item: most of the time of a Query or DescribeInstances.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._transformed: dict[int, tuple[Any, frozenset[str]]] = {}

    def candidates(self, picker: Any, context: Any) -> tuple[str, ...]:
        """Return the names to try, in moto's order."""
        shape = context.shape
        parent = getattr(shape, "parent", None)
        key = (
            type(context.obj),
            context.key,
            getattr(shape, "name", None),
            getattr(parent, "name", None),
            shape.serialization.get("name") if shape is not None else None,
            context.service_model.service_name,
            type(picker),
        )
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= PICKS_REMEMBERED:
                self._known.clear()
            known = self._known[key] = tuple(dict.fromkeys(picker.get_possible_keys(context)))
        return known

    def may_transform(self, transformers: dict[str, Any], key: str) -> bool:
        """Return True if a transformer can apply to a member of this name."""
        if not transformers:
            return False
        kept = self._transformed.get(id(transformers))
        if kept is None or kept[0] is not transformers:
            kept = (transformers, frozenset(path.rpartition(".")[2] for path in transformers))
            self._transformed[id(transformers)] = kept
        return key in kept[1]


def _remembered(original: Any) -> Any:
    return functools.lru_cache(maxsize=256)(original)


def _fast_get_value(original: Any) -> Any:
    from moto.core.serialize import AttributePickerContext, XFormedAttributePicker
    from moto.core.utils import MISSING, get_value

    names = AttributeNames()

    def fast_get_value(self: Any, value: Any, key: str, shape: Any) -> Any:
        """Read a member as stock does, from names that are known already."""
        picker = self._value_picker
        if type(picker) is not XFormedAttributePicker:
            return original(self, value, key, shape)
        if names.may_transform(picker.response_transformers, key):
            return original(self, value, key, shape)
        context = AttributePickerContext(value, key, shape, None, self.operation_model.service_model)
        for candidate in names.candidates(picker, context):
            found = get_value(value, candidate, MISSING)
            if found is not MISSING:
                return found
        return None

    return fast_get_value


def _untracked(_original: Any) -> Any:
    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 - moto's signature
        """Make an instance that goes when nothing uses it any more."""
        return object.__new__(cls)

    return staticmethod(new)


PATCHES = (
    Patch(
        "moto.core.common_models:BaseModel.__new__",
        ("cls", "args", "kwargs"),
        _untracked,
        "keeps every model ever made, for a dashboard: deleted messages, overwritten objects, copies of items",
    ),
    Patch(
        "moto.core.responses:method_names_from_class",
        ("clazz",),
        _remembered,
        "inspects every member of the response class for each request",
    ),
    Patch(
        "moto.core.serialize:ResponseSerializer.get_value",
        ("self", "value", "key", "shape"),
        _fast_get_value,
        "derives the possible names of each member of each answer anew",
    ),
)
