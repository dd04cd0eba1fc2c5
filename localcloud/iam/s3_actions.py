"""The permissions that a call of S3 needs (list_amazons3.html).

https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html has the actions of each
request. A caller that may read the objects of a bucket but not list it does not learn that an object is missing: S3
checks ``s3:ListBucket`` before it answers 404.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote
from xml.etree import ElementTree

from moto.utilities.utils import get_partition

from localcloud.iam.calls import ApiCall, UnknownCallError
from localcloud.iam.policies import PermissionCheck

_LOCAL_HOST = re.compile(r"(?:127\.0\.0\.1|localhost)(?::\d+)?")

_OF_A_BUCKET = {
    "acl": "BucketAcl",
    "cors": "BucketCORS",
    "encryption": "EncryptionConfiguration",
    "lifecycle": "LifecycleConfiguration",
    "location": "BucketLocation",
    "logging": "BucketLogging",
    "notification": "BucketNotification",
    "object-lock": "BucketObjectLockConfiguration",
    "ownershipControls": "BucketOwnershipControls",
    "policy": "BucketPolicy",
    "policyStatus": "BucketPolicyStatus",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "replication": "ReplicationConfiguration",
    "tagging": "BucketTagging",
    "versioning": "BucketVersioning",
    "website": "BucketWebsite",
}
_OF_AN_OBJECT = {"acl": "Acl", "tagging": "Tagging", "retention": "Retention", "legal-hold": "LegalHold"}
_PLAIN = {
    ("GET", False): "ListBucket",
    ("HEAD", False): "ListBucket",
    ("PUT", False): "CreateBucket",
    ("DELETE", False): "DeleteBucket",
    ("GET", True): "GetObject",
    ("HEAD", True): "GetObject",
    ("PUT", True): "PutObject",
    ("DELETE", True): "DeleteObject",
}
_BY_NAME = {  # of a parameter that changes the action
    ("GET", "uploads"): "ListBucketMultipartUploads",
    ("GET", "versions"): "ListBucketVersions",
    ("GET", "uploadId"): "ListMultipartUploadParts",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("POST", "uploads"): "PutObject",
    ("POST", "uploadId"): "PutObject",
    ("PUT", "uploadId"): "PutObject",
    ("GET", "versionId"): "GetObjectVersion",
    ("HEAD", "versionId"): "GetObjectVersion",
    ("DELETE", "versionId"): "DeleteObjectVersion",
    ("GET", "attributes"): "GetObjectAttributes",
}
_KEYS_OF_A_LIST = {"prefix": "s3:prefix", "delimiter": "s3:delimiter", "max-keys": "s3:max-keys"}
_HARMLESS = frozenset(
    {*_KEYS_OF_A_LIST, "continuation-token", "encoding-type", "fetch-owner", "list-type", "marker", "partNumber",
     "start-after", "x-id"}
)  # fmt: skip
"""Parameters that do not change the action, like those of signatures and of answers' headers."""

_SIGNING = re.compile(r"x-amz-|response-|(awsaccesskeyid|signature|expires)$", re.IGNORECASE)
_WITH_HEADER = {"HTTP_X_AMZ_ACL": "s3:PutObjectAcl", "HTTP_X_AMZ_TAGGING": "s3:PutObjectTagging"}


def s3_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the checks of a call, on the bucket or the object that its path names.

    Raises:
        UnknownCallError: the path names no bucket, or the parameters are unknown.
    """
    if _LOCAL_HOST.fullmatch(call.environ.get("HTTP_HOST", "")) is None:
        raise UnknownCallError(f"the bucket may stand in the host {call.environ.get('HTTP_HOST')!r}, not in the path")
    # WSGI decodes the path as Latin-1.
    path = str(call.environ.get("PATH_INFO", "")).encode("latin-1", "replace").decode(errors="replace")
    bucket, _, key = path.lstrip("/").partition("/")
    if not bucket:
        yield PermissionCheck("s3:ListAllMyBuckets", "*", {})
    elif call.method == "POST" and not key and "delete" in call.query:
        # One denied key denies the call; S3 would delete the others.
        try:
            keys = [each.text or "" for each in ElementTree.fromstring(call.body).iterfind("{*}Object/{*}Key")]  # nosec B314 # noqa: S314 - the caller's own
        except ElementTree.ParseError as error:
            raise UnknownCallError(f"DeleteObjects names no keys: {error}") from error
        for each in keys:
            yield PermissionCheck("s3:DeleteObject", _s3_arn(call, bucket, each), {})
    else:
        yield from _bucket_or_object(call, bucket, key)


def _bucket_or_object(call: ApiCall, bucket: str, key: str) -> Iterable[PermissionCheck]:
    from moto.s3.models import s3_backends

    action, resource = _action(call, bool(key)), _s3_arn(call, bucket, key)
    of_list = {name: (call.query[each],) for each, name in _KEYS_OF_A_LIST.items() if each in call.query}
    yield PermissionCheck(action, resource, of_list if action == "s3:ListBucket" else {})
    if action == "s3:PutObject":
        if source := call.environ.get("HTTP_X_AMZ_COPY_SOURCE"):
            copied, _, name = unquote(source).lstrip("/").partition("?")[0].partition("/")
            yield PermissionCheck("s3:GetObject", _s3_arn(call, copied, name), {})
        for header, further in _WITH_HEADER.items():
            if header in call.environ:
                yield PermissionCheck(further, resource, {})
    if action == "s3:GetObject":
        found = s3_backends[call.account][get_partition(call.region)].buckets.get(bucket)
        if found is not None and key not in found.keys:  # S3 reveals to any caller that a bucket is missing
            yield PermissionCheck("s3:ListBucket", _s3_arn(call, bucket), {})


def _action(call: ApiCall, of_object: bool) -> str:
    verb = {"GET": "Get", "HEAD": "Get", "DELETE": "Delete"}.get(call.method, "Put")
    for name in call.query:
        if found := _BY_NAME.get((call.method, name)):
            return f"s3:{found}"
        if of_object and name in _OF_AN_OBJECT:
            return f"s3:{verb}Object{_OF_AN_OBJECT[name]}"
        if not of_object and name in _OF_A_BUCKET:
            # Of these only the policy and the web site have an action to delete them; the others are put again.
            put_again = verb == "Delete" and name not in {"policy", "website"}
            return f"s3:{'Put' if put_again else verb}{_OF_A_BUCKET[name]}"
    unknown = [name for name in call.query if not _SIGNING.match(name) and name not in _HARMLESS]
    plain = _PLAIN.get((call.method, of_object))
    if unknown or plain is None:
        raise UnknownCallError(f"{call.method} with the parameters {unknown} of S3 is not known here")
    return f"s3:{plain}"


def _s3_arn(call: ApiCall, bucket: str, key: str = "") -> str:
    place = f"{bucket}/{key}" if key else bucket
    return f"arn:{get_partition(call.region)}:s3:::{place}"


def put_object_checks(bucket: str, key: str, region: str, *, tagged: bool) -> list[PermissionCheck]:
    """Return the checks of a form that puts an object, with or without tags."""
    resource = f"arn:{get_partition(region)}:s3:::{bucket}/{key}"
    actions = ["s3:PutObject", "s3:PutObjectTagging"] if tagged else ["s3:PutObject"]
    return [PermissionCheck(action, resource, {}) for action in actions]
