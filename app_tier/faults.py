"""What an error means: which of image, worker and services is at fault, and so what follows."""

import errno
import re
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, NoCredentialsError

from app_tier.bundle.errors import EngineError
from core.confined.errors import PoolUnavailableError
from core.image_errors import ImageRejectedError
from core.messages import GONE, Failure
from services.errors import NotFoundError

_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "KMS.AccessDeniedException",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
_MISSING = frozenset({"NoSuchBucket", "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_SKEW_TEXT = re.compile(r"Signature (expired|not yet current)", re.IGNORECASE)
"""What services say of a wrong clock under codes that also mean wrong credentials.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
"""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE})


@dataclass(frozen=True)
class ImageFault:
    """The image cannot be classified, here or anywhere: its owner is told why."""

    failure: Failure

    @property
    def reason(self) -> str:
        """The same for the log."""
        return self.failure.message


@dataclass(frozen=True)
class FatalError:
    """This worker cannot go on: it gives back what it holds and ends with the reason."""

    reason: str


@dataclass(frozen=True)
class ServiceFault:
    """S3 or SQS does not answer, or is busy. No image is at fault."""

    reason: str


@dataclass(frozen=True)
class LocalFault:
    """The engine or the processes that decode do not work on this worker. No image is at fault."""

    reason: str


@dataclass(frozen=True)
class UnknownFault:
    """Any other error: the image, this worker or the program may be at fault."""

    reason: str


TransientError = ServiceFault | LocalFault | UnknownFault
"""Faults that may be gone at the next try."""

Fault = ImageFault | FatalError | TransientError


def meaning_of(error: Exception) -> Fault:  # noqa: PLR0911 (one return for each kind of error)
    """Return what an error of a step means, once botocore's own retries are spent."""
    reason = f"{type(error).__name__}: {error}"
    match error:
        case ImageRejectedError():
            return ImageFault(Failure(code=error.code, message=error.message))
        case NotFoundError():
            return ImageFault(GONE)
        case MemoryError():
            return FatalError("out of memory: use a larger instance type, or lower worker.batch_size")
        case OSError() if error.errno in _NO_ROOM:
            return FatalError(f"the machine has no room left: {error}")
        case NoCredentialsError() | CredentialRetrievalError():
            return FatalError(f"no credentials: {error}; give the instance its role (fleet.instance_profile)")
        case ClientError():
            return _meaning_of_refusal(error)
        case BotoCoreError() | ConnectionError() | TimeoutError():
            return ServiceFault(reason)
        case EngineError():
            return FatalError(f"the engine is broken: {error}")
        case PoolUnavailableError():
            return LocalFault(reason)
    return UnknownFault(reason)


def _meaning_of_refusal(error: ClientError) -> Fault:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _SKEWED or _SKEW_TEXT.search(str(error)):
        return FatalError(f"this machine's clock is off: {error}; check its time synchronisation")
    if code in _DENIED:
        return FatalError(f"access denied: {error}; allow it in the worker's role")
    if code in _MISSING:
        return FatalError(f"{error}; check names in config.yaml and that the stack exists")
    return ServiceFault(str(error))
