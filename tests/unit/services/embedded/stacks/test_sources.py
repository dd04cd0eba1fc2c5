"""A template comes as a body, from a bucket, or is the one that the stack has."""

import io
from typing import Any

import pytest
from botocore.exceptions import ClientError

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.sources import place_of, template_of
from services.embedded.stacks.template import LONGEST_BODY_BYTES, LONGEST_OBJECT_BYTES, read

TEXT = "Resources: {A: {Type: T}}"


OBJECTS = {"t.yaml": TEXT.encode(), "large": b"#" * (LONGEST_OBJECT_BYTES + 1)}


class Store:
    """A bucket `b` with some objects."""

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803 - boto's
        if Bucket != "b" or Key not in OBJECTS:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "not there"}}, "GetObject")
        return {"Body": io.BytesIO(OBJECTS[Key])}


def found(**parameters: str) -> Any:
    return template_of(parameters, None, lambda service: Store())


def test_a_body_and_an_object_are_the_same_template() -> None:
    assert found(TemplateBody=TEXT) == found(TemplateURL="https://b.s3.us-east-1.amazonaws.com/t.yaml") == read(TEXT)


def test_without_one_the_stack_keeps_its_own() -> None:
    own = read(TEXT)
    assert template_of({"UsePreviousTemplate": True}, own, lambda service: None) is own
    with pytest.raises(StackError, match="Either Template URL or Template Body"):
        found()


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"TemplateBody": TEXT + "#" * LONGEST_BODY_BYTES}, "less than or equal to 51200"),
        ({"TemplateURL": "http://127.0.0.1:5000/b/large"}, "may not exceed 1048576 bytes"),
        ({"TemplateURL": "http://127.0.0.1:5000/b/none"}, "S3 error: not there"),
        ({"TemplateURL": "http://127.0.0.1:5000/b"}, "names no object of a bucket"),
    ],
)
def test_a_template_that_cannot_be_had_is_refused(parameters: dict[str, str], told: str) -> None:
    with pytest.raises(StackError, match=told):
        found(**parameters)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:5000/my-bucket/a/t.yaml",
        "https://s3.eu-west-1.amazonaws.com/my-bucket/a/t.yaml",
        "https://my-bucket.s3.eu-west-1.amazonaws.com/a/t.yaml",
        "https://my-bucket.s3.amazonaws.com/a/t.yaml",
        "https://my-bucket.s3-eu-west-1.amazonaws.com/a/t.yaml",
    ],
)
def test_both_styles_of_address_are_read(url: str) -> None:
    assert place_of(url) == ("my-bucket", "a/t.yaml")
