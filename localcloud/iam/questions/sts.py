"""STS: list_awssecuritytokenservice.html. Each caller may ask for its own identity, under all policies."""

from collections.abc import Iterable

from localcloud.iam.calls import Call
from localcloud.iam.documents import Asked

ASSUME_ROLE = "sts:AssumeRole"
_FREE = frozenset({"GetCallerIdentity", "GetSessionToken"})


def questions(call: Call) -> Iterable[Asked]:
    """Yield what a call asks for."""
    if call.operation in _FREE:
        return
    context = {}
    for key, parameter in (("sts:rolesessionname", "RoleSessionName"), ("sts:externalid", "ExternalId")):
        if value := call.parameters.get(parameter):
            context[key] = (str(value),)
    yield Asked(f"sts:{call.operation}", str(call.parameters.get("RoleArn") or "*"), context)
