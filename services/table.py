"""DynamoDB: one table with the keys `pk` and `sk`."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from services.backoff import pause_seconds
from services.batches import in_batches
from services.errors import FleetsightError
from services.side_by_side import side_by_side

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

BATCH = 25
"""Maximum items of BatchWriteItem."""

PAGE = 500
"""Items that one call of a query reads. DynamoDB would read up to 1 MB, some 4,000 items: with so many in memory at
once, a process stays large.
"""

READ_BATCH = 100
"""Maximum keys of BatchGetItem."""

EXPIRES_AT = "expires_at"
"""Attribute with the item's expiry in epoch seconds. DynamoDB deletes the item later, so readers check it."""

IS_NEW = "attribute_not_exists( #pk )"
"""The condition of an item that does not exist yet."""

LAST = "\U0010ffff"
"""Sorts after every character: `prefix + LAST` is the end of all keys that begin with `prefix`."""

MAX_TRANSACTION_ITEMS = 100
MAX_TRANSACTION_BYTES = 4 << 20
"""Maximum of TransactWriteItems
(https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html)."""

UNKNOWN_ATTEMPTS = 3
"""Calls in total of a transaction with a lost reply, each with all attempts of the client."""

REPEAT_SECONDS = 240.0
"""How long a transaction is repeated: DynamoDB knows its token for ten minutes, and one call may take over five."""

CONFLICT_SECONDS = 0.03
"""Longest first pause after a conflict: the other transaction takes some milliseconds."""

SERVER_FAULT = 500
"""Lowest HTTP status of a fault of the service; the outcome is then unknown, as without a reply."""

BATCH_ATTEMPTS = 8
"""Attempts in total for what a batch leaves unprocessed, and for a write that conflicts with a transaction."""

_T = TypeVar("_T")

Item = Mapping[str, str | int]
"""An item; its attributes are strings and whole numbers."""


class TableBusyError(FleetsightError):
    """Raised when DynamoDB did not process a whole batch, or a transaction, in `BATCH_ATTEMPTS` attempts."""


class TransactionTooLargeError(FleetsightError):
    """Raised when a transaction has more than 100 writes, or more than 4 MB."""


class ConditionsFailedError(FleetsightError):
    """Raised when conditions of a transaction did not hold, so that it wrote nothing.

    Attributes:
        indexes: positions of the writes with a condition that did not hold.
    """

    def __init__(self, indexes: Sequence[int]) -> None:
        """Name the writes."""
        super().__init__(f"the conditions of the writes {[*indexes]} of a transaction did not hold: read the items")
        self.indexes = frozenset(indexes)


CLOUD_ERRORS: Final = (BotoCoreError, ClientError, TableBusyError)
"""The errors of AWS's services and of a table; they pass through."""


THROTTLING_CODES = frozenset(
    {"ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException"}
)
"""Error codes with which DynamoDB throttles
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html)."""


_REFUSED_FOR_NOW: Final = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})
"""Reasons for which a transaction is cancelled that pass."""


def is_throttled(error: Exception) -> bool:
    """Return whether a call failed because DynamoDB throttled it, after all attempts."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    return isinstance(error, TableBusyError) or code in THROTTLING_CODES


@dataclass(frozen=True, kw_only=True)
class _ConditionalWrite:
    """What the writes of a transaction have in common.

    Attributes:
        condition: of the existing item, or None; `#name` is an attribute, and `:name` one of `values`.
    """

    condition: str | None = None
    values: Item | None = None

    def _conditional(self, names: Iterable[str] = (), values: Item | None = None) -> dict[str, Any]:
        """Return the parameters of the condition, with the names and values that the rest of the write uses."""
        words = [word.strip("(),") for word in (self.condition or "").split()]
        used = {word[1:] for word in words if word.startswith("#")} | set(names)
        given = {**(values or {}), **(self.values or {})}
        parameters: dict[str, Any] = {}
        if self.condition:
            parameters["ConditionExpression"] = self.condition
        if used:
            parameters["ExpressionAttributeNames"] = {f"#{name}": name for name in used}
        if given:
            parameters["ExpressionAttributeValues"] = {f":{name}": _value(value) for name, value in given.items()}
        return parameters


@dataclass(frozen=True)
class Put(_ConditionalWrite):
    """The put of an item."""

    item: Item

    def request(self) -> dict[str, Any]:
        """Return the parameters of the write."""
        return {"Item": _encode(self.item), **self._conditional()}


@dataclass(frozen=True)
class Update(_ConditionalWrite):
    """An addition of `amounts` to numbers of an item, and new values of its `attributes`; missing numbers are 0.

    `initial` are values of attributes that are missing.
    """

    pk: str
    sk: str
    amounts: Mapping[str, int]
    attributes: Item
    initial: Item = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """Return the parameters of the write."""
        additions = ", ".join(f"#{name} :more_{name}" for name in self.amounts)
        assignments = ", ".join(
            [f"#{name} = :{name}" for name in self.attributes]
            + [f"#{name} = if_not_exists(#{name}, :{name})" for name in self.initial]
        )
        clauses = (f"ADD {additions}" if additions else "", f"SET {assignments}" if assignments else "")
        more = {f"more_{name}": amount for name, amount in self.amounts.items()}
        return {
            "Key": _key(self.pk, self.sk),
            "UpdateExpression": " ".join(filter(None, clauses)),
            **self._conditional(
                (*self.amounts, *self.attributes, *self.initial), {**more, **self.attributes, **self.initial}
            ),
        }


@dataclass(frozen=True)
class Delete(_ConditionalWrite):
    """The deletion of an item."""

    pk: str
    sk: str

    def request(self) -> dict[str, Any]:
        """Return the parameters of the write."""
        return {"Key": _key(self.pk, self.sk), **self._conditional()}


@dataclass(frozen=True)
class ConditionCheck(Delete):
    """A condition on an item that the transaction does not write."""


TransactedWrite = Put | Update | Delete | ConditionCheck


@dataclass(frozen=True)
class Table:
    """One table. botocore's errors pass through once its retries are spent.

    Attributes:
        pool: makes the calls for the batches of one operation side by side; None: one after another.
    """

    client: "DynamoDBClient"
    name: str
    sleep: Callable[[float], None] = time.sleep
    pool: Executor | None = None
    monotonic: Callable[[], float] = time.monotonic

    def put_all(self, items: Sequence[Item]) -> None:
        """Put `items`, replacing existing ones, in batches of 25.

        Raises:
            TableBusyError: some could not be put; the others were. Putting all again is safe.
        """
        self._write_all([_put_request(item) for item in items])

    def put_each(self, items: Sequence[Item]) -> list[tuple[Item, Exception]]:
        """Put `items` in batches of 25, and try each batch once; return those that were not put, with the reason.

        The reason is a `TableBusyError` if DynamoDB processed a part of the batch, else the error of the whole batch.
        """

        def put_batch(batch: Sequence[Item]) -> list[tuple[Item, Exception]]:
            try:
                left = self._write_batch([_put_request(item) for item in batch])
            except (BotoCoreError, ClientError) as error:
                return [(item, error) for item in batch]
            busy = TableBusyError(f"the table {self.name!r} left {len(left)} of {len(batch)} items")
            keys = {(each["PutRequest"]["Item"]["pk"]["S"], each["PutRequest"]["Item"]["sk"]["S"]) for each in left}
            return [(item, busy) for item in batch if (item["pk"], item["sk"]) in keys]

        return [each for left in side_by_side(self.pool, put_batch, in_batches(items, BATCH)) for each in left]

    def delete_all(self, keys: Sequence[tuple[str, str]]) -> None:
        """Delete the items with these `(pk, sk)`, in batches of 25; missing ones are ignored.

        Raises:
            TableBusyError: some could not be deleted; deleting all again is safe.
        """
        self._write_all([{"DeleteRequest": {"Key": _key(pk, sk)}} for pk, sk in keys])

    def _write_all(self, requests: list[Any]) -> None:
        side_by_side(
            self.pool, lambda batch: self._complete(batch, self._write_batch, "items"), in_batches(requests, BATCH)
        )

    def _write_batch(self, batch: list[Any]) -> list[Any]:
        """Write a batch; return the part of it that DynamoDB did not process."""
        reply = self.client.batch_write_item(RequestItems={self.name: batch})
        return list(reply.get("UnprocessedItems", {}).get(self.name, []))

    def _complete(self, batch: list[Any], call: Callable[[list[Any]], list[Any]], what: str) -> None:
        """Make `call` for a batch, and again for the part of it that DynamoDB did not process, which it returns."""
        for attempt in range(BATCH_ATTEMPTS):
            self._pause_before(attempt)
            batch = call(batch)
            if not batch:
                return
        raise self._busy(f"{len(batch)} {what}")

    def put_if(self, item: Item, condition: str, values: Item | None = None) -> bool:
        """Put `item` if `condition` holds for the existing item (`#name` is an attribute); return whether it did.

        False may also mean that the reply was lost and the client repeated the call: the condition does not hold for
        its own item. A caller to which this matters reads the item.
        """
        request = Put(item, condition=condition, values=values).request()
        return self._reply_if(self.client.put_item, **request) is not None

    def put_fenced(self, item: Item, token: int) -> bool:
        """Put `item` with a fencing `token` unless it was stored with a later one; return whether it is stored."""
        free = "attribute_not_exists( #token ) OR #token <= :token"
        return self.put_if({**item, "token": token}, free, {"token": token})

    def delete_if(self, pk: str, sk: str, condition: str, values: Item | None = None) -> bool:
        """Delete an item if `condition` holds for it; return whether it did."""
        request = Delete(pk, sk, condition=condition, values=values).request()
        return self._reply_if(self.client.delete_item, **request) is not None

    def set(
        self, pk: str, sk: str, attributes: Item, condition: str | None = None, values: Item | None = None
    ) -> bool:
        """Set some attributes of an item and leave the others; return whether `condition`, if any, held.

        In `condition`, `#a` is the attribute a, and `:a` its new value, or one of `values`.
        """
        request = Update(pk, sk, {}, attributes, condition=condition, values=values).request()
        return self._reply_if(self.client.update_item, **request) is not None

    def add(
        self,
        pk: str,
        sk: str,
        amounts: Mapping[str, int],
        attributes: Item,
        condition: str | None = None,
        values: Item | None = None,
    ) -> Item | None:
        """Add `amounts` to numbers of an item and set some of its `attributes`, atomically.

        Missing numbers and a missing item count as 0. Returns the new item, or None if `condition` (as for `put_if`)
        did not hold and nothing was changed.
        """
        request = Update(pk, sk, amounts, attributes, condition=condition, values=values).request()
        reply = self._reply_if(self.client.update_item, ReturnValues="ALL_NEW", **request)
        return None if reply is None else _decode(reply["Attributes"])

    def _reply_if(self, call: Callable[..., Any], **request: Any) -> Any:
        """Make a call for an item of this table; return its reply, or None if its condition, if any, did not hold.

        Raises:
            TableBusyError: a transaction had the item in each of `BATCH_ATTEMPTS` attempts.
        """
        for attempt in range(BATCH_ATTEMPTS):
            self._pause_before(attempt)
            try:
                return call(TableName=self.name, **request)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "ConditionalCheckFailedException":
                    return None
                if code != "TransactionConflictException":
                    raise
        raise self._busy("one item")

    def transact(self, *writes: TransactedWrite, attempts: int = BATCH_ATTEMPTS) -> None:
        """Make all of `writes`, each of another item, or none of them.

        A transaction that conflicts with another write is repeated, and one of unknown outcome as well: by its token
        DynamoDB makes it once. Any other error than those below leaves the outcome unknown: read the items then.

        Raises:
            ConditionsFailedError: some conditions did not hold; nothing is written.
            TransactionTooLargeError: nothing is written.
            TableBusyError: so many `attempts` were refused, by conflicts or throttling; nothing is written.
        """
        _check_size(writes)
        entries: list[Any] = [{type(each).__name__: {"TableName": self.name, **each.request()}} for each in writes]
        token, until = str(uuid4()), self.monotonic() + REPEAT_SECONDS
        for attempt in range(attempts):
            self._pause_before(attempt, first=CONFLICT_SECONDS)
            try:
                self.client.transact_write_items(TransactItems=entries, ClientRequestToken=token)
            except (BotoCoreError, ClientError) as error:
                response: Any = error.response if isinstance(error, ClientError) else {}
                codes = [reason.get("Code") for reason in response.get("CancellationReasons", [])]
                if failed := [index for index, code in enumerate(codes) if code == "ConditionalCheckFailed"]:
                    raise ConditionsFailedError(failed) from error
                metadata = response.get("ResponseMetadata", {"HTTPStatusCode": SERVER_FAULT})
                # A refusal of a repeated call says nothing about the first one, of which the reply was lost.
                is_unknown = metadata["HTTPStatusCode"] >= SERVER_FAULT or metadata.get("RetryAttempts", 0) > 0
                may_repeat = is_unknown and attempt < min(attempts, UNKNOWN_ATTEMPTS) - 1
                if not (may_repeat or _REFUSED_FOR_NOW.intersection(codes)) or self.monotonic() > until:
                    raise
            else:
                return
        raise self._busy(f"a transaction of {len(writes)} items", attempts)

    def _pause_before(self, attempt: int, first: float = 0.1) -> None:
        """Wait before an attempt that repeats others, which are numbered from 0."""
        if attempt:
            self.sleep(pause_seconds(attempt, first, maximum=5.0))

    def _busy(self, left: str, attempts: int = BATCH_ATTEMPTS) -> TableBusyError:
        return TableBusyError(f"the table {self.name!r} left {left} after {attempts} attempts; try again later")

    def get(self, pk: str, sk: str) -> Item | None:
        """Return one item, read consistently, or None."""
        reply = self.client.get_item(TableName=self.name, Key=_key(pk, sk), ConsistentRead=True)
        return _decode(reply["Item"]) if "Item" in reply else None

    def get_each(self, keys: Sequence[tuple[str, str]]) -> tuple[list[Item], list[tuple[tuple[str, str], Exception]]]:
        """Read the items of `keys`, `(pk, sk)` each once, 100 a call, and try each call once.

        Returns the existing items, in no order, and the keys that were not read, with the reason: a `TableBusyError`
        if DynamoDB processed a part of the call, else the error of the whole call.
        """

        def read(batch: list[tuple[str, str]]) -> tuple[list[Item], list[tuple[tuple[str, str], Exception]]]:
            try:
                found, left = self._read_batch([_key(pk, sk) for pk, sk in batch])
            except (BotoCoreError, ClientError) as error:
                return [], [(key, error) for key in batch]
            busy = TableBusyError(f"the table {self.name!r} left {len(left)} of {len(batch)} keys unread")
            return found, [((each["pk"]["S"], each["sk"]["S"]), busy) for each in left]

        replies = side_by_side(self.pool, read, in_batches(keys, READ_BATCH))
        return [item for found, _ in replies for item in found], [each for _, left in replies for each in left]

    def get_all(self, keys: Sequence[tuple[str, str]]) -> list[Item]:
        """Return the existing items of `keys`, `(pk, sk)` each once, read consistently, 100 a call, in no order.

        Raises:
            TableBusyError: some could not be read.
        """
        found: list[Item] = []

        def read(batch: list[Any]) -> list[Any]:
            items, left = self._read_batch(batch)
            found.extend(items)
            return left

        batches = in_batches([_key(pk, sk) for pk, sk in keys], READ_BATCH)
        side_by_side(self.pool, lambda batch: self._complete(batch, read, "keys unread"), batches)
        return found

    def _read_batch(self, batch: list[Any]) -> tuple[list[Item], list[Any]]:
        """Return the existing items of a batch of keys, and the part of it that DynamoDB did not process."""
        reply = self.client.batch_get_item(RequestItems={self.name: {"Keys": batch, "ConsistentRead": True}})
        left = reply.get("UnprocessedKeys", {}).get(self.name)
        found = [_decode(item) for item in reply["Responses"].get(self.name, [])]
        return found, list(left["Keys"]) if left else []

    def query(
        self,
        pk: str,
        low: str,
        high: str,
        *,
        limit: int | None = None,
        first_page: int = PAGE,
        newest_first: bool = False,
    ) -> Iterator[Item]:
        """Yield the items of `pk` with a sort key from `low` to `high`, both included, read consistently.

        At most `limit` of them; `first_page` in the first call, and twice as many in each further one, up to `PAGE`;
        from `high` down when `newest_first`.
        """
        pages = self._pages(
            KeyConditionExpression="pk = :pk AND sk BETWEEN :low AND :high",
            ExpressionAttributeValues={":pk": {"S": pk}, ":low": {"S": low}, ":high": {"S": high}},
            ScanIndexForward=not newest_first,
            Limit=first_page if limit is None else min(limit, first_page),
        )
        items = (_decode(item) for page in pages for item in page["Items"])
        yield from items if limit is None else islice(items, limit)

    def count(self, pk: str, prefix: str) -> int:
        """Return how many items of `pk` have a sort key that begins with `prefix`."""
        pages = self._pages(
            KeyConditionExpression="pk = :pk AND begins_with(sk, :prefix)",
            ExpressionAttributeValues={":pk": {"S": pk}, ":prefix": {"S": prefix}},
            Select="COUNT",
        )
        return sum(page["Count"] for page in pages)

    def _pages(self, **query: Any) -> Iterator[Any]:
        """Yield the pages of a query; botocore's paginator would take as much CPU as the call."""
        start: dict[str, Any] = {}
        while True:
            page = self.client.query(TableName=self.name, ConsistentRead=True, **query, **start)
            yield page
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
            if "Limit" in query:
                query["Limit"] = min(PAGE, 2 * query["Limit"])


def _check_size(writes: Sequence[TransactedWrite]) -> None:
    """Raise `TransactionTooLargeError` if DynamoDB would refuse a transaction for its size."""
    remedy = "write them in several transactions"
    if len(writes) > MAX_TRANSACTION_ITEMS:
        raise TransactionTooLargeError(
            f"a transaction takes at most {MAX_TRANSACTION_ITEMS} items, not {len(writes):,}: {remedy}"
        )
    written = [each.item if isinstance(each, Put) else getattr(each, "attributes", {}) for each in writes]
    size = sum(len(f"{name}{value}".encode()) for item in written for name, value in item.items())
    if size > MAX_TRANSACTION_BYTES:
        raise TransactionTooLargeError(
            f"the items of a transaction have at most {MAX_TRANSACTION_BYTES:,} bytes, not {size:,}: {remedy}"
        )


def _put_request(item: Item) -> Any:
    return {"PutRequest": {"Item": _encode(item)}}


def _key(pk: str, sk: str) -> Any:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _value(value: str | int) -> Any:
    return {"N": str(value)} if isinstance(value, int) else {"S": value}


def _encode(item: Item) -> Any:
    return {name: _value(value) for name, value in item.items()}


def _decode(item: Any) -> Item:
    return {
        name: int(typed["N"]) if "N" in typed else str(typed["S"])
        for name, typed in item.items()
        if "N" in typed or "S" in typed
    }
