from hashlib import sha256

import pytest

from app_tier.fetch import fetch
from app_tier.task import begin
from core.images import ImageLimits, ImageRejectedError
from services.errors import NotFoundError
from tests.unit.app_tier.fakes import FakeBucket, FakeClock, delivery


def test_the_image_is_the_object_that_the_request_names() -> None:
    one, s3, clock = delivery(), FakeBucket(), FakeClock()
    s3.objects = {one.request.key: b"bytes", "other": b"other"}
    get = s3.get

    def slow(key: str, max_bytes: int | None = None) -> bytes:
        clock.advance(0.25)
        return get(key, max_bytes)

    s3.get = slow  # type: ignore[method-assign]
    task = fetch(begin(one), s3.bucket(), ImageLimits(), clock)
    assert task.made == b"bytes"
    assert task.sha256 == sha256(b"bytes").hexdigest()
    assert task.then(None, decoded=1.0).sha256 == task.sha256, "the later stages know it too"
    assert task.timings.fetched == 250


def test_an_object_that_is_gone_is_said() -> None:
    with pytest.raises(NotFoundError):
        fetch(begin(delivery()), FakeBucket().bucket(), ImageLimits())


def test_an_object_that_is_larger_than_an_image_may_be_is_the_images_fault_and_is_not_read() -> None:
    one, s3 = delivery(), FakeBucket()
    s3.objects = {one.request.key: bytes(2_500_000)}
    with pytest.raises(ImageRejectedError, match=r"2\.5 MB is more than the 2\.0 MB allowed") as refused:
        fetch(begin(one), s3.bucket(), ImageLimits(max_bytes=2_000_000))
    assert refused.value.code == "too_large"
