"""S3: content outlives its key, plain calls are answered as by stock moto, and forms are checked as by S3."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from typing import Any

import boto3
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st
from moto import settings
from moto.s3.models import S3Backend, s3_backends

from localcloud.access_keys import owner_key
from localcloud.launch import REGION
from localcloud.patches import apply_patches
from localcloud.s3.posts import (
    MAX_FIELD_BYTES,
    MAX_FORM_BYTES,
    MAX_TAGS,
    Form,
    PostObjects,
    RefusedError,
    check_policy,
    signer_of,
    tags_of_form,
)
from localcloud.s3.stored_keys import ETAG_DIGITS
from localcloud.signatures import UNSIGNED_PAYLOAD
from localcloud.tests.support.wsgi_clients import ClientPair, Reply, WsgiClient


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
        ("PUT", "/{}/k", {"CONTENT_TYPE": "multipart/form-data; boundary=x"}),
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
        ("versioning", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"),
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


def test_unknown_key_is_denied_where_moto_enforces_permissions(
    moto: ClientPair, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # as `POST /moto-api/reset-auth` does
    assert moto.direct.request("s3", "PUT", f"/{bucket}/k", b"x").status == 403


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
    counted = moto.stock.request("s3", "GET", f"/{bucket}/k").headers["x-amz-tagging-count"]
    moto.stock.request("s3", "DELETE", f"/{bucket}/k")
    assert b"<Key>" not in tags(moto, bucket)
    moto.direct.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING=header)
    assert tags(moto, bucket) == stored_tags
    assert b"<Key>" in stored_tags
    assert moto.direct.request("s3", "GET", f"/{bucket}/k").headers["x-amz-tagging-count"] == counted


@pytest.mark.parametrize("door", ["direct", "stock"])
def test_tags_do_not_outlive_the_object_that_had_them(moto: ClientPair, bucket: str, door: str) -> None:
    first: WsgiClient = getattr(moto, door)
    first.request("s3", "PUT", f"/{bucket}/k", b"x", HTTP_X_AMZ_TAGGING="colour=red")
    moto.direct.request("s3", "PUT", f"/{bucket}/k", b"y")
    assert b"red" not in moto.stock.request("s3", "GET", f"/{bucket}/k?tagging").body


FORM = "multipart/form-data; boundary=b"


def part(name: str, content: str) -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{content}\r\n'


KEY, FILE, END = part("key", "k"), part("file", "x"), "--b--\r\n"


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
        (FILE + KEY + END, {}, "InvalidArgument"),
        (KEY + KEY + FILE + END, {}, "InvalidArgument"),
        (KEY + part("policy", "p" * (MAX_FIELD_BYTES + 1)) + FILE + END, {}, "InvalidArgument"),
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
        ([["eq", "$key", "a"]], {"key": "a"}),
        ([["starts-with", "$key", "user/"]], {"key": "user/a"}),
        ([["starts-with", "$Content-Type", "image/"], {"bucket": "photos"}], {"content-type": "image/png"}),
        ([["content-length-range", 5, 5]], {}),
        ([], {"x-ignore-me": "whatever", "x-amz-signature": "0"}),
    ],
)
def test_form_is_accepted_if_all_conditions_hold(conditions: Any, fields: dict[str, str]) -> None:
    check_policy(with_policy(conditions, fields), NOW)


@pytest.mark.parametrize(
    ("conditions", "fields", "message"),
    [
        ([{"key": "a"}], {"key": "b"}, 'Policy Condition failed: ["eq", "$key", "a"]'),
        ([{"key": "a"}], {}, "Policy Condition failed"),
        ([["starts-with", "$key", "user/"]], {"key": "other/a"}, "Policy Condition failed"),
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
        ([["matches", "$key", "a"]], None),
        ("everything", None),
        ([], "tomorrow"),
    ],
)
def test_malformed_form_policy_denies(conditions: Any, expiration: Any) -> None:
    for form in (with_policy(conditions, {}, expiration=expiration), Form("photos", {"policy": "!"}, 5)):
        refused = rejection_of(form)
        assert (refused.status, refused.code) == (400, "InvalidPolicyDocument")


def tagging_xml(*tags: tuple[str, str]) -> str:
    each = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags)
    return f"<Tagging><TagSet>{each}</TagSet></Tagging>"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("kept=no", "MalformedXML"),
        ("<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>", "MalformedXML"),
        (tagging_xml(("a", "1"), ("a", "2")), "InvalidTag"),
        (tagging_xml(("aws:a", "1")), "InvalidTag"),
        (tagging_xml(("a", "b" * 257)), "InvalidTag"),
        (tagging_xml(*((str(n), "") for n in range(MAX_TAGS + 1))), "BadRequest"),
    ],
)
def test_invalid_object_tags_are_rejected(text: str, code: str) -> None:
    with pytest.raises(RefusedError) as refused:
        tags_of_form(text)
    assert (refused.value.status, refused.value.code) == (400, code)
