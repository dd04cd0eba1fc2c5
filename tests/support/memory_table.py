"""The job table in memory: evaluates the condition expressions that this project uses, as DynamoDB does.

`tests/integration/services/test_services.py` runs the same assertions against it and against DynamoDB's API.
"""

import itertools
import operator
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError

from services.table import BATCH, PAGE, READ_BATCH, Item, Table
from tests.support.waiting import DEADLINE_SECONDS

WRITES: Final = frozenset({"BatchWriteItem", "PutItem", "UpdateItem", "DeleteItem"})
"""Operations that change items."""

Key = tuple[str, str]
_T = TypeVar("_T")


ServiceCall = Callable[[str, Callable[[], Any]], Any]
"""A hook through which each call of the service goes: it is given DynamoDB's operation and its effect, runs the
effect and returns its result. It may raise before the effect (the request is lost), raise after it (the reply is
lost), or run it twice (the request is repeated)."""


def run_effect(_operation: str, effect: Callable[[], _T]) -> _T:
    """Run a call that meets no fault."""
    return effect()


def failing_writes(fail: Callable[[str], None]) -> ServiceCall:
    """Return a hook that calls `fail` with `before` and with `after` around each write, so that it can raise."""

    def call(operation: str, effect: Callable[[], _T]) -> _T:
        if operation not in WRITES:
            return effect()
        fail("before")
        result = effect()
        fail("after")
        return result

    return call


def meeting(operation: str, callers: int) -> ServiceCall:
    """Return a hook in which the first `callers` calls of an operation wait for each other after their effect."""
    all_here, calls = threading.Barrier(callers), itertools.count(1)

    def call(made: str, effect: Callable[[], _T]) -> _T:
        result = effect()
        if made == operation and next(calls) <= callers:
            all_here.wait(DEADLINE_SECONDS)
        return result

    return call


class MemoryTable(Table):
    """A table in memory, for several threads: each call is atomic.

    Attributes:
        items: what the table holds, by `(pk, sk)`.
        call: the hook of each call. As over the wire, 25 items are a BatchWriteItem, 100 keys a BatchGetItem and 500
            items a page of a Query.
    """

    items: dict[Key, Item]
    call: ServiceCall

    def __init__(self, call: ServiceCall = run_effect) -> None:
        """Make an empty table."""
        super().__init__(cast(Any, object()), "memory")
        self.items = {}
        self.call = call
        self._lock = threading.Lock()

    def put_all(self, items: Sequence[Item]) -> None:
        """Put items, 25 a call."""
        for start in range(0, len(items), BATCH):
            batch = [dict(item) for item in items[start : start + BATCH]]
            self._call("BatchWriteItem", lambda: self.items.update(_each_once("BatchWriteItem", batch)))  # noqa: B023

    def put_each(self, items: Sequence[Item]) -> list[tuple[Item, Exception]]:
        """Put items, 25 a call; return those of calls that fail."""
        left: list[tuple[Item, Exception]] = []
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            try:
                self.put_all(batch)
            except (BotoCoreError, ClientError) as error:
                left += [(item, error) for item in batch]
        return left

    def delete_all(self, keys: Sequence[Key]) -> None:
        """Delete items, 25 a call."""

        def delete(batch: Sequence[Key]) -> None:
            for key in _each_once("BatchWriteItem", [{"pk": pk, "sk": sk} for pk, sk in batch]):
                self.items.pop(key, None)

        for start in range(0, len(keys), BATCH):
            self._call("BatchWriteItem", lambda: delete(keys[start : start + BATCH]))  # noqa: B023

    def put_if(self, item: Item, condition: str, values: Item | None = None) -> bool:
        """Put an item if the condition holds."""
        return self._write("PutItem", _key(item), lambda _: dict(item), condition, values)

    def delete_if(self, pk: str, sk: str, condition: str, values: Item | None = None) -> bool:
        """Delete an item if the condition holds."""
        return self._write("DeleteItem", (pk, sk), lambda _: None, condition, values)

    def set(self, pk: str, sk: str, attributes: Item, condition: str | None = None) -> bool:
        """Set attributes of an item that need not exist."""
        return self._write(
            "UpdateItem", (pk, sk), lambda found: {**found, **attributes}, condition, attributes, used=attributes
        )

    def add(
        self,
        pk: str,
        sk: str,
        amounts: Mapping[str, int],
        attributes: Item,
        condition: str | None = None,
        values: Item | None = None,
    ) -> Item | None:
        """Add to numbers of an item that need not exist, and set some of its attributes."""
        written: list[Item] = []

        def added(found: Item) -> Item:
            sums = {name: int(found.get(name, 0)) + amount for name, amount in amounts.items()}
            written.append({**found, **sums, **attributes})
            return written[-1]

        known = {**attributes, **(values or {})}
        held = self._write("UpdateItem", (pk, sk), added, condition, known, used=attributes)
        return written[-1] if held else None

    def get(self, pk: str, sk: str) -> Item | None:
        """Return an item, or None."""
        return self._call("GetItem", lambda: self.items.get((pk, sk)))

    def get_each(self, keys: Sequence[Key]) -> tuple[list[Item], list[tuple[Key, Exception]]]:
        """Read items, 100 a call; return them, and the keys of calls that fail."""
        found, left = list[Item](), list[tuple[Key, Exception]]()
        for start in range(0, len(keys), READ_BATCH):
            batch = keys[start : start + READ_BATCH]
            try:
                found += self.get_all(batch)
            except (BotoCoreError, ClientError) as error:
                left += [(key, error) for key in batch]
        return found, left

    def get_all(self, keys: Sequence[Key]) -> list[Item]:
        """Return the items that exist, 100 a call."""

        def read(batch: Sequence[Key]) -> list[Item]:
            wanted = _each_once("BatchGetItem", [{"pk": pk, "sk": sk} for pk, sk in batch])
            return [self.items[key] for key in wanted if key in self.items]

        found: list[Item] = []
        for start in range(0, len(keys), READ_BATCH):
            found += self._call("BatchGetItem", lambda: read(keys[start : start + READ_BATCH]))  # noqa: B023
        return found

    def query(
        self, pk: str, low: str, high: str, *, limit: int | None = None, newest_first: bool = False
    ) -> Iterator[Item]:
        """Yield items in order, 500 a call."""
        size = PAGE if limit is None else min(limit, PAGE)
        left, last = limit, cast(str | None, None)

        def page() -> list[Item]:
            found = sorted(
                (key for key in self.items if key[0] == pk and low <= key[1] <= high), reverse=newest_first
            )
            beyond = [key for key in found if last is None or (key[1] < last if newest_first else key[1] > last)]
            return [self.items[key] for key in beyond[:size]]

        while left is None or left > 0:
            items = self._call("Query", page)
            yield from items[:left]
            if len(items) < size:
                return
            left, last = None if left is None else left - len(items), str(items[-1]["sk"])

    def count(self, pk: str, prefix: str) -> int:
        """Return how many items of `pk` have a sort key that begins with `prefix`."""
        return self._call("Query", lambda: sum(held == pk and sk.startswith(prefix) for held, sk in self.items))

    def _write(
        self,
        operation: str,
        key: Key,
        change: Callable[[Item], Item | None],
        condition: str | None,
        values: Item | None,
        used: Item | None = None,
    ) -> bool:
        """Replace the item at `key` by what `change` makes of it, if `condition` holds; None deletes it.

        Args:
            used: those of `values` that `change` uses, which the condition therefore need not.
        """
        values = values or {}
        unused = {name for name in values if f":{name}" not in _tokens(condition)} - set(used or {})
        if unused:
            raise _invalid(operation, f"Value provided in ExpressionAttributeValues unused in expressions: {unused}")

        def write() -> bool:
            found = self.items.get(key)
            if condition is not None and not _Condition(condition, found or {}, values).holds():
                return False
            changed = change(found or {"pk": key[0], "sk": key[1]})
            if changed is None:
                self.items.pop(key, None)
            else:
                self.items[key] = changed
            return True

        return self._call(operation, write)

    def _call(self, operation: str, effect: Callable[[], _T]) -> _T:
        def atomic() -> _T:
            with self._lock:
                return effect()

        result: _T = self.call(operation, atomic)
        return result


class _Condition:
    """A condition expression and the item of which it must hold.

    The grammar is that part of DynamoDB's which this project uses
    (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html).
    """

    def __init__(self, text: str, item: Item, values: Item) -> None:
        self._text, self._left, self._item, self._values = text, _tokens(text), item, values

    def holds(self) -> bool:
        result = self._alternatives()
        if self._left:
            raise self._invalid(self._left[0])
        return result

    def _alternatives(self) -> bool:
        result = self._conjunction()
        while self._skip("OR"):
            result = self._conjunction() or result
        return result

    def _conjunction(self) -> bool:
        result = self._term()
        while self._skip("AND"):
            result = self._term() and result
        return result

    def _term(self) -> bool:
        if self._skip("("):
            result = self._alternatives()
            self._demand(")")
            return result
        token = self._take()
        if token in {"attribute_exists", "attribute_not_exists"}:
            self._demand("(")
            exists = self._operand(self._take()) is not None
            self._demand(")")
            return exists is (token == "attribute_exists")
        left, comparison, right = self._operand(token), self._take(), self._operand(self._take())
        if comparison not in _COMPARISONS:
            raise self._invalid(comparison)
        # What is missing, or is of another type, compares as false.
        return left is not None and type(left) is type(right) and _COMPARISONS[comparison](left, right)

    def _operand(self, token: str) -> str | int | None:
        if token.startswith("#"):
            return self._item.get(token[1:])
        if token.startswith(":") and token[1:] in self._values:
            return self._values[token[1:]]
        raise self._invalid(token)

    def _take(self) -> str:
        return self._left.pop(0) if self._left else ""

    def _skip(self, token: str) -> bool:
        is_next = self._left[:1] == [token]
        del self._left[: int(is_next)]
        return is_next

    def _demand(self, token: str) -> None:
        if not self._skip(token):
            raise self._invalid(self._take())

    def _invalid(self, token: str) -> ClientError:
        return _invalid("condition", f"Invalid ConditionExpression: Syntax error; token: {token!r} in {self._text!r}")


_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _tokens(condition: str | None) -> list[str]:
    return re.findall(r"[<>]=|[#:]?\w+|\S", condition or "")


def _key(item: Item) -> Key:
    return str(item["pk"]), str(item["sk"])


def _each_once(operation: str, items: Sequence[Item]) -> dict[Key, Item]:
    """Return `items` by their key, of which DynamoDB takes each once in a call."""
    found = {_key(item): item for item in items}
    if len(found) < len(items):
        raise _invalid(operation, "Provided list of item keys contains duplicates")
    return found


def _invalid(operation: str, message: str) -> ClientError:
    refusal: Any = {
        "Error": {"Code": "ValidationException", "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": 400, "RetryAttempts": 0},
    }
    return ClientError(refusal, operation)
