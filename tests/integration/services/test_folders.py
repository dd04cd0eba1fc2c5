"""A folder of a bucket: its keys, and many objects deleted at once."""

import pytest

from core.config import Config
from services.clients import Clients
from services.s3 import Bucket
from tests.conftest import keys_in

pytestmark = pytest.mark.processes


@pytest.fixture
def bucket(config: Config, provisioned: Clients) -> Bucket:
    return Bucket.named(provisioned, config.names.input_bucket)


def test_a_folder_is_its_own_keys_only_and_in_portions(bucket: Bucket) -> None:
    for key in ("job/c", "job/a", "job/b", "jobs/x", "other/job/y"):
        bucket.put(key, b"", "image/png")
    assert bucket.list_keys("job", limit=2) == ["job/a", "job/b"]
    assert bucket.list_keys("job", limit=10) == ["job/a", "job/b", "job/c"]
    assert bucket.list_keys("nothing", limit=10) == []


def test_many_are_deleted_at_once_and_what_is_gone_already_is_no_error(bucket: Bucket) -> None:
    keys = [f"job/{number:04}" for number in range(30)]
    for key in keys:
        bucket.put(key, b"", "image/png")
    bucket.delete_all([*keys[:20], "job/nothing"])
    bucket.delete_all([])
    assert keys_in(bucket) == keys[20:]
