"""Batch calls of which only a part is processed, as AWS answers them under load.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_BatchResultErrorEntry.html
https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
"""

import io
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from localcloud.dispatch import DirectResponse, ErrorReason, error_response, operation_of, read_body
from localcloud.page_guard import WsgiApp

_OBJECT = re.compile(rb"<Object>.*?</Object>", re.DOTALL)
_OF_THE_BODY: Final = frozenset({"content-length", "x-amz-crc32"})
"""Headers of a reply that do not fit its changed body."""

_FAILED: Final = {"SenderFault": False, "Code": "InternalError", "Message": "left out by the switch `faults`"}
_Send = Callable[[bytes], DirectResponse]


def answer_in_part(aws: WsgiApp, service: str, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Let `aws` process the first half of a batch, rounded down, and report the rest. Other calls are whole."""
    body, reply = read_body(environ), None

    def send(part: bytes) -> DirectResponse:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        of_part = {**environ, "wsgi.input": io.BytesIO(part), "CONTENT_LENGTH": str(len(part))}
        of_part.pop("HTTP_CONTENT_MD5", None)
        content = b"".join(aws(of_part, lambda status, headers, *_: started.append((status, headers))))
        status, headers = started[0]
        return DirectResponse([each for each in headers if each[0].lower() not in _OF_THE_BODY], content, status)

    match service, operation_of(service, environ):
        case "sqs", "SendMessageBatch" | "DeleteMessageBatch" | "ChangeMessageVisibilityBatch":
            reply = _entries_in_part(json.loads(body), send)
        case "dynamodb", "BatchWriteItem":
            reply = _items_in_part(json.loads(body), send, "UnprocessedItems")
        case "dynamodb", "BatchGetItem":
            reply = _items_in_part(json.loads(body), send, "UnprocessedKeys")
        case "s3", "POST" if "delete" in environ.get("QUERY_STRING", ""):
            reply = _objects_in_part(body, send)
        case _:
            return aws(environ, start_response)
    reply = reply or error_response(environ, service, ErrorReason.THROTTLED, "The level of throughput is exceeded.")
    return reply.send(start_response)


def _entries_in_part(call: dict[str, Any], send: _Send) -> DirectResponse:
    entries = call["Entries"]
    half = len(entries) // 2
    failed = [{"Id": entry["Id"], **_FAILED} for entry in entries[half:]]
    if not half:
        return _with_json(DirectResponse([("Content-Type", "application/x-amz-json-1.0")]), {"Failed": failed})
    reply = send(json.dumps(call | {"Entries": entries[:half]}).encode())
    if not reply.status.startswith("200"):
        return reply
    result = json.loads(bytes(reply.body))
    return _with_json(reply, result | {"Failed": [*result.get("Failed", []), *failed]})


def _items_in_part(call: dict[str, Any], send: _Send, unprocessed: str) -> DirectResponse | None:
    """Answer a batch of DynamoDB; None if it can process no item: DynamoDB then refuses the call."""
    kept, left = dict[str, Any](), dict[str, Any]()
    for table, asked in call["RequestItems"].items():
        entries = asked["Keys"] if unprocessed == "UnprocessedKeys" else asked
        half = len(entries) // 2
        for part, some in ((kept, entries[:half]), (left, entries[half:])):
            if some:
                part[table] = some if entries is asked else asked | {"Keys": some}
    if not kept:
        return None
    reply = send(json.dumps(call | {"RequestItems": kept}).encode())
    if not reply.status.startswith("200"):
        return reply
    return _with_json(reply, json.loads(bytes(reply.body)) | {unprocessed: left})


def _objects_in_part(body: bytes, send: _Send) -> DirectResponse:
    """Answer a DeleteObjects of S3, which names each object that it did not delete."""
    objects = _OBJECT.findall(body)
    left = objects[len(objects) // 2 :]
    errors = b"".join(_error_of(each) for each in left)
    if len(left) == len(objects):
        return DirectResponse([("Content-Type", "application/xml")], b"<DeleteResult>" + errors + b"</DeleteResult>")
    for each in left:
        body = body.replace(each, b"", 1)
    reply = send(body)
    content = bytes(reply.body).replace(b"</DeleteResult>", errors + b"</DeleteResult>")
    return DirectResponse(reply.headers, content, reply.status)


def _error_of(listed: bytes) -> bytes:
    key = listed.removeprefix(b"<Object>").removesuffix(b"</Object>")
    return b"<Error>" + key + b"<Code>InternalError</Code><Message>left out by the switch `faults`</Message></Error>"


def _with_json(reply: DirectResponse, result: dict[str, Any]) -> DirectResponse:
    return DirectResponse(reply.headers, json.dumps(result).encode(), reply.status)
