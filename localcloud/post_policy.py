"""What S3 checks of a presigned POST form: its signature, its policy's expiry, and every condition of the policy.

As https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html says; moto checks none of it.
Signature Version 4 only.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from localcloud.access_keys import signing_key

_CREDENTIAL = re.compile(r"([\w-]+)/(\d{8})/([a-z0-9-]+)/s3/aws4_request")
_ALGORITHM = "AWS4-HMAC-SHA256"
_SIGNED_WITH = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")
_OUTSIDE_OF_POLICY = frozenset({"policy", "file", "x-amz-signature"})
_IGNORED = "x-ignore-"


class RefusedError(Exception):
    """Raised when a form is refused; `status` and `code` are S3's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class Form:
    """A form as it arrived: the bucket it was sent to, its fields by their names in lower case, its file's bytes."""

    bucket: str
    fields: Mapping[str, str]
    size: int


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer of a form: the access key, and the region of its scope."""

    access_key: str
    region: str


def signer_of(form: Form, secret_of: Callable[[str], str | None]) -> Signer:
    """Return who signed the form.

    Args:
        form: the form.
        secret_of: returns the secret of an access key, None when there is no such key.

    Raises:
        RefusedError: it has no signature, or not that of the key.
    """
    fields = form.fields
    if "policy" not in fields:
        raise _denied("Access Denied")
    for name in _SIGNED_WITH:
        if name not in fields:
            raise RefusedError(400, "InvalidArgument", f"Bucket POST must contain a field named '{name}'.")
    scope = _CREDENTIAL.fullmatch(fields["x-amz-credential"])
    if fields["x-amz-algorithm"] != _ALGORITHM or scope is None:
        raise RefusedError(400, "InvalidArgument", "The algorithm or the credential of the form is malformed.")
    access_key, day, region = scope.groups()
    secret = secret_of(access_key)
    if secret is None:
        raise RefusedError(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
    key = signing_key(secret, day, region, "s3")
    signature = hmac.new(key, fields["policy"].encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature.encode(), fields["x-amz-signature"].encode()):
        raise RefusedError(403, "SignatureDoesNotMatch", "The signature does not match the one we calculated.")
    return Signer(access_key, region)


def check_policy(form: Form, now: datetime) -> None:
    """Check the form against the policy in it, after its signature.

    Raises:
        RefusedError: when the policy has expired, the form breaks one of its conditions, or it does not speak of a
            field of the form.
    """
    expires_at, conditions = _parsed(form.fields["policy"])
    if now >= expires_at:
        raise _denied("Invalid according to Policy: Policy expired.")
    spoken_of = {_check(form, condition) for condition in conditions}
    extra = [name for name in form.fields if name not in spoken_of | _OUTSIDE_OF_POLICY]
    if unspoken := [name for name in extra if not name.startswith(_IGNORED)]:
        raise _denied(f"Invalid according to Policy: Extra input fields: {', '.join(unspoken)}")


def _check(form: Form, condition: Any) -> str:
    """Check one condition; return the name of the field that it speaks of."""
    match condition:
        case {**pairs} if len(pairs) == 1:
            [(name, wanted)] = pairs.items()
            return _check_field(form, "eq", f"${name}", wanted)
        case ["content-length-range", int(least), int(most)]:
            if form.size > most:
                raise RefusedError(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
            if form.size < least:
                raise RefusedError(
                    400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size"
                )
            return "file"
        case [str(operator), str(name), str(wanted)] if operator in {"eq", "starts-with"} and name.startswith("$"):
            return _check_field(form, operator, name, wanted)
    raise _invalid(f"Invalid condition: {json.dumps(condition)}")


def _check_field(form: Form, operator: str, name: str, wanted: Any) -> str:
    field = name.removeprefix("$").lower()
    found = form.bucket if field == "bucket" else form.fields.get(field, "")
    holds = found == wanted if operator == "eq" else found.startswith(wanted)
    if not holds:
        failed = json.dumps([operator, name, wanted])
        raise _denied(f"Invalid according to Policy: Policy Condition failed: {failed}")
    return field


def _parsed(policy: str) -> tuple[datetime, list[Any]]:
    try:
        document = json.loads(base64.b64decode(policy, validate=True))
        expires_at, conditions = datetime.fromisoformat(document["expiration"]), document["conditions"]
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid(f"Invalid Policy: {error!r}") from error
    if not isinstance(conditions, list):
        raise _invalid("Invalid Policy: conditions is no list")
    return expires_at if expires_at.tzinfo else expires_at.replace(tzinfo=UTC), conditions


def _denied(message: str) -> RefusedError:
    return RefusedError(403, "AccessDenied", message)


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "InvalidPolicyDocument", message)
