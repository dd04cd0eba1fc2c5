"""The permissions that a call needs: actions, resources and condition keys, by the Service Authorization Reference.

https://docs.aws.amazon.com/service-authorization/latest/reference/ has a page for each service. A call of a service
without rules here, and a call without resources, needs ``service:Operation`` on ``*``. Condition keys that the
reference does not list for an action and its resource are left out (`reference`).
"""

from collections.abc import Callable, Iterable

from localcloud.iam.calls import ApiCall
from localcloud.iam.policies import PermissionCheck
from localcloud.iam.reference import is_known, known_keys
from localcloud.iam.s3_actions import s3_checks
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


_CHECKS: dict[str, Callable[[ApiCall], Iterable[PermissionCheck]]] = {
    "cognito-idp": _cognito_idp_checks,
    "dynamodb": _dynamodb_checks,
    "logs": _logs_checks,
    "s3": s3_checks,
    "sqs": _sqs_checks,
    "ssm": _ssm_checks,
    "sts": _sts_checks,
}
