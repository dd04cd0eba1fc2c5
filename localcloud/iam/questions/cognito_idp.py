"""User pools: list_amazoncognitouserpools.html. Calls are asked of the pool that they name.

Signing up, signing in and the like may be asked by anybody, signed or not, and no policy is looked at
(https://docs.aws.amazon.com/cognito/latest/developerguide/authentication-flows-public-server-side.html).
"""

import functools
from collections.abc import Iterable
from typing import Any

import botocore.session

from localcloud.iam.calls import Call
from localcloud.iam.documents import Asked

_SERVICE, _TARGET = "cognito-idp", "AWSCognitoIdentityProviderService."


def questions(call: Call) -> Iterable[Asked]:
    """Yield what a call asks for, of the pool that it names."""
    if call.operation in _free():
        return
    pool = call.parameters.get("UserPoolId")
    resource = call.arn(_SERVICE, f"userpool/{pool}") if pool else "*"
    yield Asked(f"{_SERVICE}:{call.operation}", resource, {})


def needs_no_signature(environ: dict[str, Any]) -> bool:
    """Return True if a request is a call of a user pool that AWS takes without a signature."""
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    return target.startswith(_TARGET) and target.removeprefix(_TARGET) in _free()


@functools.cache
def _free() -> frozenset[str]:
    """Return the names of the operations that need no signature, as AWS's own description of the service has them."""
    service: Any = botocore.session.get_session().get_service_model(_SERVICE)
    return frozenset(name for name in service.operation_names if service.operation_model(name).auth_type == "none")
