"""Requests to the local cloud that the cloud's owner has signed, for tests that need the bytes of a request."""

from collections.abc import Mapping

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from localcloud.access_keys import owner_key
from localcloud.launch import REGION


def signed(service: str, method: str, url: str, body: bytes = b"", **headers: str) -> Mapping[str, str]:
    """Return the headers of a request, the given ones and the signature of the cloud's owner.

    Args:
        service: as its signature names it, such as ``sqs``.
        method: of HTTP.
        url: with address and path.
        body: of the request.
        headers: with underscores for dashes.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = AWSRequest(method, url, named, body)
    auth = S3SigV4Auth if service == "s3" else SigV4Auth
    auth(Credentials(owner_key().id, owner_key().secret), service, REGION).add_auth(request)
    return dict(request.headers.items())
