"""SQS: list_amazonsqs.html. A batch asks for the action of a single one; SQS knows no other."""

from collections.abc import Iterable

from localcloud.iam.calls import Call
from localcloud.iam.documents import Asked


def questions(call: Call) -> Iterable[Asked]:
    """Yield what a call asks for, of the queue that its address, its name or its ARN tells."""
    action = f"sqs:{call.operation.removesuffix('Batch')}"
    yield Asked(action, _queue(call), {})


def _queue(call: Call) -> str:
    parameters = call.parameters
    if arn := parameters.get("SourceArn"):
        return str(arn)
    # In the Query protocol the address of the queue may be the request's own.
    address = str(parameters.get("QueueUrl") or call.environ.get("PATH_INFO", ""))
    name = str(parameters.get("QueueName") or address.rpartition("/")[2])
    return call.arn("sqs", name) if name else "*"
