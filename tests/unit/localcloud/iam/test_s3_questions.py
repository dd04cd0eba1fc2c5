"""S3's actions follow from method, path and parameters."""

from collections.abc import Iterator

import pytest
from moto.s3.models import s3_backends

from localcloud.iam.calls import UnknownCallError
from localcloud.iam.questions import questions_of
from tests.unit.localcloud.iam.requests_of import ACCOUNT, REGION, call

BUCKET, OBJECT = "arn:aws:s3:::photos", "arn:aws:s3:::photos/a/b.jpg"
KEYS = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>a</Key></Object><Object><Key>b/c</Key></Object></Delete>'


@pytest.fixture(autouse=True)
def _photos() -> Iterator[None]:
    """A bucket with one object."""
    backend = s3_backends[ACCOUNT]["aws"]
    backend.create_bucket("photos", REGION)
    backend.put_object("photos", "a/b.jpg", b"x")
    yield
    backend.delete_object("photos", "a/b.jpg")
    backend.delete_bucket("photos")


def asks(method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> list[tuple[str, str]]:
    of = call("s3", method, path, body, QUERY_STRING=query, **headers)
    return [(each.action.removeprefix("s3:"), each.resource) for each in questions_of(of)]


@pytest.mark.parametrize(
    ("method", "query", "action"),
    [
        ("GET", "", "GetObject"),
        ("HEAD", "", "GetObject"),
        ("GET", "partNumber=1&response-content-type=x", "GetObject"),
        ("GET", "X-Amz-Credential=x&X-Amz-Signature=y", "GetObject"),
        ("GET", "versionId=1", "GetObjectVersion"),
        ("GET", "tagging", "GetObjectTagging"),
        ("GET", "acl", "GetObjectAcl"),
        ("GET", "uploadId=1", "ListMultipartUploadParts"),
        ("PUT", "", "PutObject"),
        ("PUT", "partNumber=1&uploadId=2", "PutObject"),
        ("PUT", "acl", "PutObjectAcl"),
        ("POST", "uploads", "PutObject"),
        ("POST", "uploadId=2", "PutObject"),
        ("DELETE", "", "DeleteObject"),
        ("DELETE", "versionId=1", "DeleteObjectVersion"),
        ("DELETE", "tagging", "DeleteObjectTagging"),
        ("DELETE", "uploadId=2", "AbortMultipartUpload"),
    ],
)
def test_a_request_for_an_object_asks_for_one_action(method: str, query: str, action: str) -> None:
    assert asks(method, "/photos/a/b.jpg", query) == [(action, OBJECT)]


@pytest.mark.parametrize(
    ("method", "query", "action"),
    [
        ("GET", "list-type=2&prefix=a&max-keys=1&start-after=b&encoding-type=url", "ListBucket"),
        ("GET", "", "ListBucket"),
        ("HEAD", "", "ListBucket"),
        ("GET", "versions", "ListBucketVersions"),
        ("GET", "uploads", "ListBucketMultipartUploads"),
        ("GET", "location", "GetBucketLocation"),
        ("PUT", "", "CreateBucket"),
        ("PUT", "lifecycle", "PutLifecycleConfiguration"),
        ("DELETE", "", "DeleteBucket"),
        ("DELETE", "policy", "DeleteBucketPolicy"),
        ("DELETE", "cors", "PutBucketCORS"),
    ],
)
def test_a_request_for_a_bucket_asks_for_one_action(method: str, query: str, action: str) -> None:
    assert asks(method, "/photos", query) == [(action, BUCKET)]
    assert asks(method, "/photos/", query) == [(action, BUCKET)]


def test_who_reads_what_is_not_there_must_be_allowed_to_list_the_bucket() -> None:
    for method in ("GET", "HEAD"):
        missing = [("GetObject", f"{BUCKET}/gone"), ("ListBucket", BUCKET)]
        assert asks(method, "/photos/gone") == missing
    assert asks("GET", "/nowhere/gone") == [("GetObject", "arn:aws:s3:::nowhere/gone")]


def test_a_copy_reads_its_source_and_what_is_set_besides_is_asked_for_too() -> None:
    copied = asks("PUT", "/photos/c", HTTP_X_AMZ_COPY_SOURCE="/other/a%20b?versionId=1", HTTP_X_AMZ_TAGGING="a=b")
    source, target = "arn:aws:s3:::other/a b", f"{BUCKET}/c"
    assert copied == [("PutObject", target), ("GetObject", source), ("PutObjectTagging", target)]


def test_several_are_deleted_one_by_one() -> None:
    wanted = [("DeleteObject", f"{BUCKET}/a"), ("DeleteObject", f"{BUCKET}/b/c")]
    assert asks("POST", "/photos", "delete", KEYS) == wanted
    with pytest.raises(UnknownCallError, match="names no keys"):
        asks("POST", "/photos", "delete", b"no XML")


def test_what_is_listed_may_be_a_condition() -> None:
    (asked,) = questions_of(call("s3", "GET", "/photos", QUERY_STRING="prefix=a/&delimiter=/&max-keys=5"))
    assert asked.context == {"s3:prefix": ("a/",), "s3:delimiter": ("/",), "s3:max-keys": ("5",)}


def test_buckets_are_listed_by_nobodys_name_and_keys_are_text() -> None:
    assert asks("GET", "/") == [("ListAllMyBuckets", "*")]
    assert asks("PUT", "/photos/\u00c3\u00a4") == [("PutObject", f"{BUCKET}/ä")]


@pytest.mark.parametrize(
    ("method", "query", "host"),
    [
        ("GET", "torrent", "127.0.0.1:1"),
        ("PATCH", "", "127.0.0.1:1"),
        ("GET", "", "photos.s3.amazonaws.com"),
        ("GET", "", ""),
    ],
)
def test_what_is_not_known_is_not_guessed(method: str, query: str, host: str) -> None:
    with pytest.raises(UnknownCallError):
        asks(method, "/photos/a/b.jpg", query, HTTP_HOST=host)
