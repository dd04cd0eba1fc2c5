"""An object is its content and little else, and whoever has it may keep it."""

import copy
import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.s3.models import FakeKey, S3Backend, s3_backends

from localcloud.launch import REGION
from localcloud.objects import HASHED_AT_ONCE, SMALL
from localcloud.patches import apply_patches


@pytest.fixture(scope="module")
def backend() -> S3Backend:
    apply_patches("s3")
    found: S3Backend = s3_backends["123456789012"]["aws"]
    found.create_bucket("objects", REGION)
    return found


def test_an_object_can_be_read_while_another_takes_its_key(backend: S3Backend) -> None:
    old = backend.put_object("objects", "k", b"old")
    backend.put_object("objects", "k", b"new")
    backend.delete_object("objects", "k")
    assert (old.value, old.etag) == (b"old", f'"{hashlib.md5(b"old", usedforsecurity=False).hexdigest()}"')


@pytest.mark.parametrize("length", [0, 1, HASHED_AT_ONCE, HASHED_AT_ONCE + 1, SMALL, SMALL + 1])
def test_the_etag_is_the_md5_of_the_content(backend: S3Backend, length: int) -> None:
    content = bytes(range(256)) * (length // 256 + 1)
    stored = backend.put_object("objects", "k", content[:length])
    assert stored.etag == f'"{hashlib.md5(content[:length], usedforsecurity=False).hexdigest()}"'


@given(parts=st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=3))
def test_an_upload_in_parts_becomes_one_object(backend: S3Backend, parts: list[bytes]) -> None:
    """The parts are objects of moto's, too."""
    keys = [FakeKey(str(n), part, account_id="1", region_name=REGION) for n, part in enumerate(parts)]
    assert b"".join(key.value for key in keys) == b"".join(parts)


def test_what_is_given_is_kept_and_what_is_not_is_as_in_stock_moto(backend: S3Backend) -> None:
    plain = backend.put_object("objects", "k", b"x")
    assert (plain.storage_class, plain.version_id, plain.encryption) == ("STANDARD", "null", None)
    special = backend.put_object(
        "objects", "k", b"x", storage="GLACIER", encryption="aws:kms", lock_mode="GOVERNANCE"
    )
    assert (special.storage_class, special.encryption, special.lock_mode) == ("GLACIER", "aws:kms", "GOVERNANCE")
    assert (plain.storage_class, plain.encryption, plain.lock_mode) == ("STANDARD", None, None)


def test_a_copy_has_everything_of_the_object(backend: S3Backend) -> None:
    stored = backend.put_object("objects", "k", b"x", encryption="AES256")
    stored.set_metadata({"Content-Type": "image/png"})
    copied = copy.deepcopy(stored)
    assert copied.__dict__.keys() == stored.__dict__.keys()
    assert (copied.value, copied.etag, copied.encryption) == (b"x", stored.etag, "AES256")
    assert copied.metadata["content-type"] == "image/png"


def test_an_object_shares_its_attributes_names_with_all_others(backend: S3Backend) -> None:
    """Beyond 30 attributes each instance has a table of its own of 1.6 KB."""
    stored = backend.put_object("objects", "k", b"x")
    backend.get_object("objects", "k")
    assert len(vars(stored)) < 30
    assert sys.getsizeof(stored.value) < 40
