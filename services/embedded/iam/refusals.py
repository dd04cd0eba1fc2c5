"""A denial as the service that was asked would word and number it."""

import json
from typing import Any
from xml.sax.saxutils import escape

from services.embedded.direct import Answer, request_id

_XML = ("Content-Type", "text/xml")


def refusal(environ: dict[str, Any], service: str, message: str) -> Answer:
    """Return the answer to a request that was denied.

    S3, EC2 and the Query protocol answer 403 in XML of their own each; the JSON protocol 400, with the code in the
    body; and SQS, which spoke Query once, says that code in a header too and answers 403.
    """
    if "HTTP_X_AMZ_TARGET" in environ:
        return _json(service, message)
    return {"s3": _s3, "ec2": _ec2}.get(service, _query)(environ, message)


def unsigned() -> Answer:
    """Return the answer to a request in the JSON protocol that nobody signed, and somebody has to."""
    body = {"__type": "MissingAuthenticationTokenException", "message": "Missing Authentication Token"}
    headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-RequestId", request_id())]
    return Answer(headers, json.dumps(body).encode(), "400 Bad Request")


def _json(service: str, message: str) -> Answer:
    sqs = service == "sqs"
    code = "com.amazonaws.sqs#AccessDenied" if sqs else "com.amazon.coral.service#AccessDeniedException"
    headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-RequestId", request_id())]
    headers += [("x-amzn-query-error", "AccessDenied;Sender")] if sqs else []
    body = json.dumps({"__type": code, "message": message, "Message": message}).encode()
    return Answer(headers, body, "403 Forbidden" if sqs else "400 Bad Request")


def _s3(environ: dict[str, Any], message: str) -> Answer:
    identity = request_id()
    error = f"<Code>AccessDenied</Code><Message>{escape(message)}</Message><RequestId>{identity}</RequestId>"
    told = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{error}</Error>'
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else told.encode()
    return Answer([("Content-Type", "application/xml"), ("x-amz-request-id", identity)], body, "403 Forbidden")


def _ec2(_environ: dict[str, Any], message: str) -> Answer:
    said = f"You are not authorized to perform this operation. {escape(message)}"
    error = f"<Error><Code>UnauthorizedOperation</Code><Message>{said}</Message></Error>"
    body = f"<Response><Errors>{error}</Errors><RequestID>{request_id()}</RequestID></Response>"
    return Answer([_XML], body.encode(), "403 Forbidden")


def _query(_environ: dict[str, Any], message: str) -> Answer:
    error = f"<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{escape(message)}</Message></Error>"
    body = f"<ErrorResponse>{error}<RequestId>{request_id()}</RequestId></ErrorResponse>"
    return Answer([_XML], body.encode(), "403 Forbidden")
