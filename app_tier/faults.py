"""What an error means: the fault of the image, the end of the worker, or something that passes."""

import errno
from dataclasses import dataclass

from botocore.exceptions import ClientError, CredentialRetrievalError, NoCredentialsError

from services.errors import NotFoundError
from services.image_errors import ImageRejectedError
from services.messages import Failure

_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "KMS.AccessDeniedException",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
_MISSING = frozenset({"NoSuchBucket", "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired", "InvalidSignatureException"})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE})


@dataclass(frozen=True)
class ImageFault:
    """The image cannot be classified, here or anywhere: its owner is told why."""

    failure: Failure

    @property
    def reason(self) -> str:
        """The same for the log."""
        return self.failure.message


@dataclass(frozen=True)
class WorkerFault:
    """This worker cannot go on: it gives back what it holds and ends with the reason."""

    reason: str


@dataclass(frozen=True)
class PassingFault:
    """Something that may be gone later: the message goes back to the queue."""

    reason: str


Fault = ImageFault | WorkerFault | PassingFault


def meaning_of(error: Exception) -> Fault:
    """Say what follows from an error of a stage, once botocore's own retries are spent."""
    fault: Fault = PassingFault(f"{type(error).__name__}: {error}")
    match error:
        case ImageRejectedError():
            fault = ImageFault(Failure(code=error.code, message=error.message))
        case NotFoundError():
            fault = ImageFault(Failure(code="gone", message="the image is no longer stored: upload it again"))
        case MemoryError():
            fault = WorkerFault("out of memory: use a larger instance type, or lower worker.batch_size")
        case OSError() if error.errno in _NO_ROOM:
            fault = WorkerFault(f"the machine has no room left: {error}")
        case NoCredentialsError() | CredentialRetrievalError():
            fault = WorkerFault(f"no credentials: {error}; give the instance its role (fleet.instance_profile)")
        case ClientError():
            fault = _meaning_of_refusal(error)
    return fault


def _meaning_of_refusal(error: ClientError) -> Fault:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _DENIED:
        return WorkerFault(f"access denied: {error}; allow it in the worker's role")
    if code in _MISSING:
        return WorkerFault(f"{error}; check names in config.yaml and that the stack exists")
    if code in _SKEWED:
        return WorkerFault(f"this machine's clock is off: {error}; check its time synchronisation")
    return PassingFault(str(error))
