"""Where the template of a request comes from: its body, an object in a bucket, or the stack as it is."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import ClientError

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.kinds.kind import ClientOf
from services.embedded.stacks.template import LONGEST_BODY_BYTES, LONGEST_OBJECT_BYTES, Template, read


def template_of(parameters: Mapping[str, Any], there: Template | None, client: ClientOf) -> Template:
    """Return the template that a request wants.

    Args:
        parameters: of the request.
        there: the stack's, which ``UsePreviousTemplate`` and a request without any mean.
        client: of S3.

    Raises:
        StackError: there is none, it is too large, or it is not one.
    """
    body, url = parameters.get("TemplateBody"), parameters.get("TemplateURL")
    if body is not None:
        if len(body.encode()) > LONGEST_BODY_BYTES:
            raise StackError(
                "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: "
                f"Member must have length less than or equal to {LONGEST_BODY_BYTES}"
            )
        return read(body)
    if url is not None:
        return read(_object(url, client("s3")))
    if there is None:
        raise StackError("Either Template URL or Template Body must be specified.")
    return there


def place_of(url: str) -> tuple[str, str]:
    """Return bucket and key of an object by its URL, in either of the two styles.

    Raises:
        StackError: it is not one of an object.
    """
    parts = urlsplit(url)
    host, path = parts.hostname or "", unquote(parts.path.lstrip("/"))
    bucket, dot, service = host.partition(".s3")
    if dot and (service == "" or service[0] in ".-"):
        found = bucket, path
    else:
        first, _, rest = path.partition("/")
        found = first, rest
    if not all(found):
        raise StackError(f"TemplateURL must be a supported URL: {url!r} names no object of a bucket")
    return found


def _object(url: str, s3: Any) -> str:
    bucket, key = place_of(url)
    try:
        content: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        raise StackError(f"S3 error: {error.response['Error'].get('Message', error)}") from error
    if len(content) > LONGEST_OBJECT_BYTES:
        raise StackError(f"Template may not exceed {LONGEST_OBJECT_BYTES} bytes in size.")
    return content.decode()
