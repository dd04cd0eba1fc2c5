"""``fleetsight status``: a stack's state as AWS describes it; `fleet status` and the page show the fleet's."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from core.format import plural
from scripts.aws.bake.images import stored_image
from scripts.aws.bake.spec import ROLES
from scripts.aws.context import AwsAccount, AwsContext
from scripts.aws.deploy.settings import stack_config
from scripts.aws.deploy.stack import StackDescription, failed_launch, find_stack, last_failure, template_versions
from scripts.aws.instances import StackInstance, instances_named, web_name, worker_name

QUEUES = {"requests": "RequestQueueName", "responses": "ResponseQueueName", "dead letters": "DeadLetterQueueName"}
"""The stack's outputs that name its queues, by the names that the user sees."""


@dataclass(frozen=True)
class QueueDepth:
    """Messages of a queue, approximately.

    Attributes:
        visible: messages that can be received.
        in_flight: messages that were received and not deleted, during their visibility timeout.
    """

    visible: int
    in_flight: int


@dataclass(frozen=True)
class StackStatus:
    """The state of a stack; `--json` prints its attributes under these names.

    Attributes:
        stack: status of the stack, such as UPDATE_COMPLETE.
        failure: the newest failure among the stack's events, or empty.
        page: its address, or None if it has none yet.
        settings: keys of config.yaml that the stack overrides.
        failed_launch: why Auto Scaling could not launch the newest web instance, or empty.
        workers: number of workers by state.
        template: default and newest version of the workers' launch template.
        queues: their depths, by the names in `QUEUES`.
        alarms: names of the alarms in the state ALARM.
        images: ids by role.
    """

    prefix: str
    stack: str
    failure: str
    page: str | None
    settings: dict[str, str]
    web: list[dict[str, str]]
    workers: dict[str, int]
    template: tuple[int, int] | None
    failed_launch: str = ""
    queues: dict[str, QueueDepth] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    images: dict[str, str | None] = field(default_factory=dict)


def read_status(context: AwsContext) -> StackStatus | None:
    """Return the state of the stack, or None if it does not exist."""
    account, prefix = context.account, context.prefix
    stack = find_stack(account, prefix)
    if stack is None:
        return None
    alarms = account.cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=f"{prefix}-")
    return StackStatus(
        prefix=prefix,
        stack=stack.status,
        failure=last_failure(account, stack),
        page=stack.outputs.get("PageAddress"),
        settings=stack_config(stack),
        web=[_web_instance(each) for each in instances_named(account, web_name(prefix))],
        workers=dict(Counter(each.state for each in instances_named(account, worker_name(prefix)))),
        template=template_versions(account, stack),
        failed_launch=failed_launch(account, stack),
        queues=dict(_queue_depths(account, stack)),
        alarms=[
            each["AlarmName"] for page in alarms for each in page["MetricAlarms"] if each["StateValue"] == "ALARM"
        ],
        images={role: stored_image(context, role) for role in ROLES},
    )


def status_table(status: StackStatus) -> RenderableType:
    """Return the state as a table for the user."""
    rows = Table.grid(padding=(0, 2))
    for name, text in _status_rows(status):
        rows.add_row(Text(name, style="bold"), text)
    return Group(rows)


def _status_rows(status: StackStatus) -> Iterator[tuple[str, str]]:
    yield "stack", f"{status.prefix}, {status.stack.replace('_', ' ').lower()}"
    if status.failure:
        yield "last failure", status.failure
    yield "page", status.page or "it has no address yet"
    for each in status.web:
        yield "web instance", f"{each['id']} {each['state']}, {each['type']}, {each['image']}, since {each['since']}"
    if status.failed_launch:
        yield "web launch", f"failed: {status.failed_launch}"
    yield "workers", ", ".join(f"{count} {state}" for state, count in sorted(status.workers.items())) or "none"
    if status.template:
        default, newest = status.template
        behind = f"; {newest} is the newest: `fleetsight roll`" if default != newest else ", the newest"
        yield "template", f"version {default}{behind}"
    for name, count in status.queues.items():
        yield name, f"{plural(count.visible, 'message')} waiting, {count.in_flight:,} in flight"
    yield "alarms", ", ".join(status.alarms) or "none rings"
    for role, image_id in status.images.items():
        yield f"{role} image", image_id or "none yet: `fleetsight bake`"
    if status.settings:
        yield "config", ", ".join(f"{key}={value}" for key, value in status.settings.items())


def _web_instance(instance: StackInstance) -> dict[str, str]:
    return {
        "id": instance.instance_id,
        "state": instance.state,
        "type": instance.instance_type,
        "image": instance.image_id,
        "address": instance.address,
        "since": f"{instance.launched_at:%Y-%m-%d %H:%M} UTC",
    }


def _queue_depths(account: AwsAccount, stack: StackDescription) -> Iterator[tuple[str, QueueDepth]]:
    for name, output in QUEUES.items():
        if output not in stack.outputs:
            continue
        url = account.sqs.get_queue_url(QueueName=stack.outputs[output])["QueueUrl"]
        counts = account.sqs.get_queue_attributes(
            QueueUrl=url,
            AttributeNames=[
                "ApproximateNumberOfMessages",
                "ApproximateNumberOfMessagesDelayed",
                "ApproximateNumberOfMessagesNotVisible",
            ],
        )["Attributes"]
        visible = int(counts["ApproximateNumberOfMessages"]) + int(counts["ApproximateNumberOfMessagesDelayed"])
        yield name, QueueDepth(visible, int(counts["ApproximateNumberOfMessagesNotVisible"]))
