"""How CloudFormation refuses a request."""

from moto.core.exceptions import ServiceException


class StackError(ServiceException):  # type: ignore[misc]
    """Raised when CloudFormation refuses a request, or a resource cannot be created or deleted.

    Args:
        code: CloudFormation's error code, if it is another one than ValidationError.
        message: the reason, as the caller sees it.
    """

    code = "ValidationError"
