import errno

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from app_tier.bundle.errors import EngineError
from app_tier.errors import FatalError, ImageFault, LocalFault, ServiceFault, UnknownFault, classify_error
from core.images import ImageRejectedError
from core.sandbox.process import PoolUnavailableError
from services.errors import NotFoundError
from tests.support.worker import refusal


def test_a_rejected_image_keeps_its_code_and_message() -> None:
    fault = classify_error(ImageRejectedError("truncated", "it ends early"))
    assert isinstance(fault, ImageFault)
    assert (fault.failure.code, fault.failure.message) == ("truncated", "it ends early")
    assert fault.reason == "it ends early"


def test_an_object_that_is_gone_is_said_to_the_owner() -> None:
    fault = classify_error(NotFoundError("no object"))
    assert isinstance(fault, ImageFault)
    assert fault.failure.code == "gone"


def skewed(code: str, words: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"Signature {words} 20260101T001500Z"}}, "Call")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room left"),
        (OSError(errno.EFBIG, "File too large"), "no room left"),
        (refusal("AccessDenied"), "access denied"),
        (refusal("InvalidClientTokenId"), "access denied"),
        (refusal("AWS.SimpleQueueService.NonExistentQueue"), "check names"),
        (refusal("NoSuchBucket"), "check names"),
        (refusal("RequestTimeTooSkewed"), "clock is off"),
        (refusal("SignatureDoesNotMatch"), "access denied"),
        (refusal("InvalidSignatureException"), "access denied"),
        (skewed("SignatureDoesNotMatch", "expired: 20260101T000000Z is now earlier than"), "clock is off"),
        (skewed("InvalidSignatureException", "expired: 20260101T000000Z is now earlier than"), "clock is off"),
        (skewed("AuthFailure", "not yet current: 20260101T000000Z is still later than"), "clock is off"),
        (NoCredentialsError(), "no credentials"),
    ],
)
def test_what_no_image_can_help_ends_the_worker_with_its_reason(error: Exception, said: str) -> None:
    fault = classify_error(error)
    assert isinstance(fault, FatalError)
    assert said in fault.reason


@pytest.mark.parametrize(
    "error",
    [
        refusal("SlowDown"),
        refusal("InternalError"),
        refusal("ExpiredToken"),
        EndpointConnectionError(endpoint_url="http://sqs"),
        ReadTimeoutError(endpoint_url="http://sqs"),
        ConnectionResetError("reset"),
        TimeoutError("slow"),
    ],
)
def test_a_service_that_does_not_answer_is_no_fault_of_image_or_worker(error: Exception) -> None:
    assert isinstance(classify_error(error), ServiceFault)


def test_a_worker_without_decoders_just_now_is_no_fault_of_the_image() -> None:
    assert isinstance(classify_error(PoolUnavailableError("no process")), LocalFault)


def test_a_network_that_has_failed_ends_its_worker_as_later_answers_may_be_wrong() -> None:
    assert classify_error(EngineError("no memory")) == FatalError("the engine is broken: no memory")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug"), OSError(errno.EIO, "I/O error")])
def test_of_any_other_error_nobody_knows_whose_fault_it_is(error: Exception) -> None:
    assert isinstance(classify_error(error), UnknownFault)
