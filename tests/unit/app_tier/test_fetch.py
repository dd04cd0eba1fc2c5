import pytest

from app_tier.fetch import fetch
from app_tier.task import begin
from services.errors import NotFoundError
from tests.unit.app_tier.fakes import FakeClock, FakeS3, delivery


def test_the_image_is_the_object_that_the_request_names() -> None:
    one, s3, clock = delivery(), FakeS3(), FakeClock()
    s3.objects = {one.request.key: b"bytes", "other": b"other"}
    get = s3.get_object

    def slow(**arguments: str) -> object:
        clock.advance(0.25)
        return get(**arguments)

    s3.get_object = slow  # type: ignore[method-assign, assignment]
    task = fetch(begin(one), s3.bucket(), clock)
    assert task.made == b"bytes"
    assert task.timings.fetched == 250


def test_an_object_that_is_gone_is_said() -> None:
    with pytest.raises(NotFoundError):
        fetch(begin(delivery()), FakeS3().bucket())
