"""How a stack is refused."""


class StackError(Exception):
    """Raised when CloudFormation refuses a request.

    Args:
        message: what is wrong, as the caller is told.
        code: CloudFormation's error code.
    """

    def __init__(self, message: str, code: str = "ValidationError") -> None:
        super().__init__(message)
        self.code = code


class ResourceError(Exception):
    """Raised when a resource cannot be made, changed or deleted; the message is the reason in its event."""
