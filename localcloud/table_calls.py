"""DynamoDB's calls on items, handed to moto's handler without the parsing, routing and serializing around it.

moto's handler still validates, evaluates and stores. What goes is the reading of URL, headers and body by general
rules, and the walk through the shape of an answer that is JSON already.
"""

import base64
import binascii
import json
import re
from typing import Any

from moto.core.exceptions import ServiceException
from moto.dynamodb.responses import DynamoHandler
from werkzeug.exceptions import HTTPException

from localcloud.dispatch import DirectRequest, DirectResponse, json_answer

_METHODS = {
    "BatchGetItem": "batch_get_item",
    "BatchWriteItem": "batch_write_item",
    "DeleteItem": "delete_item",
    "GetItem": "get_item",
    "PutItem": "put_item",
    "Query": "query",
    "UpdateItem": "update_item",
}
_PARAMETERS: dict[str, type] = {
    "ConditionExpression": str,
    "ConsistentRead": bool,
    "ExclusiveStartKey": dict,
    "ExpressionAttributeNames": dict,
    "ExpressionAttributeValues": dict,
    "Item": dict,
    "Key": dict,
    "KeyConditionExpression": str,
    "Limit": int,
    "RequestItems": dict,
    "ScanIndexForward": bool,
    "Select": str,
    "TableName": str,
    "UpdateExpression": str,
}
_MEMBERS = frozenset(
    {
        "Attributes",
        "ConsumedCapacity",
        "Count",
        "Item",
        "ItemCollectionMetrics",
        "Items",
        "LastEvaluatedKey",
        "Responses",
        "ScannedCount",
        "UnprocessedItems",
        "UnprocessedKeys",
    }
)
"""Of what moto's handler returns, that which belongs to an answer; the rest is lost in stock's serializing."""

_BINARY = re.compile(rb'"BS?"\s*:')  # base64 on the wire, bytes in moto


def answer(request: DirectRequest) -> DirectResponse | None:
    """Answer a plain call on items, or return None where stock moto must.

    What moto refuses is asked of stock moto again, which words the refusal: nothing was written, or, of a batch of
    puts and deletes, what is then written once more.
    """
    method = _METHODS.get(request.target)
    if method is None or _BINARY.search(request.read_body()):
        return None
    parameters = request.read_json()
    if not parameters or any(type(value) is not _PARAMETERS.get(name) for name, value in parameters.items()):
        return None
    try:
        result = getattr(_handler(request, parameters), method)().result
    except (ServiceException, HTTPException):
        return None
    return _encoded({name: member for name, member in result.items() if name in _MEMBERS})


def _handler(request: DirectRequest, parameters: dict[str, Any]) -> DynamoHandler:
    handler = DynamoHandler()
    handler.current_account, handler.region = request.account, request.region
    handler.body = handler.params = parameters
    return handler


def _encoded(result: Any) -> DirectResponse:
    body = json.dumps(result, default=lambda binary: base64.b64encode(binary).decode()).encode()
    checksum = ("x-amz-crc32", str(binascii.crc32(body)))
    return json_answer(body, checksum)
