import errno

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from app_tier.faults import ImageFault, PassingFault, WorkerFault, meaning_of
from services.errors import NotFoundError
from services.images import ImageRejectedError
from tests.unit.app_tier.fakes import refusal


def test_a_rejected_image_keeps_its_code_and_message() -> None:
    fault = meaning_of(ImageRejectedError("truncated", "it ends early"))
    assert isinstance(fault, ImageFault)
    assert (fault.failure.code, fault.failure.message) == ("truncated", "it ends early")
    assert fault.reason == "it ends early"


def test_an_object_that_is_gone_is_said_to_the_owner() -> None:
    fault = meaning_of(NotFoundError("no object"))
    assert isinstance(fault, ImageFault)
    assert fault.failure.code == "gone"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room left"),
        (refusal("AccessDenied"), "access denied"),
        (refusal("InvalidClientTokenId"), "access denied"),
        (refusal("AWS.SimpleQueueService.NonExistentQueue"), "check names"),
        (refusal("NoSuchBucket"), "check names"),
        (refusal("RequestTimeTooSkewed"), "clock is off"),
        (NoCredentialsError(), "no credentials"),
    ],
)
def test_what_no_image_can_help_ends_the_worker_with_its_reason(error: Exception, said: str) -> None:
    fault = meaning_of(error)
    assert isinstance(fault, WorkerFault)
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
        RuntimeError("a bug"),
    ],
)
def test_everything_else_may_pass(error: Exception) -> None:
    assert isinstance(meaning_of(error), PassingFault)
