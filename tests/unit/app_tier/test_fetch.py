import pytest

from app_tier.fetch import fetch
from app_tier.task import begin
from services.errors import NotFoundError
from tests.unit.app_tier.fakes import FakeBucket, FakeClock, delivery


def test_the_image_is_the_object_that_the_request_names() -> None:
    one, s3, clock = delivery(), FakeBucket(), FakeClock()
    s3.objects = {one.request.key: b"bytes", "other": b"other"}
    get = s3.get

    def slow(key: str) -> bytes:
        clock.advance(0.25)
        return get(key)

    s3.get = slow  # type: ignore[method-assign]
    task = fetch(begin(one), s3.bucket(), clock)
    assert task.made == b"bytes"
    assert task.timings.fetched == 250


def test_an_object_that_is_gone_is_said() -> None:
    with pytest.raises(NotFoundError):
        fetch(begin(delivery()), FakeBucket().bucket())
