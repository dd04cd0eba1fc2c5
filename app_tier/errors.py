"""Faults: which of image, worker and services an error is attributed to."""

import errno
import re
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, NoCredentialsError

from app_tier.bundle import EngineError
from core.images import ImageRejectedError
from core.messages import GONE, Failure
from core.sandbox.process import PoolUnavailableError
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
"""Message of a wrong clock under codes that also mean wrong credentials.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
"""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE})


@dataclass(frozen=True)
class ImageFault:
    """The image cannot be classified by any worker: its owner gets the reason."""

    failure: Failure

    @property
    def reason(self) -> str:
        """The reason, for the log."""
        return self.failure.message


@dataclass(frozen=True)
class FatalError:
    """This worker cannot go on: it gives back its messages and ends with the reason."""

    reason: str


@dataclass(frozen=True)
class ServiceFault:
    """S3 or SQS does not answer, or throttles. No image is at fault."""

    reason: str


@dataclass(frozen=True)
class LocalFault:
    """The engine or the decoding processes do not work on this worker. No image is at fault."""

    reason: str


@dataclass(frozen=True)
class UnknownFault:
    """Any other error: the image, this worker or the program may be at fault."""

    reason: str


TransientError = ServiceFault | LocalFault | UnknownFault
"""Faults that the next try may not meet."""

Fault = ImageFault | FatalError | TransientError


def classify_error(error: Exception) -> Fault:  # noqa: PLR0911 (one return for each kind of error)
    """Return the fault that an error of a step is attributed to, after botocore's retries."""
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
            return _classify_refusal(error)
        case BotoCoreError() | ConnectionError() | TimeoutError():
            return ServiceFault(reason)
        case EngineError():
            return FatalError(f"the engine is broken: {error}")
        case PoolUnavailableError():
            return LocalFault(reason)
    return UnknownFault(reason)


def _classify_refusal(error: ClientError) -> Fault:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _SKEWED or _SKEW_TEXT.search(str(error)):
        return FatalError(f"this machine's clock is off: {error}; check its time synchronisation")
    if code in _DENIED:
        return FatalError(f"access denied: {error}; allow it in the worker's role")
    if code in _MISSING:
        return FatalError(f"{error}; check names in config.yaml and that the stack exists")
    return ServiceFault(str(error))
