"""Error responses with the code, status and format of each service."""

import json
from dataclasses import replace
from enum import Enum
from typing import Any
from xml.sax.saxutils import escape

from localcloud.dispatch import DirectResponse, request_id

_XML = ("Content-Type", "text/xml")


class Reason(Enum):
    """The reason of an error, with the error code of S3, EC2, the Query protocol and the JSON protocol.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
    https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
    """

    DENIED = ("AccessDenied", "UnauthorizedOperation", "AccessDenied", "AccessDeniedException")
    UNSIGNED = (
        "AccessDenied",
        "MissingAuthenticationToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
    )
    UNKNOWN_KEY = ("InvalidAccessKeyId", "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException")
    WRONG_SIGNATURE = ("SignatureDoesNotMatch", "AuthFailure", "SignatureDoesNotMatch", "InvalidSignatureException")
    SKEWED = ("RequestTimeTooSkewed", "RequestExpired", "RequestExpired", "InvalidSignatureException")
    EXPIRED = ("AccessDenied", "RequestExpired", "RequestExpired", "InvalidSignatureException")
    TOKEN_EXPIRED = ("ExpiredToken", "RequestExpired", "ExpiredToken", "ExpiredTokenException")
    THROTTLED = ("SlowDown", "RequestLimitExceeded", "ThrottlingException", "ThrottlingException")
    UNAVAILABLE = ("ServiceUnavailable", "Unavailable", "ServiceUnavailable", "ServiceUnavailable")

    def status(self, service: str) -> str | None:
        """Return the status line of the answer, or None for the usual status of the protocol's errors."""
        if self is Reason.UNAVAILABLE or (self is Reason.THROTTLED and service in {"s3", "ec2"}):
            return "503 Service Unavailable"
        return "400 Bad Request" if self in {Reason.TOKEN_EXPIRED, Reason.THROTTLED} else None


def error_response(environ: dict[str, Any], service: str, reason: Reason, message: str) -> DirectResponse:
    """Return the answer to a request that is denied or meets a fault.

    S3, EC2 and the Query protocol answer 403, each in its own XML, and the JSON protocol 400, with the code in the
    body. SQS, which used the Query protocol before, also has that code in a header and answers 403.
    """
    answer = _response_of(environ, service, reason, message)
    return replace(answer, status=reason.status(service) or answer.status)


def _response_of(environ: dict[str, Any], service: str, reason: Reason, message: str) -> DirectResponse:
    s3, ec2, query, in_json = reason.value
    if "HTTP_X_AMZ_TARGET" in environ:
        if service == "sqs" and reason is Reason.DENIED:
            return _json("com.amazonaws.sqs#AccessDenied", message, "AccessDenied")
        return _json(f"com.amazon.coral.service#{in_json}", message, query if service == "sqs" else None)
    if service == "s3":
        return _s3(environ, s3, message)
    return _ec2(ec2, message) if service == "ec2" else _query(query, message)


def _json(kind: str, message: str, query_code: str | None) -> DirectResponse:
    headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-RequestId", request_id())]
    headers += [("x-amzn-query-error", f"{query_code};Sender")] if query_code else []
    body = json.dumps({"__type": kind, "message": message, "Message": message}).encode()
    return DirectResponse(headers, body, "403 Forbidden" if query_code else "400 Bad Request")


def _s3(environ: dict[str, Any], code: str, message: str) -> DirectResponse:
    identity = request_id()
    error = f"<Code>{code}</Code><Message>{escape(message)}</Message><RequestId>{identity}</RequestId>"
    told = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{error}</Error>'
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else told.encode()
    return DirectResponse(
        [("Content-Type", "application/xml"), ("x-amz-request-id", identity)], body, "403 Forbidden"
    )


def _ec2(code: str, message: str) -> DirectResponse:
    begin = "You are not authorized to perform this operation. " if code == "UnauthorizedOperation" else ""
    error = f"<Error><Code>{code}</Code><Message>{begin}{escape(message)}</Message></Error>"
    body = f"<Response><Errors>{error}</Errors><RequestID>{request_id()}</RequestID></Response>"
    return DirectResponse([_XML], body.encode(), "403 Forbidden")


def _query(code: str, message: str) -> DirectResponse:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    body = f"<ErrorResponse>{error}<RequestId>{request_id()}</RequestId></ErrorResponse>"
    return DirectResponse([_XML], body.encode(), "403 Forbidden")
