"""The errors that services raise: one small tree, so that a caller catches what it can act on."""


class FleetsightError(Exception):
    """Base of every error that Fleetsight raises itself."""


class ConfigError(FleetsightError):
    """Raised when the configuration is unusable; the message names each key, its value and what is allowed."""


class MessageError(FleetsightError):
    """Raised when a message, record or object of ours cannot be understood."""


class NotFoundError(FleetsightError):
    """Raised when the object, job or image that was asked for does not exist."""


class ObjectTooLargeError(FleetsightError):
    """Raised when an object is larger than its reader takes; `size` is in bytes."""

    def __init__(self, key: str, size: int, max_bytes: int) -> None:
        super().__init__(f"the object {key!r} has {size} bytes, more than the {max_bytes} that are read")
        self.size = size


class MetadataError(FleetsightError):
    """Raised when the instance metadata service does not answer, as on a machine that is no instance."""


class LaunchError(FleetsightError):
    """Raised when EC2 refuses a launch; `code` is EC2's own, such as InsufficientInstanceCapacity.

    `retries` says how often botocore has made the call again by itself before: of those calls, which went without an
    answer, one may have succeeded.
    """

    def __init__(self, code: str, message: str, retries: int = 0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retries = retries
