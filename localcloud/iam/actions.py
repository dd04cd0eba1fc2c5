"""The permissions that a call needs: actions, resources and condition keys, by the Service Authorization Reference.

https://docs.aws.amazon.com/service-authorization/latest/reference/ has a page for each service. A call of a service
without rules here, and a call without resources, needs ``service:Operation`` on ``*``. Condition keys that the
reference does not list for an action and its resource are left out (`reference`).
"""

import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote
from xml.etree import ElementTree

from moto.utilities.utils import get_partition

from localcloud.iam.calls import ApiCall, UnknownCallError
from localcloud.iam.policies import PermissionCheck
from localcloud.iam.reference import is_known, known_keys
from localcloud.signatures import public_cognito_operations

_PREFIXES = {"monitoring": "cloudwatch", "email": "ses"}
"""Prefixes of actions that differ from the service's signing name."""


def permission_checks_of(call: ApiCall) -> tuple[PermissionCheck, ...]:
    """Return the permissions that a call needs; none if AWS checks no policy.

    Raises:
        UnknownCallError: the request cannot be identified.
    """
    if call.service == "ec2":  # late, since it imports moto's EC2
        from localcloud.iam.ec2_actions import ec2_checks

        checks = ec2_checks(call)
    elif call.service in _CHECKS:
        checks = _CHECKS[call.service](call)
    else:
        prefix = _PREFIXES.get(call.service, call.service)
        return (PermissionCheck(f"{prefix}:{call.operation}", "*", {}),)
    found = []
    for check in checks:
        keys = known_keys(check.action, check.resource)
        context = {name: each for name, each in check.context.items() if keys is None or is_known(name, keys)}
        found.append(PermissionCheck(check.action, check.resource, context))
    return tuple(found)


def _cognito_idp_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the checks of a call of user pools (list_amazoncognitouserpools.html), on the pool that it names."""
    if call.operation in public_cognito_operations():
        return
    pool = call.parameters.get("UserPoolId")
    resource = call.arn("cognito-idp", f"userpool/{pool}") if pool else "*"
    yield PermissionCheck(f"cognito-idp:{call.operation}", resource, {})


_ACTIONS_OF_A_TRANSACTION = {
    "ConditionCheck": "ConditionCheckItem",
    "Delete": "DeleteItem",
    "Get": "GetItem",
    "Put": "PutItem",
    "Update": "UpdateItem",
}


def _dynamodb_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Return the checks of a call of DynamoDB (list_amazondynamodb.html).

    A batch needs its action on each of its tables, a transaction the single action of each of its items.
    """
    operation, parameters = call.operation, call.parameters
    if operation in {"BatchGetItem", "BatchWriteItem"}:
        pairs = [(operation, name) for name in parameters.get("RequestItems", {})]
    elif operation in {"TransactGetItems", "TransactWriteItems"}:
        parts = [part for item in parameters.get("TransactItems", []) for part in item.items()]
        pairs = [(_ACTIONS_OF_A_TRANSACTION[kind], part["TableName"]) for kind, part in parts]
    else:
        pairs = [(operation, parameters.get("TableName") or parameters.get("ResourceArn") or "")]
    index = f"/index/{parameters['IndexName']}" if parameters.get("IndexName") else ""
    for action, name in dict.fromkeys(pairs):
        arn = name if name.startswith("arn:") else call.arn("dynamodb", f"table/{name}")
        yield PermissionCheck(f"dynamodb:{action}", f"{arn}{index}" if name else "*", {})


def _logs_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the check of a call of CloudWatch Logs (list_amazoncloudwatchlogs.html), on the stream that it names.

    The stream is empty if the call names none, so that a policy names a group as ``log-group:NAME:*``
    (https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/iam-access-control-overview-cwl.html).
    """
    group = call.parameters.get("logGroupName")
    of_stream = call.operation in {"PutLogEvents", "GetLogEvents", "DeleteLogStream"}
    stream = call.parameters.get("logStreamName", "") if of_stream else ""
    resource = call.arn("logs", f"log-group:{group}:log-stream:{stream}") if group else "*"
    yield PermissionCheck(f"logs:{call.operation}", resource, {})


def _sqs_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the check of a call of SQS (list_amazonsqs.html); a batch needs the action of a single message."""
    parameters = call.parameters
    # In the Query protocol the request's own URL may be that of the queue.
    address = str(parameters.get("QueueUrl") or call.environ.get("PATH_INFO", ""))
    name = str(parameters.get("QueueName") or address.rpartition("/")[2])
    resource = str(parameters.get("SourceArn") or (call.arn("sqs", name) if name else "*"))
    yield PermissionCheck(f"sqs:{call.operation.removesuffix('Batch')}", resource, {})


def _sns_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the check of a call of SNS (list_amazonsns.html), on the topic that it names."""
    yield PermissionCheck(f"sns:{call.operation}", str(call.parameters.get("TopicArn") or "*"), {})


def _ssm_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the checks of a call of Systems Manager (list_awssystemsmanager.html), on each of its parameters."""
    parameters = call.parameters
    of_parameter = "Parameter" in call.operation
    named = parameters.get("Names") or [parameters.get("Name") or parameters.get("Path") or ""]
    for name in named:
        resource = call.arn("ssm", f"parameter/{name.lstrip('/')}") if of_parameter and name else "*"
        yield PermissionCheck(f"ssm:{call.operation}", resource, {})


ASSUME_ROLE = "sts:AssumeRole"


def _sts_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the check of a call of STS (list_awssecuritytokenservice.html). Reading the own identity needs none."""
    if call.operation in {"GetCallerIdentity", "GetSessionToken"}:
        return
    context = {}
    for key, parameter in (("sts:rolesessionname", "RoleSessionName"), ("sts:externalid", "ExternalId")):
        if value := call.parameters.get(parameter):
            context[key] = (str(value),)
    yield PermissionCheck(f"sts:{call.operation}", str(call.parameters.get("RoleArn") or "*"), context)


_LOCAL_HOST = re.compile(r"(?:127\.0\.0\.1|localhost)(?::\d+)?")

_BUCKET_SUBRESOURCES = {
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
_OBJECT_SUBRESOURCES = {"acl": "Acl", "tagging": "Tagging", "retention": "Retention", "legal-hold": "LegalHold"}
_S3_ACTIONS = {
    ("GET", False): "ListBucket",
    ("HEAD", False): "ListBucket",
    ("PUT", False): "CreateBucket",
    ("DELETE", False): "DeleteBucket",
    ("GET", True): "GetObject",
    ("HEAD", True): "GetObject",
    ("PUT", True): "PutObject",
    ("DELETE", True): "DeleteObject",
}
_S3_ACTIONS_BY_PARAMETER = {  # of a parameter that changes the action
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
_HARMLESS_PARAMETERS = frozenset(
    {*_KEYS_OF_A_LIST, "continuation-token", "encoding-type", "fetch-owner", "list-type", "marker", "partNumber",
     "start-after", "x-id"}
)  # fmt: skip
"""Parameters of S3 that do not change the action, like those of signatures and of answers' headers."""

_SIGNATURE_PARAMETER = re.compile(r"x-amz-|response-|(awsaccesskeyid|signature|expires)$", re.IGNORECASE)
_WITH_HEADER = {"HTTP_X_AMZ_ACL": "s3:PutObjectAcl", "HTTP_X_AMZ_TAGGING": "s3:PutObjectTagging"}


def s3_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the checks of a call of S3 (list_amazons3.html), on the bucket or the object that its path names.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html has the actions of each
    request. A caller that may read the objects of a bucket but not list it does not learn that an object is missing:
    S3 checks ``s3:ListBucket`` before it answers 404.

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

    action, resource = _s3_action(call, bool(key)), _s3_arn(call, bucket, key)
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


def _s3_action(call: ApiCall, of_object: bool) -> str:
    verb = {"GET": "Get", "HEAD": "Get", "DELETE": "Delete"}.get(call.method, "Put")
    for name in call.query:
        if found := _S3_ACTIONS_BY_PARAMETER.get((call.method, name)):
            return f"s3:{found}"
        if of_object and name in _OBJECT_SUBRESOURCES:
            return f"s3:{verb}Object{_OBJECT_SUBRESOURCES[name]}"
        if not of_object and name in _BUCKET_SUBRESOURCES:
            # Of these only the policy and the web site have an action to delete them; the others are put again.
            put_again = verb == "Delete" and name not in {"policy", "website"}
            return f"s3:{'Put' if put_again else verb}{_BUCKET_SUBRESOURCES[name]}"
    unknown = [
        name for name in call.query if not _SIGNATURE_PARAMETER.match(name) and name not in _HARMLESS_PARAMETERS
    ]
    plain = _S3_ACTIONS.get((call.method, of_object))
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


_CHECKS: dict[str, Callable[[ApiCall], Iterable[PermissionCheck]]] = {
    "cognito-idp": _cognito_idp_checks,
    "dynamodb": _dynamodb_checks,
    "logs": _logs_checks,
    "s3": s3_checks,
    "sns": _sns_checks,
    "sqs": _sqs_checks,
    "ssm": _ssm_checks,
    "sts": _sts_checks,
}
