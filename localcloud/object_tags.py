"""Tags of S3's objects, kept where moto keeps them, and read once for all objects that have the same.

Stock moto takes each set of tags apart and checks every character of it anew; Fleetsight puts most of its images with
one and the same tag.
Limits: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
"""

import re
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from localcloud.post_policy import RefusedError

MAX_TAGS = 10
"""Of an object."""

SETS_REMEMBERED = 256

_PLAIN = re.compile(r"(?!aws)([A-Za-z0-9_.-]{1,128})=([A-Za-z0-9_.-]{0,256})")
_KEY = re.compile(r"(?!aws:)[\w\s+\-=.:/@]{1,128}")
_VALUE = re.compile(r"[\w\s+\-=.:/@]{0,256}")

Tags = list[dict[str, str]]


@lru_cache(maxsize=SETS_REMEMBERED)
def plain_tag(header: str) -> Tags | None:
    """Return the tag in a header ``x-amz-tagging``; None where there are more, or it has to be decoded or refused."""
    found = _PLAIN.fullmatch(header)
    return None if found is None else [{"Key": found[1], "Value": found[2]}]


@lru_cache(maxsize=SETS_REMEMBERED)
def tags_of_form(text: str) -> Tags:
    """Return the tags in the field ``tagging`` of a form, which is XML as PutObjectTagging takes it.

    https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html

    Raises:
        RefusedError: it is no such XML, or an object cannot have such tags.
    """
    try:
        root = ElementTree.fromstring(text)  # nosec B314 # noqa: S314 (its signer wrote it)
    except ElementTree.ParseError as error:
        raise _malformed() from error
    if root.tag.rpartition("}")[2] != "Tagging" or root.find("{*}TagSet") is None:
        raise _malformed()
    tags = [_tag(each) for each in root.iterfind("{*}TagSet/{*}Tag")]
    if len(tags) > MAX_TAGS:
        raise RefusedError(400, "BadRequest", f"Object tags cannot be greater than {MAX_TAGS}")
    if len({tag["Key"] for tag in tags}) < len(tags):
        raise RefusedError(400, "InvalidTag", "Cannot provide multiple Tags with the same key")
    return tags


def _tag(element: ElementTree.Element) -> dict[str, str]:
    key, value = (element.findtext(f"{{*}}{name}") for name in ("Key", "Value"))
    if key is None or value is None:
        raise _malformed()
    if not (_KEY.fullmatch(key) and _VALUE.fullmatch(value)):
        raise RefusedError(400, "InvalidTag", f"The tag {key!r}: {value!r} is not one that an object can have")
    return {"Key": key, "Value": value}


def _malformed() -> RefusedError:
    return RefusedError(400, "MalformedXML", "The XML you provided was not well-formed or did not validate")


def set_tags(backend: Any, stored: Any, tags: Tags) -> None:
    """Give an object that was just put its tags, in place of those of the object that was there before."""
    arn = stored.arn
    backend.tagger.delete_all_tags_for_resource(arn)
    if tags:
        backend.tagger.tag_resource(arn, tags)
