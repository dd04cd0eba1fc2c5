"""The values of DynamoDB: their types and sizes, and keys as bytes that sort as DynamoDB sorts the values.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html
Functions raise moto's `MockValidationException` for a value that is not as described there.
"""

import base64
import re
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from moto.dynamodb import exceptions
from moto.dynamodb.exceptions import MockValidationException
from moto.dynamodb.limits import HASH_KEY_MAX_LENGTH, RANGE_KEY_MAX_LENGTH
from moto.dynamodb.models.table import Table

Attributes = dict[str, Any]
"""Attributes by name, as in the JSON of a call: each is a dictionary of its type and its content."""

Key = tuple[bytes, bytes]
"""The partition key and the sort key of an item as bytes; the sort key of a table without one is empty."""

MAX_ITEM_BYTES: Final = 400 * 1024
"""Largest item in bytes."""

_MAX_LEVELS: Final = 32  # of lists and maps in each other
_MAX_DIGITS: Final = 38  # of a number, without zeros at its ends
_EXPONENTS: Final = range(-130, 126)  # of ten, of the first digit of a number
_NUMBER: Final = re.compile(r"[+-]?(?:\d{1,200}\.?\d{0,200}|\.\d{1,200})(?:[eE][+-]?\d{1,6})?", re.ASCII)


def size_of(attributes: Any, levels: int = 0) -> int:
    """Return the size of attributes in bytes, of their names and values, which it checks."""
    if type(attributes) is not dict:
        raise MockValidationException("Attributes must be a map of names to values")
    return sum(len(_utf8(name)) + _size_of_value(value, levels) for name, value in attributes.items())


def _size_of_value(value: Any, levels: int) -> int:
    if type(value) is not dict or len(value) != 1:
        raise MockValidationException("Supplied AttributeValue must contain exactly one of the supported datatypes")
    [(kind, content)] = value.items()
    if kind == "S" and type(content) is str:
        return len(content) if content.isascii() else len(_utf8(content))
    if kind in {"N", "B"} and type(content) is str:
        return len(sortable(value)) if kind == "B" else len(sortable(value)) // 2 + 1  # two digits in a byte
    if (kind == "BOOL" and type(content) is bool) or (kind == "NULL" and content is True):
        return 1
    if levels == _MAX_LEVELS:
        raise MockValidationException("Nesting Levels have exceeded supported limits")
    if kind == "M":
        return 3 + size_of(content, levels + 1) + len(content)
    if kind == "L" and type(content) is list:
        return 3 + len(content) + sum(_size_of_value(each, levels + 1) for each in content)
    if kind in {"SS", "NS", "BS"} and type(content) is list and content:
        members = [{kind[0]: each} for each in content]
        size = sum(_size_of_value(each, levels) for each in members)
        if len({sortable(each) for each in members}) < len(members):
            raise MockValidationException("One or more parameter values were invalid: a set contains duplicates")
        return size
    raise MockValidationException(f"Supplied AttributeValue has no content of the type {kind}")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can have halves of surrogate pairs


def sortable(value: Attributes) -> bytes:
    """Return a text, number or binary as bytes in the order of the values of its type."""
    [(kind, content)] = value.items()
    if kind == "S":
        return _utf8(content)
    if kind == "N":
        return _sortable_number(content)
    try:
        return base64.b64decode(content, validate=True)
    except ValueError:
        raise MockValidationException("Supplied AttributeValue has a binary that is not Base64") from None


@lru_cache(maxsize=4096)
def _sortable_number(text: str) -> bytes:
    """Return the sign, the exponent and the digits of a number, all so that they sort; 1 and 1.0 are the same."""
    number = Decimal(text if _NUMBER.fullmatch(text) else "NaN")
    if number.is_zero():
        return b"\x01"
    digits = bytes(digit + 1 for digit in number.as_tuple().digits).rstrip(b"\x01")
    if number.is_nan() or number.adjusted() not in _EXPONENTS or len(digits) > _MAX_DIGITS:
        raise MockValidationException(f"{text[:50]} is no number of {_MAX_DIGITS} digits from 1E-130 to 9.9E125")
    magnitude = bytes([number.adjusted() - _EXPONENTS.start]) + digits
    if number > 0:
        return b"\x02" + magnitude
    return b"\x00" + bytes(255 - each for each in magnitude) + b"\xff"  # the end: -1.5 sorts before -1


def key_of(table: Table, attributes: Any, *, is_whole: bool = True) -> Key:
    """Return the key in the attributes of an item, of which there must be no others if `is_whole`."""
    if is_whole and (type(attributes) is not dict or attributes.keys() != set(table.table_key_attrs)):
        raise exceptions.ProvidedKeyDoesNotExist
    parts, limits = list[bytes](), (HASH_KEY_MAX_LENGTH, RANGE_KEY_MAX_LENGTH)
    for (name, kind), limit in zip(key_types(table).items(), limits, strict=False):
        if name not in attributes:
            raise MockValidationException(f"One or more parameter values were invalid: Missing the key {name}")
        parts.append(key_bytes(name, kind, attributes[name]))
        if len(parts[-1]) > limit:
            raise MockValidationException(f"One or more parameter values were invalid: {name} exceeds {limit} bytes")
    hash_key, range_key, *_ = *parts, b""
    return hash_key, range_key


def key_types(table: Table) -> dict[str, str]:
    """Return the types of the keys of a table by their names, the partition key first."""
    return dict(zip(table.table_key_attrs, (table.hash_key_type, table.range_key_type), strict=False))


def key_bytes(name: str, kind: str, value: Any) -> bytes:
    """Return a value of a key, which must have a type and content, as bytes that sort."""
    _size_of_value(value, 0)
    if kind not in value:
        raise exceptions.InvalidAttributeTypeError(name, kind, next(iter(value)))
    if not value[kind]:
        raise exceptions.KeyIsEmptyStringException(name)
    return sortable(value)


def measured(table: Table, item: Attributes) -> tuple[Key, int]:
    """Return the key and the size in bytes of an item to put, which it checks."""
    key, size = key_of(table, item, is_whole=False), size_of(item)
    if size > MAX_ITEM_BYTES:
        raise MockValidationException("Item size has exceeded the maximum allowed size")
    return key, size
