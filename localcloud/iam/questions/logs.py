"""CloudWatch Logs: list_amazoncloudwatchlogs.html.

What is done in a group is asked of ``log-group:NAME:log-stream:STREAM``, with no stream where the call names none, so
that a policy names a group as ``log-group:NAME:*``
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/iam-access-control-overview-cwl.html).
"""

from collections.abc import Iterable

from localcloud.iam.calls import Call
from localcloud.iam.documents import Asked

_IN_A_STREAM = frozenset({"PutLogEvents", "GetLogEvents", "DeleteLogStream"})


def questions(call: Call) -> Iterable[Asked]:
    """Yield what a call asks for, of the group and the stream that it names."""
    group = call.parameters.get("logGroupName")
    stream = call.parameters.get("logStreamName", "") if call.operation in _IN_A_STREAM else ""
    resource = call.arn("logs", f"log-group:{group}:log-stream:{stream}") if group else "*"
    yield Asked(f"logs:{call.operation}", resource, {})
