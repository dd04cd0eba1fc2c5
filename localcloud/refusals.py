"""EC2's errors as EC2 answers them: client errors with HTTP 400, want of capacity and throttling as the server's own.

Clients retry the latter by themselves, so the status is a part of what a program must get along with.
"""

from http import HTTPStatus
from xml.sax.saxutils import escape

from moto.ec2.exceptions import EC2ClientError
from werkzeug.exceptions import HTTPException

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html, "Server errors"
_SERVER_ERRORS = {
    "InsufficientInstanceCapacity": HTTPStatus.INTERNAL_SERVER_ERROR,
    "InternalError": HTTPStatus.INTERNAL_SERVER_ERROR,
    "RequestLimitExceeded": HTTPStatus.SERVICE_UNAVAILABLE,
    "ServiceUnavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "Unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}
_MESSAGES = {
    "InsufficientInstanceCapacity": "We currently do not have sufficient capacity.",
    "InternalError": "An internal error has occurred",
    "MaxSpotInstanceCountExceeded": "Max spot instance count exceeded",
    "RequestLimitExceeded": "Request limit exceeded.",
    "VcpuLimitExceeded": "You have requested more vCPU capacity than your current vCPU limit allows.",
}


class ServerError(HTTPException):
    """Raised where EC2 answers with an error of its own, which clients try again."""

    def __init__(self, code: str, message: str) -> None:
        error = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
        request = "<RequestID>00000000-0000-0000-0000-000000000000</RequestID>"
        super().__init__(f"<Response><Errors>{error}</Errors>{request}</Response>")
        self.code = int(_SERVER_ERRORS[code])
        self.error_code = code


def refusal(code: str, message: str | None = None) -> ServerError | EC2ClientError:
    """Return what to raise for an error code of EC2.

    Args:
        code: such as VcpuLimitExceeded.
        message: what it says; None for EC2's own words, or a sentence that names the switch.
    """
    told = message or _MESSAGES.get(code, "Refused, since the local cloud's switch launch_error says so.")
    return ServerError(code, told) if code in _SERVER_ERRORS else EC2ClientError(code, told)
