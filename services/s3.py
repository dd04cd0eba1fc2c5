"""S3: whole objects in and out of one bucket."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from services.errors import NotFoundError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Bucket:
    """One bucket. botocore's errors pass through once its retries are spent."""

    client: "S3Client"
    name: str

    def put(self, key: str, body: bytes, content_type: str) -> None:
        """Store `body` at `key`, over whatever was there."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body, ContentType=content_type)

    def get(self, key: str) -> bytes:
        """Return the object at `key`.

        Raises:
            NotFoundError: when there is none.
        """
        try:
            return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                raise NotFoundError(f"there is no object {key!r} in the bucket {self.name!r}") from error
            raise

    def delete(self, key: str) -> None:
        """Delete the object at `key`; one that is gone already is no error."""
        self.client.delete_object(Bucket=self.name, Key=key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with `prefix`, in order, a page of 1,000 at a time."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for entry in page.get("Contents", []):
                yield entry["Key"]
