"""Systems Manager: list_awssystemsmanager.html. Parameters are resources of their own; the rest asks of ``*``."""

from collections.abc import Iterable

from localcloud.iam.calls import Call
from localcloud.iam.documents import Asked


def questions(call: Call) -> Iterable[Asked]:
    """Yield what a call asks for, of each parameter that it names, or of all under a path."""
    parameters = call.parameters
    of_parameter = "Parameter" in call.operation
    named = parameters.get("Names") or [parameters.get("Name") or parameters.get("Path") or ""]
    for name in named:
        resource = call.arn("ssm", f"parameter/{name.lstrip('/')}") if of_parameter and name else "*"
        yield Asked(f"ssm:{call.operation}", resource, {})
