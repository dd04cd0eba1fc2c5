"""DynamoDB: list_amazondynamodb.html. A batch asks of each table in it, a transaction for the action of each item."""

from collections.abc import Iterable
from typing import Any

from localcloud.iam.calls import Call
from localcloud.iam.documents import Asked

_BATCHES = frozenset({"BatchGetItem", "BatchWriteItem"})
_TRANSACTIONS = frozenset({"TransactGetItems", "TransactWriteItems"})
_SINGLE = {
    "ConditionCheck": "ConditionCheckItem",
    "Delete": "DeleteItem",
    "Get": "GetItem",
    "Put": "PutItem",
    "Update": "UpdateItem",
}


def questions(call: Call) -> Iterable[Asked]:
    """Yield what a call asks for, of each table or index that it names."""
    return [Asked(f"dynamodb:{action}", resource, {}) for action, resource in dict.fromkeys(_pairs(call))]


def _pairs(call: Call) -> Iterable[tuple[str, str]]:
    operation, parameters = call.operation, call.parameters
    if operation in _BATCHES:
        return [(operation, _table(call, name)) for name in parameters.get("RequestItems", {})]
    if operation in _TRANSACTIONS:
        parts = [part for item in parameters.get("TransactItems", []) for part in item.items()]
        return [(_SINGLE[kind], _table(call, part["TableName"])) for kind, part in parts]
    return [(operation, _resource(call, parameters))]


def _resource(call: Call, parameters: dict[str, Any]) -> str:
    named = parameters.get("TableName") or parameters.get("ResourceArn")
    if not named:
        return "*"
    index = parameters.get("IndexName")
    return f"{_table(call, named)}/index/{index}" if index else _table(call, named)


def _table(call: Call, named: str) -> str:
    return named if named.startswith("arn:") else call.arn("dynamodb", f"table/{named}")
