"""S3 objects: their content outlives their key, plain calls are answered as by stock moto, denials of HTTP have no
effect."""

import copy
import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import settings
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeKey, S3Backend, s3_backends

from localcloud.launch import REGION
from localcloud.patches import apply_patches
from localcloud.s3.objects import HASHED_AT_ONCE, MAX_SMALL_BYTES, PATCHES, without_tls
from tests.support.wsgi_clients import ClientPair, Reply, WsgiClient


@pytest.fixture(scope="module")
def backend() -> S3Backend:
    apply_patches("s3")
    found: S3Backend = s3_backends["123456789012"]["aws"]
    found.create_bucket("objects", REGION)
    return found


def test_object_can_be_read_while_it_is_overwritten(backend: S3Backend) -> None:
    old = backend.put_object("objects", "k", b"old")
    backend.put_object("objects", "k", b"new")
    backend.delete_object("objects", "k")
    assert (old.value, old.etag) == (b"old", f'"{hashlib.md5(b"old", usedforsecurity=False).hexdigest()}"')


@pytest.mark.parametrize("length", [0, 1, HASHED_AT_ONCE, HASHED_AT_ONCE + 1, MAX_SMALL_BYTES, MAX_SMALL_BYTES + 1])
def test_the_etag_is_the_md5_of_the_content(backend: S3Backend, length: int) -> None:
    content = bytes(range(256)) * (length // 256 + 1)
    stored = backend.put_object("objects", "k", content[:length])
    assert stored.etag == f'"{hashlib.md5(content[:length], usedforsecurity=False).hexdigest()}"'


@given(parts=st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=3))
def test_an_upload_in_parts_becomes_one_object(backend: S3Backend, parts: list[bytes]) -> None:
    """The parts are objects of moto's, too."""
    keys = [FakeKey(str(n), part, account_id="1", region_name=REGION) for n, part in enumerate(parts)]
    assert b"".join(key.value for key in keys) == b"".join(parts)


def test_given_attributes_are_stored_and_others_are_as_in_stock_moto(backend: S3Backend) -> None:
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


_names = count()
COMPARED_HEADERS = ("etag", "content-type", "content-length", "accept-ranges")
PUT = st.tuples(st.just("PUT"), st.sampled_from(["a", "b/c.png"]), st.binary(max_size=5000))
OTHER = st.tuples(st.sampled_from(["GET", "DELETE"]), st.sampled_from(["a", "b/c.png"]), st.just(b""))


def new_bucket(moto: ClientPair, prefix: str = "bucket") -> str:
    name = f"{prefix}-{next(_names)}"
    assert moto.stock.request("s3", "PUT", f"/{name}").status == 200
    return name


@pytest.fixture
def bucket(moto: ClientPair) -> str:
    return new_bucket(moto)


def comparable(reply: Reply) -> tuple[Any, ...]:
    """What a client can tell of an answer; of a refusal, all but the request's identity."""
    if reply.status >= 300:
        return reply.status, reply.body.partition(b"<RequestId>")[0]
    names = COMPARED_HEADERS if reply.body else ("etag",)  # Flask sets a type for an empty body, too
    return reply.status, [reply.headers.get(name) for name in names], reply.body


def ask(door: WsgiClient, bucket: str, operations: list[tuple[str, str, bytes]]) -> list[Any]:
    replies = []
    for method, key, content in operations:
        environ: dict[str, Any] = {"CONTENT_TYPE": "image/png"} if method == "PUT" else {}
        replies.append(comparable(door.request("s3", method, f"/{bucket}/{key}", content, **environ)))
    return replies


@given(operations=st.lists(PUT | OTHER, max_size=12))
def test_any_puts_gets_and_deletes_are_answered_as_by_stock_moto(
    moto: ClientPair, operations: list[tuple[str, str, bytes]]
) -> None:
    plain, stock = new_bucket(moto, "same"), new_bucket(moto, "same")
    assert ask(moto.direct, plain, operations) == ask(moto.stock, stock, operations)


@pytest.mark.parametrize("content_type", ["image/png", "application/json", None])
def test_objects_put_directly_are_visible_to_stock_moto(
    moto: ClientPair, bucket: str, content_type: str | None
) -> None:
    described: dict[str, Any] = {"CONTENT_TYPE": content_type, "HTTP_CONTENT_DISPOSITION": "attachment"}
    moto.direct.request("s3", "PUT", f"/{bucket}/a/b.png", b"content", **described)
    head = moto.stock.request("s3", "HEAD", f"/{bucket}/a/b.png")
    assert head.headers["content-disposition"] == "attachment"
    assert head.headers["content-type"] == (content_type or "binary/octet-stream")
    assert head.headers["content-length"] == "7"
    assert b"<Key>a/b.png</Key>" in moto.stock.request("s3", "GET", f"/{bucket}?list-type=2").body


def test_objects_put_by_stock_moto_are_read_with_their_metadata(moto: ClientPair, bucket: str) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_META_TAKEN="1999", HTTP_CACHE_CONTROL="no-store")
    direct = moto.direct.request("s3", "GET", f"/{bucket}/k")
    assert direct.headers["x-amz-meta-taken"] == "1999"
    assert direct.headers["cache-control"] == "no-store"
    assert not moto.needs_stock("s3", "GET", f"/{bucket}/k")


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_plain_call_is_answered_directly(moto: ClientPair, bucket: str, method: str) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x")
    expect = {"HTTP_EXPECT": "100-continue", "HTTP_AMZ_SDK_REQUEST": "attempt=1", "HTTP_X_AMZ_SECURITY_TOKEN": "t"}
    assert not moto.needs_stock("s3", method, f"/{bucket}/k", b"y", **expect)


@pytest.mark.parametrize(
    ("method", "target", "environ"),
    [
        ("PUT", "/{}/k", {"HTTP_X_AMZ_COPY_SOURCE": "/{}/other"}),
        ("PUT", "/{}/k", {"HTTP_X_AMZ_META_A": "1"}),
        ("PUT", "/{}/k", {"HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM": "CRC32"}),
        ("PUT", "/{}/k", {"HTTP_X_AMZ_CONTENT_SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}),
        ("PUT", "/{}/k", {"HTTP_IF_NONE_MATCH": "*"}),
        ("PUT", "/{}/new", {"HTTP_IF_NONE_MATCH": '"an-etag"'}),
        ("PUT", "/{}/k", {"HTTP_IF_MATCH": '"an-etag"'}),
        ("GET", "/{}/k", {"HTTP_IF_NONE_MATCH": "*"}),
        ("DELETE", "/{}/k", {"HTTP_IF_NONE_MATCH": "*"}),
        ("PUT", "/{}/k", {"HTTP_CONTENT_ENCODING": "gzip"}),
        ("PUT", "/{}/k", {"CONTENT_TYPE": "multipart/form-data; boundary=x"}),
        ("GET", "/{}/k?tagging", {}),
        ("GET", "/{}/k", {"HTTP_RANGE": "bytes=0-1"}),
        ("GET", "/{}/k", {"HTTP_ORIGIN": "https://example.com"}),
        ("GET", "/{}/k", {"HTTP_HOST": "bucket.s3.amazonaws.com"}),
        ("GET", "/{}/k", {"HTTP_X_MOTO_ACCOUNT_ID": "111111111111"}),
        ("GET", "/{}/k", {"HTTP_AUTHORIZATION": None}),
        ("GET", "/{}/k?versionId=1", {}),
        ("GET", "/{}/k%20k", {}),
        ("GET", "/{}/k//k", {}),
        ("GET", "/{}/missing", {}),
        ("GET", "/no-such-bucket/k", {}),
        ("HEAD", "/{}/k", {}),
        ("GET", "/{}", {}),
    ],
)
def test_stock_moto_answers_calls_that_are_not_plain(
    moto: ClientPair, bucket: str, method: str, target: str, environ: dict[str, Any]
) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x")
    moto.stock.request("s3", "PUT", f"/{bucket}/other", b"x")
    filled = {name: value and value.format(bucket) for name, value in environ.items()}
    assert moto.needs_stock("s3", method, target.format(bucket), **filled)


def test_a_conditional_put_is_answered_as_by_stock_moto(moto: ClientPair) -> None:
    condition: dict[str, Any] = {"HTTP_IF_NONE_MATCH": "*"}
    plain, stock = new_bucket(moto, "same"), new_bucket(moto, "same")
    replies = [
        [
            comparable(door.request("s3", "PUT", f"/{name}/k", content, **condition))
            for content in (b"first", b"second")
        ]
        for door, name in ((moto.direct, plain), (moto.stock, stock))
    ]
    assert [[status for status, *_ in each] for each in replies] == [[200, 412]] * 2
    assert replies[0] == replies[1]
    assert moto.stock.request("s3", "GET", f"/{plain}/k").body == b"first"
    assert not moto.needs_stock("s3", "PUT", f"/{plain}/new", b"x", **condition)


def test_one_of_many_conditional_object_puts_succeeds(moto: ClientPair, bucket: str) -> None:
    def put(number: int) -> int:
        return moto.direct.request("s3", "PUT", f"/{bucket}/k", b"%d" % number, HTTP_IF_NONE_MATCH="*").status

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(put, range(8))) == [200] + [412] * 7


@pytest.mark.parametrize(
    ("aspect", "document"),
    [
        ("versioning", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"),
        ("versioning", "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"),
        (
            "policy",
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
            '"Action": "s3:*", "Resource": "*"}]}',
        ),
        (
            "encryption",
            "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256"
            "</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>",
        ),
    ],
)
def test_stock_moto_answers_for_configured_buckets(moto: ClientPair, bucket: str, aspect: str, document: str) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x")
    assert moto.stock.request("s3", "PUT", f"/{bucket}?{aspect}", document.encode()).status < 300
    for method in ("PUT", "GET", "DELETE"):
        assert moto.needs_stock("s3", method, f"/{bucket}/k")


@pytest.fixture
def enforced(bucket: str) -> Iterator[str]:
    """A bucket, with permissions enforced as `POST /moto-api/reset-auth` switches it."""
    before = settings.INITIAL_NO_AUTH_ACTION_COUNT
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    yield bucket
    settings.INITIAL_NO_AUTH_ACTION_COUNT = before


def test_where_permissions_are_enforced_a_stranger_is_refused(moto: ClientPair, enforced: str) -> None:
    assert moto.direct.request("s3", "PUT", f"/{enforced}/k", b"x").status == 403


def test_a_body_that_was_cut_off_is_refused_and_leaves_no_object(moto: ClientPair, bucket: str) -> None:
    assert moto.direct.request("s3", "PUT", f"/{bucket}/k", b"half", length=8).status == 400
    assert moto.stock.request("s3", "GET", f"/{bucket}/k").status == 404


def tags(moto: ClientPair, bucket: str) -> bytes:
    reply = moto.stock.request("s3", "GET", f"/{bucket}/k?tagging")
    return reply.body.partition(b"<TagSet")[2]


@pytest.mark.parametrize("header", ["kept=no", "kept=", "a.b-c_d=1", "kept=no&colour=red", "colour=dark%20red"])
def test_stored_tags_are_those_of_stock_moto(moto: ClientPair, bucket: str, header: str) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING=header)
    stored_tags, counted = (
        tags(moto, bucket),
        moto.stock.request("s3", "GET", f"/{bucket}/k").headers["x-amz-tagging-count"],
    )
    moto.stock.request("s3", "DELETE", f"/{bucket}/k")
    assert b"<Key>" not in tags(moto, bucket)
    moto.direct.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING=header)
    assert tags(moto, bucket) == stored_tags
    assert b"<Key>" in stored_tags
    assert moto.direct.request("s3", "GET", f"/{bucket}/k").headers["x-amz-tagging-count"] == counted


@pytest.mark.parametrize(
    ("header", "stock"), [("kept=no", False), ("a=b&c=d", True), ("a=%20", True), ("aws:a=b", True)]
)
def test_plain_tag_is_answered_directly_and_others_by_stock_moto(
    moto: ClientPair, bucket: str, header: str, stock: bool
) -> None:
    assert moto.needs_stock("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING=header) is stock


def test_tags_of_one_object_are_its_own(moto: ClientPair, bucket: str) -> None:
    for key in ("k", "other"):
        moto.direct.request("s3", "PUT", f"/{bucket}/{key}", b"x", HTTP_X_AMZ_TAGGING="kept=no")
    moto.stock.request("s3", "DELETE", f"/{bucket}/other?tagging")
    set_of = "<Tagging><TagSet><Tag><Key>kept</Key><Value>yes</Value></Tag></TagSet></Tagging>"
    moto.stock.request("s3", "PUT", f"/{bucket}/other?tagging", set_of.encode())
    assert b"<Value>no</Value>" in tags(moto, bucket)


@pytest.mark.parametrize("door", ["direct", "stock"])
def test_tags_do_not_outlive_the_object_that_had_them(moto: ClientPair, bucket: str, door: str) -> None:
    first: WsgiClient = getattr(moto, door)
    first.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING="colour=red")
    moto.direct.request("s3", "PUT", f"/{bucket}/k", b"y")
    assert b"red" not in moto.stock.request("s3", "GET", f"/{bucket}/k?tagging").body


OVER_TLS = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": "*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
OVER_NEW_TLS = {**OVER_TLS, "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}}
NEVER = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": "*"}


@pytest.mark.parametrize("statements", [OVER_TLS, [OVER_TLS, OVER_NEW_TLS]], ids=["one", "two"])
def test_statements_about_tls_are_left_out(statements: object) -> None:
    assert without_tls({"Version": "2012-10-17", "Statement": statements}) == {
        "Version": "2012-10-17",
        "Statement": [],
    }


def test_a_statement_with_a_further_condition_stays() -> None:
    mixed = {**OVER_TLS, "Condition": {"Bool": {"aws:SecureTransport": "false", "aws:ViaAWSService": "false"}}}
    assert without_tls({"Statement": [mixed, NEVER]})["Statement"] == [mixed, NEVER]


@pytest.mark.parametrize(
    ("policy", "action", "permission"),
    [
        (None, "s3:GetObject", PermissionResult.NEUTRAL),
        ([OVER_TLS, NEVER], "s3:GetObject", PermissionResult.NEUTRAL),
        ([OVER_TLS, NEVER], "s3:DeleteObject", PermissionResult.DENIED),
    ],
    ids=["no policy", "over tls", "never"],
)
def test_other_denials_of_a_bucket_policy_hold(policy: object, action: str, permission: PermissionResult) -> None:
    text = None if policy is None else json.dumps({"Version": "2012-10-17", "Statement": policy}).encode()
    patch = next(patch for patch in PATCHES if patch.symbol.endswith(".get_permission"))
    get_permission = patch.build(None)
    assert get_permission(SimpleNamespace(policy=text), action, "arn:aws:s3:::b/k") == permission
