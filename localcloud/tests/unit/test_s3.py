"""S3: content outlives its key, plain calls are answered as by stock moto, and forms are checked as by S3."""

import base64
import gc
import hashlib
import io
import json
import re
import resource
import tracemalloc
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st
from moto.s3.exceptions import MissingBucket
from moto.s3.models import S3_UPLOAD_PART_MIN_SIZE, FakeKey, S3Backend, s3_backends

from localcloud.access_keys import owner_key
from localcloud.dispatch import CallCounter, CountedCalls
from localcloud.launch import REGION
from localcloud.patches import apply_patches
from localcloud.s3.contents import JoinedContent, body_of
from localcloud.s3.objects import ETAG_DIGITS, store_object
from localcloud.s3.posts import (
    MAX_FIELD_CHARACTERS,
    MAX_FORM_BYTES,
    Form,
    PostObjects,
    RefusedError,
    check_policy,
    signer_of,
    tags_of_form,
)
from localcloud.s3.stored_keys import StoredKeys
from localcloud.signatures import UNSIGNED_PAYLOAD
from localcloud.store import CONTENTS, LARGE_BYTES, data
from localcloud.tests.support.wsgi_clients import ClientPair, Reply, WsgiClient

FILE_SIZE = resource.RLIMIT_FSIZE


@pytest.fixture(scope="module")
def backend() -> S3Backend:
    apply_patches("core")
    apply_patches("s3")
    found: S3Backend = s3_backends["123456789012"]["aws"]
    found.create_bucket("objects", REGION)
    return found


def test_an_object_of_parts_is_joined_and_read_with_one_part_at_a_time_in_memory(backend: S3Backend) -> None:
    upload = backend.create_multipart_upload("objects", "parts", {}, None, None, None, None, None).id
    parts = {number: bytes([number]) * S3_UPLOAD_PART_MIN_SIZE for number in range(1, 7)}
    named = [(number, backend.upload_part("objects", upload, number, part).etag) for number, part in parts.items()]
    whole = hashlib.sha256(b"".join(parts.values())).digest()
    tracemalloc.start()
    try:
        backend.complete_multipart_upload("objects", upload, iter(named))
        stored, read = backend.get_object("objects", "parts"), hashlib.sha256()
        body = body_of(stored._content)
        assert isinstance(body, JoinedContent)
        for piece in body:
            read.update(piece)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (read.digest(), stored.size) == (whole, len(parts) * S3_UPLOAD_PART_MIN_SIZE)
    assert most < 2.5 * S3_UPLOAD_PART_MIN_SIZE
    backend.delete_object("objects", "parts")


def test_a_repeated_completion_of_an_upload_is_answered_again(moto: ClientPair, bucket: str) -> None:
    begun = moto.direct.request("s3", "POST", f"/{bucket}/k?uploads").body.decode()
    upload = f"/{bucket}/k?uploadId={begun.partition('<UploadId>')[2].partition('<')[0]}"
    etag = moto.direct.request("s3", "PUT", f"{upload}&partNumber=1", b"part").headers["etag"]
    named = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
    answers = [moto.direct.request("s3", "POST", upload, body) for _ in range(2)]
    assert [each.status for each in answers] == [200, 200]
    assert answers[0].body == answers[1].body
    assert moto.direct.request("s3", "GET", f"/{bucket}/k").body == b"part"


def rows_of_contents() -> int:
    """How many contents the store has."""
    return int(data().read("SELECT count(*) FROM contents")[0][0])


@pytest.mark.parametrize("size", [10, LARGE_BYTES])
def test_a_content_is_removed_with_its_object_and_its_last_reader(backend: S3Backend, size: int) -> None:
    files = data().folder / CONTENTS
    before, files_before = rows_of_contents(), len(list(files.iterdir()))
    old = backend.put_object("objects", "k", b"o" * size)
    backend.put_object("objects", "k", b"new")
    assert (old.value, rows_of_contents()) == (b"o" * size, before + 1)
    del old
    backend.delete_object("objects", "k")
    assert (rows_of_contents(), len(list(files.iterdir()))) == (before, files_before)


def test_an_object_is_not_put_into_a_bucket_that_was_deleted_meanwhile(backend: S3Backend) -> None:
    bucket, before = backend.create_bucket("deleted", REGION), rows_of_contents()
    backend.delete_bucket("deleted")
    with pytest.raises(MissingBucket):
        store_object(bucket, "k", b"content", {}, [])
    assert rows_of_contents() == before


def test_a_list_goes_on_by_a_token_that_another_process_made(moto: ClientPair, bucket: str) -> None:
    for name in "abc":
        moto.direct.request("s3", "PUT", f"/{bucket}/{name}", b"")
    page = moto.direct.request("s3", "GET", f"/{bucket}?list-type=2&max-keys=2").body.decode()
    [token] = re.findall("<NextContinuationToken>(.*)</NextContinuationToken>", page)
    s3_backends["123456789012"]["aws"]._pagination_tokens.clear()
    rest = moto.direct.request("s3", "GET", f"/{bucket}?list-type=2&continuation-token={quote(token)}").body.decode()
    assert re.findall("<Key>(.*)</Key>", rest) == ["c"]


def test_object_can_be_read_while_it_is_overwritten(backend: S3Backend) -> None:
    old = backend.put_object("objects", "k", b"old")
    backend.put_object("objects", "k", b"new")
    backend.delete_object("objects", "k")
    assert (old.value, old.etag) == (b"old", f'"{hashlib.sha256(b"old").hexdigest()[:ETAG_DIGITS]}"')


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
    """What a client can see of an answer; of a refusal, all but the request's identity."""
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


def test_each_put_without_a_signed_digest_has_an_etag_of_its_own(moto: ClientPair, bucket: str) -> None:
    etags = [
        moto.direct.request("s3", method, f"/{bucket}/k", b"x", HTTP_X_AMZ_CONTENT_SHA256=UNSIGNED_PAYLOAD).headers[
            "etag"
        ]
        for method in ("PUT", "GET", "PUT", "GET")
    ]
    assert etags[0] == etags[1] != etags[2] == etags[3]
    assert {len(etag) for etag in etags} == {ETAG_DIGITS + 2}


DELETION = '<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</Delete>'
CHECKSUM: dict[str, Any] = {"HTTP_X_AMZ_CHECKSUM_SHA256": "of-the-body", "CONTENT_TYPE": "application/xml"}


def listed(keys: list[str], further: str = "") -> str:
    return DELETION.format("".join(f"<Object><Key>{key}</Key>{further}</Object>" for key in keys))


@given(stored=st.sets(st.sampled_from("abcd")), keys=st.lists(st.sampled_from("abcd"), min_size=1, max_size=5))
def test_objects_are_deleted_together_as_by_stock_moto(moto: ClientPair, stored: set[str], keys: list[str]) -> None:
    seen = []
    for client, name in ((moto.direct, new_bucket(moto, "many")), (moto.stock, new_bucket(moto, "many"))):
        for key in stored:
            moto.stock.request("s3", "PUT", f"/{name}/{key}", b"x")
        reply = client.request("s3", "POST", f"/{name}?delete", listed(keys).encode(), **CHECKSUM)
        left = {key for key in "abcd" if moto.stock.request("s3", "GET", f"/{name}/{key}").status == 200}
        seen.append((reply.status, reply.headers["content-type"], reply.body, left))
    assert seen[0] == seen[1]
    assert seen[0][3] == stored - set(keys)


@pytest.mark.parametrize(
    ("method", "target", "environ"),
    [
        ("PUT", "/{}/k", {"HTTP_X_AMZ_COPY_SOURCE": "/{}/other"}),
        ("PUT", "/{}/k", {"HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM": "CRC32"}),
        ("PUT", "/{}/k", {"HTTP_X_AMZ_CONTENT_SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}),
        ("PUT", "/{}/k", {"HTTP_IF_NONE_MATCH": "*"}),
        ("GET", "/{}/k?tagging", {}),
        ("GET", "/{}/k", {"HTTP_RANGE": "bytes=0-1"}),
        ("GET", "/{}/k", {"HTTP_ORIGIN": "https://example.com"}),
        ("GET", "/{}/k", {"HTTP_AUTHORIZATION": None}),
        ("GET", "/{}/k?versionId=1", {}),
        ("GET", "/{}/k%20k", {}),
        ("GET", "/{}/missing", {}),
        ("HEAD", "/{}/k", {}),
    ],
)
def test_stock_moto_answers_calls_that_are_not_plain(
    moto: ClientPair, bucket: str, method: str, target: str, environ: dict[str, Any]
) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x")
    moto.stock.request("s3", "PUT", f"/{bucket}/other", b"x")
    filled = {name: value and value.format(bucket) for name, value in environ.items()}
    assert moto.needs_stock("s3", method, target.format(bucket), **filled)


def test_one_of_many_conditional_object_puts_succeeds(moto: ClientPair, bucket: str) -> None:
    def put(number: int) -> int:
        return moto.direct.request("s3", "PUT", f"/{bucket}/k", b"%d" % number, HTTP_IF_NONE_MATCH="*").status

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(put, range(8))) == [200] + [412] * 7


@pytest.mark.parametrize(
    ("aspect", "document"),
    [
        (
            "policy",
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
            '"Action": "s3:*", "Resource": "*"}]}',
        ),
    ],
)
def test_stock_moto_answers_for_configured_buckets(moto: ClientPair, bucket: str, aspect: str, document: str) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x")
    assert moto.stock.request("s3", "PUT", f"/{bucket}?{aspect}", document.encode()).status < 300
    for method in ("PUT", "GET", "DELETE"):
        assert moto.needs_stock("s3", method, f"/{bucket}/k")


def test_a_body_that_was_cut_off_is_refused_and_leaves_no_object(moto: ClientPair, bucket: str) -> None:
    assert moto.direct.request("s3", "PUT", f"/{bucket}/k", b"half", length=8).status == 400
    assert moto.stock.request("s3", "GET", f"/{bucket}/k").status == 404


def tags(moto: ClientPair, bucket: str) -> bytes:
    reply = moto.stock.request("s3", "GET", f"/{bucket}/k?tagging")
    return reply.body.partition(b"<TagSet")[2]


@pytest.mark.parametrize("header", ["kept=no", "kept=", "kept=no&colour=red"])
def test_stored_tags_are_those_of_stock_moto(moto: ClientPair, bucket: str, header: str) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING=header)
    stored_tags = tags(moto, bucket)
    moto.stock.request("s3", "DELETE", f"/{bucket}/k")
    assert b"<Key>" not in tags(moto, bucket)
    moto.direct.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING=header)
    assert tags(moto, bucket) == stored_tags
    assert b"<Key>" in stored_tags


@pytest.mark.parametrize("door", ["direct", "stock"])
def test_tags_do_not_outlive_the_object_that_had_them(moto: ClientPair, bucket: str, door: str) -> None:
    first: WsgiClient = getattr(moto, door)
    first.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING="colour=red")
    moto.direct.request("s3", "PUT", f"/{bucket}/k", b"y")
    assert b"red" not in moto.stock.request("s3", "GET", f"/{bucket}/k?tagging").body


def objects_of(kind: type) -> int:
    """How many objects of a type memory holds."""
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


def test_memory_holds_no_object_of_a_bucket(moto: ClientPair) -> None:
    bucket, before = new_bucket(moto), objects_of(FakeKey)
    for number in range(200):
        moto.direct.request("s3", "PUT", f"/{bucket}/{number}", b"content", CONTENT_TYPE="image/png")
    assert moto.direct.request("s3", "GET", f"/{bucket}/7").headers["content-type"] == "image/png"
    assert (objects_of(FakeKey), len(s3_backends["123456789012"]["aws"].buckets[bucket].keys)) == (before, 200)


@given(
    names=st.sets(st.text("ab/", min_size=1, max_size=5), max_size=40),
    prefix=st.sampled_from(["", "a", "a/", "b/a/"]),
    delimiter=st.sampled_from([None, "/", "b/"]),
    page=st.integers(1, 4),
)
def test_a_list_has_each_key_or_common_prefix_once_whatever_its_pages(
    names: set[str], prefix: str, delimiter: str | None, page: int
) -> None:
    apply_patches("s3")
    stored = StoredKeys("123456789012", "aws", f"list-{next(_names)}")
    for name in names:
        stored.setlist(name, [FakeKey(name, b"", account_id="123456789012", region_name=REGION)])
    found, after = list[str](), ""
    while some := [getattr(each, "name", each) for each in stored.entries(prefix, delimiter, after, page)]:
        found, after = found + some, some[-1]
    wanted = [name for name in names if name.startswith(prefix)]
    if delimiter:
        splits = [name[len(prefix) :].partition(delimiter) for name in wanted]
        wanted = [prefix + first + mark for first, mark, _ in splits]
    assert found == sorted(set(wanted))


@pytest.mark.parametrize(
    ("call", "headers", "named"),
    [
        ("PUT /{}?versioning", {}, "PUT with ?versioning"),
        ("GET /{}?versions", {}, "GET with ?versions"),
        ("GET /{}/k?partNumber=1", {}, "GET with ?partNumber"),
        ("DELETE /{}/k?versionId=null", {}, "DELETE with ?versionId"),
        ("PUT /{}/k?acl", {}, "PUT with ?acl"),
        ("PUT /{}/k", {"HTTP_X_AMZ_ACL": "public-read"}, "PUT with x-amz-acl"),
        ("POST /{}/k?uploads", {"HTTP_X_AMZ_GRANT_READ": "id=1"}, "POST with x-amz-grant-read"),
        ("PUT /{}-locked", {"HTTP_X_AMZ_BUCKET_OBJECT_LOCK_ENABLED": "true"}, "PUT with x-amz-bucket-object-lock"),
    ],
)
def test_a_call_that_one_row_for_each_key_cannot_serve_is_refused(
    moto: ClientPair, bucket: str, call: str, headers: dict[str, Any], named: str
) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_ACL="private")
    method, target = call.format(bucket).split()
    answer = moto.direct.request("s3", method, target, **headers)
    assert answer.status == 501
    assert b"<Code>NotImplemented</Code>" in answer.body
    assert named.encode() in answer.body
    assert moto.direct.request("s3", "GET", f"/{bucket}/k").body == b"x"


def test_copies_of_an_object_do_not_change_its_metadata(moto: ClientPair, bucket: str) -> None:
    moto.stock.request("s3", "PUT", f"/{bucket}/a", b"x", HTTP_CONTENT_ENCODING="gzip")
    moto.stock.request("s3", "PUT", f"/{bucket}/b", HTTP_X_AMZ_COPY_SOURCE=f"/{bucket}/a")
    for name in "ab":
        assert moto.stock.request("s3", "GET", f"/{bucket}/{name}").headers["content-encoding"] == "gzip"


def test_a_full_disk_is_answered_with_its_folder_and_the_remedy(moto: ClientPair, bucket: str) -> None:
    client, limits = WsgiClient(CountedCalls(moto.direct._application, CallCounter())), resource.getrlimit(FILE_SIZE)
    resource.setrlimit(FILE_SIZE, (LARGE_BYTES // 2, limits[1]))
    try:
        answer = client.request("s3", "PUT", f"/{bucket}/a", bytes(LARGE_BYTES))
    finally:
        resource.setrlimit(FILE_SIZE, limits)
    assert answer.status == 503
    assert f"temporary files in {data().folder.parent} cannot be written" in answer.body.decode()
    assert "name another folder in TMPDIR" in answer.body.decode()
    assert moto.direct.request("s3", "GET", f"/{bucket}/a").status == 404
    assert client.request("s3", "PUT", f"/{bucket}/a", bytes(LARGE_BYTES)).status == 200


FORM = "multipart/form-data; boundary=b"


def part(name: str, content: str) -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{content}\r\n'


KEY, FILE, END = part("key", "k"), part('file"; filename="a', "x"), "--b--\r\n"


def post_form(body: str, path: str = "/photos", **environ: str | None) -> tuple[str, str]:
    """Return the status of the answer, and S3's code in it; `passed on` where another one answered."""
    begun: list[str] = []
    request: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "CONTENT_TYPE": FORM,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body.encode()),
        **environ,
    }
    given = {name: value for name, value in request.items() if value is not None}
    application = PostObjects(lambda environ, start_response: [b"<Code>passed on</Code>"])
    answer = b"".join(application(given, lambda status, headers: begun.append(status))).decode()
    code = re.search("<Code>(.*)</Code>", answer)
    return (begun[0] if begun else "", code[1] if code else "")


@pytest.mark.parametrize(
    ("body", "changes", "code"),
    [
        (KEY + FILE + END, {"CONTENT_LENGTH": None}, "MissingContentLength"),
        (KEY + FILE + END, {"CONTENT_LENGTH": "9999"}, "IncompleteBody"),
        (KEY + FILE + END, {"CONTENT_LENGTH": str(MAX_FORM_BYTES + 1)}, "EntityTooLarge"),
        ("no form", {}, "MalformedPOSTRequest"),
        (KEY + END, {}, "InvalidArgument"),
        (KEY + KEY + FILE + END, {}, "InvalidArgument"),
        (KEY + part("policy", "p" * (MAX_FIELD_CHARACTERS + 1)) + FILE + END, {}, "InvalidArgument"),
    ],
)
def test_incomplete_form_is_a_bad_request(body: str, changes: dict[str, Any], code: str) -> None:
    assert post_form(body, **changes) == ("400 Bad Request", code)


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRETS = {owner_key().id: owner_key().secret}


def with_policy(conditions: Any, fields: Mapping[str, str], size: int = 5, expiration: Any = None) -> Form:
    document = {"expiration": expiration or (NOW + timedelta(seconds=1)).isoformat(), "conditions": conditions}
    policy = base64.b64encode(json.dumps(document).encode()).decode()
    return Form("photos", {**fields, "policy": policy}, size)


def rejection_of(form: Form, now: datetime = NOW) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        check_policy(form, now)
    return refused.value


@cache
def signed() -> dict[str, str]:
    """Return the fields of a form that botocore signed."""
    fixed = {"Content-Type": "image/png", "Content-Disposition": "attachment"}
    conditions = [*({name: value} for name, value in fixed.items()), ["content-length-range", 1, 5]]
    client = boto3.client("s3", "eu-central-1", config=Config(signature_version="s3v4"))
    form = client.generate_presigned_post("photos", "a", Fields=fixed, Conditions=conditions, ExpiresIn=60)
    return {name.lower(): value for name, value in form["fields"].items()}


@given(at=st.integers(0), to=st.sampled_from("ABCabc012+/"))
def test_a_policy_that_was_touched_is_not_signed(at: int, to: str) -> None:
    fields = signed()
    policy = fields["policy"]
    at %= len(policy)
    touched = policy[:at] + to + policy[at + 1 :]
    form = Form("photos", {**fields, "policy": touched}, 5)
    if touched != policy:
        with pytest.raises(RefusedError, match="signature") as refused:
            signer_of(form, SECRETS.get)
        assert (refused.value.status, refused.value.code) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"policy": None}, 403, "AccessDenied"),
        ({"x-amz-signature": None}, 400, "InvalidArgument"),
        ({"x-amz-algorithm": "AWS4-HMAC-SHA1"}, 400, "InvalidArgument"),
        ({"x-amz-credential": "embedded"}, 400, "InvalidArgument"),
        ({"x-amz-credential": "nobody/20260301/us-east-1/s3/aws4_request"}, 403, "InvalidAccessKeyId"),
        ({"x-amz-credential": "OWNER/20260301/us-east-1/s3/aws4_request"}, 403, "SignatureDoesNotMatch"),
    ],
)
def test_form_without_signature_is_rejected(changes: dict[str, str | None], status: int, code: str) -> None:
    changed = {**signed(), **changes}.items()
    fields = {name: value.replace("OWNER", owner_key().id) for name, value in changed if value is not None}
    with pytest.raises(RefusedError) as refused:
        signer_of(Form("photos", fields, 5), SECRETS.get)
    assert (refused.value.status, refused.value.code) == (status, code)


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        ([{"key": "a"}], {"key": "a"}),
        ([{"Content-Type": "image/png"}, {"bucket": "photos"}], {"content-type": "image/png"}),
        ([["content-length-range", 5, 5]], {}),
        ([], {"x-amz-signature": "0"}),
    ],
)
def test_form_is_accepted_if_all_conditions_hold(conditions: Any, fields: dict[str, str]) -> None:
    check_policy(with_policy(conditions, fields), NOW)


@pytest.mark.parametrize(
    ("conditions", "fields", "message"),
    [
        ([{"key": "a"}], {"key": "b"}, 'Policy Condition failed: {"key": "a"}'),
        ([{"key": "a"}], {}, "Policy Condition failed"),
        ([{"key": "a"}], {"key": "a", "acl": "public-read"}, "Extra input fields: acl"),
        ([], {"key": "a"}, "Extra input fields: key"),
    ],
)
def test_form_is_denied_if_a_condition_fails_or_a_field_has_none(
    conditions: Any, fields: dict[str, str], message: str
) -> None:
    refused = rejection_of(with_policy(conditions, fields))
    assert (refused.status, refused.code) == (403, "AccessDenied")
    assert message in refused.message


@pytest.mark.parametrize(("size", "code"), [(4, "EntityTooSmall"), (8, "EntityTooLarge")])
def test_file_size_must_be_in_the_policys_range(size: int, code: str) -> None:
    for allowed in (5, 7):
        check_policy(with_policy([["content-length-range", 5, 7]], {}, allowed), NOW)
    refused = rejection_of(with_policy([["content-length-range", 5, 7]], {}, size))
    assert (refused.status, refused.code) == (400, code)


def test_a_policy_ends_at_its_moment() -> None:
    form = with_policy([], {}, expiration=NOW.isoformat())
    check_policy(form, NOW - timedelta(seconds=1))
    refused = rejection_of(form, NOW)
    assert (refused.status, refused.code) == (403, "AccessDenied")
    assert "expired" in refused.message


@pytest.mark.parametrize(
    ("conditions", "expiration"),
    [
        ([["content-length-range", "1", "2"]], None),
        ([["starts-with", "$key", "a"]], None),
        ("everything", None),
        ([], "tomorrow"),
    ],
)
def test_malformed_form_policy_denies(conditions: Any, expiration: Any) -> None:
    for form in (with_policy(conditions, {}, expiration=expiration), Form("photos", {"policy": "!"}, 5)):
        refused = rejection_of(form)
        assert (refused.status, refused.code) == (400, "InvalidPolicyDocument")


@pytest.mark.parametrize("text", ["kept=no", "<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>"])
def test_malformed_tags_of_a_form_are_refused(text: str) -> None:
    with pytest.raises(RefusedError) as refused:
        tags_of_form(text)
    assert (refused.value.status, refused.value.code) == (400, "MalformedXML")
