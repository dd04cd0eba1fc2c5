"""Deleting what may be gone already."""

import contextlib
from collections.abc import Iterator

from botocore.exceptions import ClientError

_GONE = (
    "NotFound", "NoSuchEntity", "NoSuchBucket", "NoSuchDistribution", "NoSuchOriginAccessControl", "NonExistentQueue",
    "DoesNotExist", "NotFoundException",
)  # fmt: skip


@contextlib.contextmanager
def gone_is_good() -> Iterator[None]:
    """Let an error pass that says that what is to be deleted is not there."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if not any(word in code for word in _GONE):
            raise
