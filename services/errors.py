"""The base of Fleetsight's errors, and the errors of services that callers can handle."""

import re


class FleetsightError(Exception):
    """Base of every error that Fleetsight raises itself."""


class ConfigError(FleetsightError):
    """Raised when the configuration is unusable; the message names each key, its value and what is allowed."""


class MessageError(FleetsightError):
    """Raised when a message, record or stored object cannot be parsed."""


class NotFoundError(FleetsightError):
    """Raised when the requested object, job or image does not exist."""


class ObjectTooLargeError(FleetsightError):
    """Raised when an object is larger than its reader accepts; `size` is in bytes."""

    def __init__(self, key: str, size: int, max_bytes: int) -> None:
        super().__init__(f"the object {key!r} has {size} bytes, more than the {max_bytes} that are read")
        self.size = size


class ObjectRefusedError(FleetsightError):
    """Raised when S3 does not return a user's object, which is no fault of the system; `code` is S3's error code."""

    def __init__(self, code: str) -> None:
        super().__init__(f"S3 does not return the object: {code}")
        self.code = code


class SourceUnavailableError(FleetsightError):
    """Raised when S3 fails to return a user's object: their bucket may be at fault, and the image is not."""


class ListingError(FleetsightError):
    """Raised when S3 lists no object again and again, and says each time that there are more."""


class MetadataError(FleetsightError):
    """Raised when the instance metadata service does not respond, as on a machine that is no EC2 instance."""


class LaunchError(FleetsightError):
    """Raised when EC2 rejects a launch.

    Attributes:
        code: EC2's error code, such as InsufficientInstanceCapacity.
        retries: number of earlier attempts that botocore made of this call. One that got no response may have
            launched instances.
    """

    def __init__(self, code: str, message: str, retries: int = 0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retries = retries


def readable(message: str) -> str:
    """Return AWS's message about a denied call without its encoded part, which is a thousand characters long."""
    return re.sub(r"\s*Encoded authorization failure message: \S+", "", message)
