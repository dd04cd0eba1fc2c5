"""DynamoDB in memory: the client of one table, and the table as the product uses it.

It evaluates the expressions that this project uses, as DynamoDB does.
"""

import operator
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeVar, cast

from botocore.exceptions import ClientError

from services.table import Item, Table
from tests.support.memory_aws.calls import Call, Leave, leave_none, refusal, run_effect

Key = tuple[str, str]
_T = TypeVar("_T")


class MemoryTable(Table):
    """The job table over a client in memory."""

    def __init__(
        self,
        call: Call = run_effect,
        leave: Leave = leave_none,
        sleep: Callable[[float], None] = time.sleep,
        name: str = "memory",
    ) -> None:
        """Make an empty table."""
        self.memory = MemoryDynamoDB(call, leave)
        super().__init__(cast(Any, self.memory), name, sleep)

    @property
    def items(self) -> dict[Key, Item]:
        """What the table holds, by `(pk, sk)`."""
        return self.memory.items

    @items.setter
    def items(self, items: dict[Key, Item]) -> None:
        self.memory.items = items

    @property
    def call(self) -> Call:
        """The hook of each call; the operation is DynamoDB's name. A write that was refused returns False."""
        return self.memory.call

    @call.setter
    def call(self, call: Call) -> None:
        self.memory.call = call


class MemoryDynamoDB:
    """The client of a table, for several threads: each call is atomic.

    Attributes:
        items: what the table holds, by `(pk, sk)`; attributes are strings and whole numbers.
        call: the hook of each call.
        leave: how many items of a batch stay unprocessed.
    """

    def __init__(self, call: Call, leave: Leave) -> None:
        """Make an empty table."""
        self.items: dict[Key, Item] = {}
        self.call, self.leave = call, leave
        self._made = set[str]()
        self._lock = threading.Lock()

    # The client's own methods

    def batch_write_item(self, *, RequestItems: dict[str, list[Any]]) -> dict[str, Any]:  # noqa: N803 (DynamoDB's names)
        """Put and delete up to 25 items."""
        [(name, requests)] = RequestItems.items()
        keys = [
            _key(each["PutRequest"]["Item"] if "PutRequest" in each else each["DeleteRequest"]["Key"])
            for each in requests
        ]

        def write() -> int:
            processed = self._processed("BatchWriteItem", keys, MAX_WRITES)
            for key, each in zip(keys[:processed], requests, strict=False):
                if "PutRequest" in each:
                    self.items[key] = _decoded(each["PutRequest"]["Item"])
                else:
                    self.items.pop(key, None)
            return processed

        left = requests[self._call("BatchWriteItem", write) :]
        return {"UnprocessedItems": {name: left} if left else {}}

    def batch_get_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        """Read up to 100 items."""
        [(name, request)] = RequestItems.items()
        keys = [_key(each) for each in request["Keys"]]

        def read() -> tuple[list[Any], int]:
            processed = self._processed("BatchGetItem", keys, MAX_READS)
            return [_encoded(self.items[key]) for key in keys[:processed] if key in self.items], processed

        found, processed = self._call("BatchGetItem", read)
        left = request["Keys"][processed:]
        return {"Responses": {name: found}, "UnprocessedKeys": {name: {"Keys": left}} if left else {}}

    def get_item(self, *, Key: Any, **_: Any) -> dict[str, Any]:  # noqa: N803
        """Read an item."""
        found = self._call("GetItem", lambda: self.items.get(_key(Key)))
        return {} if found is None else {"Item": _encoded(found)}

    def put_item(self, **call: Any) -> dict[str, Any]:
        """Put an item if the condition holds."""
        self._write("PutItem", _Write(call))
        return {}

    def delete_item(self, **call: Any) -> dict[str, Any]:
        """Delete an item if the condition holds."""
        self._write("DeleteItem", _Write(call))
        return {}

    def update_item(self, **call: Any) -> dict[str, Any]:
        """Set attributes of an item that need not exist, and add to its numbers."""
        return {"Attributes": _encoded(self._write("UpdateItem", _Write(call)))}

    def transact_write_items(self, *, TransactItems: list[Any], ClientRequestToken: str) -> dict[str, Any]:  # noqa: N803
        """Make all writes or none; a token that was used makes none."""
        writes = [(kind, _Write(call)) for entry in TransactItems for kind, call in entry.items()]
        if len({write.key for _, write in writes}) < len(writes) or len(writes) > MAX_TRANSACTED:
            raise _invalid("TransactWriteItems", "Too many operations, or several on one item")

        def write() -> list[str]:
            if ClientRequestToken in self._made:
                return []
            held = [each.holds_for(self.items.get(each.key)) for _, each in writes]
            if not all(held):
                return ["None" if each else "ConditionalCheckFailed" for each in held]
            self._made.add(ClientRequestToken)
            for kind, each in writes:
                if kind != "ConditionCheck":
                    self._replace(each)
            return []

        if reasons := self._call("TransactWriteItems", write):
            raise cancellation(*reasons)
        return {}

    def query(self, **call: Any) -> dict[str, Any]:
        """Return a page of the items of a partition, in order."""
        values, start = _decoded(call["ExpressionAttributeValues"]), call.get("ExclusiveStartKey")
        pk = values["pk"]
        if "begins_with" in call["KeyConditionExpression"]:
            prefix = str(values["prefix"])
            count = self._call("Query", lambda: sum(held == pk and sk.startswith(prefix) for held, sk in self.items))
            return {"Count": count}
        low, high = str(values["low"]), str(values["high"])
        last = None if start is None else _key(start)[1]
        is_forward = call.get("ScanIndexForward", True)

        def page() -> list[Any]:
            inside = (key for key in self.items if key[0] == pk and low <= key[1] <= high)
            found = sorted(inside, reverse=not is_forward)
            beyond = [key for key in found if last is None or (key[1] > last if is_forward else key[1] < last)]
            return [_encoded(self.items[key]) for key in beyond[: call["Limit"]]]

        items = self._call("Query", page)
        end = {name: items[-1][name] for name in ("pk", "sk")} if len(items) == call["Limit"] else None
        return {"Items": items, **({} if end is None else {"LastEvaluatedKey": end})}

    def _processed(self, operation: str, keys: Sequence[Key], maximum: int) -> int:
        """Return how many entries of a batch are processed; if it is none, DynamoDB refuses the call."""
        if len(set(keys)) < len(keys):
            raise _invalid(operation, "Provided list of item keys contains duplicates")
        if len(keys) > maximum:
            raise _invalid(operation, f"Too many items requested: {len(keys)}")
        processed = len(keys) - self.leave(len(keys))
        if not processed:
            raise refusal("ProvisionedThroughputExceededException", operation)
        return processed

    def _write(self, operation: str, write: "_Write") -> Item:
        """Make a write if its condition holds; return the item after it."""
        written: list[Item] = []

        def effect() -> bool:
            if not write.holds_for(self.items.get(write.key)):
                return False
            written.append(self._replace(write))
            return True

        if not self._call(operation, effect):
            raise refusal("ConditionalCheckFailedException", operation)
        return written[-1]

    def _replace(self, write: "_Write") -> Item:
        """Make a write; return the item after it, which a deletion leaves empty."""
        if after := write.after(self.items.get(write.key)):
            self.items[write.key] = after
        else:
            self.items.pop(write.key, None)
        return after

    def _call(self, operation: str, effect: Callable[[], _T]) -> _T:
        def atomic() -> _T:
            with self._lock:
                return effect()

        result: _T = self.call(operation, atomic)
        return result


MAX_WRITES: Final = 25
MAX_READS: Final = 100
MAX_TRANSACTED: Final = 100
"""Entries of a BatchWriteItem, of a BatchGetItem, and of a TransactWriteItems."""


def cancellation(*codes: str) -> ClientError:
    """Return the error of a cancelled transaction, with a reason for each of its items."""
    error = refusal("TransactionCanceledException", "TransactWriteItems")
    response: Any = error.response
    response["CancellationReasons"] = [{"Code": code} for code in codes]
    return error


class _Write:
    """A put, update, deletion or check of one item, by the parameters of its call."""

    def __init__(self, call: Mapping[str, Any]) -> None:
        self.key = _key(call.get("Item") or call["Key"])
        self._call, self._values = call, _decoded(call.get("ExpressionAttributeValues", {}))
        used = {*_tokens(call.get("ConditionExpression", "")), *_tokens(call.get("UpdateExpression", ""))}
        if unused := {f":{name}" for name in self._values} - used:
            raise _invalid("write", f"Value provided in ExpressionAttributeValues unused in expressions: {unused}")

    def holds_for(self, found: Item | None) -> bool:
        """Return whether the condition, if any, holds for an item."""
        condition = self._call.get("ConditionExpression")
        return condition is None or _Condition(condition, found or {}, self._values).holds()

    def after(self, found: Item | None) -> Item:
        """Return what the write makes of an item; empty if it deletes it."""
        if "Item" in self._call:
            return _decoded(self._call["Item"])
        if "UpdateExpression" not in self._call:
            return {}
        before: Item = found or {"pk": self.key[0], "sk": self.key[1]}
        written = dict(before)
        for name, sign, value in _updates(self._call["UpdateExpression"]):
            more = self._values[value]
            match sign:
                case "= ":
                    written[name] = more
                case "":
                    written[name] = int(before.get(name, 0)) + int(more)
                case _:
                    written[name] = before.get(name, more)
        return written


class _Condition:
    """A condition expression and the item of which it must hold.

    The grammar is that part of DynamoDB's which this project uses
    (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html).
    """

    def __init__(self, text: str, item: Item, values: Item) -> None:
        self._text, self._left, self._item, self._values = text, list(_tokens(text)), item, values

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


@cache
def _tokens(expression: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[<>]=|[#:]?\w+|\S", expression))


@cache
def _updates(expression: str) -> tuple[tuple[str, str, str], ...]:
    """Return each attribute of an update expression, how it is set (added to: an empty text), and the value."""
    return tuple(re.findall(r"#(\w+) (= |= if_not_exists\(#\w+, |):(\w+)", expression))


def _key(item: Mapping[str, Any]) -> Key:
    return item["pk"]["S"], item["sk"]["S"]


def _decoded(item: Mapping[str, Any]) -> Item:
    return {name.removeprefix(":"): int(typed["N"]) if "N" in typed else typed["S"] for name, typed in item.items()}


def _encoded(item: Item) -> dict[str, Any]:
    return {name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in item.items()}


def _invalid(operation: str, message: str) -> ClientError:
    error = refusal("ValidationException", operation)
    error.response["Error"]["Message"] = message
    return error
