"""Presigned POST forms: a client puts one object into a bucket by itself, and nothing but what the form says.

The policy in the form (https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html) is signed
and fixes the key, the content type, the tags and the most bytes, until it expires; S3 refuses all else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from xml.sax.saxutils import escape

from services.s3 import ATTACHMENT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from services.clients import Clients


@dataclass(frozen=True, slots=True)
class UploadForm:
    """A form: send `url` all `fields` as they are, then the content as the field `file`, as multipart/form-data."""

    url: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Forms:
    """Makes forms for one bucket; signing calls no service."""

    client: "S3Client"
    bucket: str

    @classmethod
    def of(cls, clients: "Clients", bucket: str) -> Self:
        """Return the maker of forms for the bucket of that name, signed with the credentials that `clients` have."""
        return cls(clients.s3_signing, bucket)

    def form(
        self,
        key: str,
        content_type: str,
        *,
        max_bytes: int,
        seconds: int,
        tags: Mapping[str, str] | None = None,
    ) -> UploadForm:
        """Return a form that puts one object at `key`.

        Args:
            key: where it is put, as often as the form is sent.
            content_type: what the form must say that it is.
            max_bytes: its largest size; the smallest is one byte.
            seconds: how long the form is taken; no longer than the credentials that sign it last.
            tags: what the form must tag the object with; without them it can tag it with nothing.

        Raises:
            botocore.exceptions.NoCredentialsError: when there are none to sign with.
        """
        own = {"Content-Type": content_type, "Content-Disposition": ATTACHMENT}
        fixed = own | ({"tagging": _tagging(tags)} if tags else {})
        conditions: list[Any] = [{name: value} for name, value in fixed.items()]
        made = self.client.generate_presigned_post(
            self.bucket,
            key,
            Fields=fixed,
            Conditions=[*conditions, ["content-length-range", 1, max_bytes]],
            ExpiresIn=seconds,
        )
        return UploadForm(made["url"], made["fields"])


def _tagging(tags: Mapping[str, str]) -> str:
    """Return tags as a form says them.

    https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html
    """
    each = (f"<Tag><Key>{escape(key)}</Key><Value>{escape(value)}</Value></Tag>" for key, value in tags.items())
    return f"<Tagging><TagSet>{''.join(each)}</TagSet></Tagging>"
