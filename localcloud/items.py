"""DynamoDB's items, typed and measured once.

Stock moto measures an item anew for each attribute that is added to it, and asks of each value what it is not before
it says what it is: most of the time of a BatchWriteItem.
"""

from typing import Any

from moto.dynamodb.exceptions import ItemSizeTooLarge
from moto.dynamodb.models.dynamo_type import DynamoType, LimitedSizeDict

from localcloud.patches import Patch

MAX_ITEM_BYTES = 405_000
"""Bytes, as in stock moto; AWS documents 400 KB."""

_BYTES_A_CHARACTER = 4


def _size(original: Any) -> Any:
    def size(self: Any) -> int:
        """Return the bytes that a value counts for."""
        value = self.value
        if type(value) is str and value.isascii() and self.type in {"S", "N"}:
            return len(value)
        return original(self)  # type: ignore[no-any-return]

    return size


def _cast_value(original: Any) -> Any:
    def cast_value(self: Any) -> Any:
        """Return a value as Python's."""
        return self.value if self.type == "S" else original.fget(self)

    return property(cast_value)


def _init(_original: Any) -> Any:
    def init(self: Any, hash_key: Any, range_key: Any, attrs: dict[str, Any]) -> None:
        """Take the attributes as they are, unless they are too large together."""
        self.hash_key, self.range_key = hash_key, range_key
        known = [key for key in (hash_key, range_key) if key is not None]
        self.attrs = LimitedSizeDict()
        for name, value in attrs.items():
            dict.__setitem__(self.attrs, name, _typed(value, known))
        if not _is_surely_small(self.attrs) and self.size() > MAX_ITEM_BYTES:
            raise ItemSizeTooLarge

    return init


def _typed(value: Any, known: list[Any]) -> Any:
    """Return the typed value; the very object of a key that it repeats, which halves what the key takes."""
    if type(value) is dict and "S" in value:
        for key in known:
            if key.type == "S" and key.value == value["S"]:
                return key
    return DynamoType(value)


def _is_surely_small(attrs: dict[str, Any]) -> bool:
    characters = 0
    for name, value in attrs.items():
        if type(value.value) is not str:
            return False
        characters += len(name) + len(value.value)
    return characters * _BYTES_A_CHARACTER <= MAX_ITEM_BYTES


def _to_dict(original: Any) -> Any:
    def to_dict(obj: Any) -> Any:
        """Return plain JSON of what an answer is made of."""
        kind = type(obj)
        if kind is DynamoType and obj.type in _JSON_AS_IT_IS:
            return {obj.type: obj.value}
        if kind is dict or kind is LimitedSizeDict:
            return {name: to_dict(member) for name, member in obj.items()}
        if kind is list:
            return [to_dict(member) for member in obj]
        return obj if kind is str or kind is int else original(obj)

    return to_dict


_JSON_AS_IT_IS = frozenset({"S", "N", "BOOL", "NULL"})
_TYPE = "moto.dynamodb.models.dynamo_type:DynamoType"
PATCHES = (
    Patch(f"{_TYPE}.size", ("self",), _size, "asks seven questions of a text before it measures it"),
    Patch(f"{_TYPE}.cast_value", ("self",), _cast_value, "asks five questions of a text before it returns it"),
    Patch("moto.dynamodb.responses:dynamo_to_dict", ("obj",), _to_dict, "asks of each text whether it is a date"),
    Patch(
        "moto.dynamodb.models.dynamo_type:Item.__init__",
        ("self", "hash_key", "range_key", "attrs"),
        _init,
        "measures the whole item for each attribute that it adds",
    ),
)
