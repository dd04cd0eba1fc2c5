"""``fleetsight status``: how a stack is, as AWS tells it; what the fleet does, the page and `fleet status` tell."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scripts.aws.account import Account
from scripts.aws.bake.recipe import ROLES
from scripts.aws.bake.shelf import stored_image
from scripts.aws.deploy.page import page_of
from scripts.aws.deploy.settings import settings_of
from scripts.aws.deploy.stacks import Stack, find, last_failure
from scripts.aws.instances import Machine, named, web_name, worker_name
from scripts.aws.launches import failed_launch
from scripts.aws.operation import Operation
from scripts.aws.template_versions import template_versions

QUEUES = {"requests": "RequestQueueName", "responses": "ResponseQueueName", "dead letters": "DeadLetterQueueName"}
"""What each queue is called, and the stack's output that names it."""


@dataclass(frozen=True)
class Waiting:
    """Messages of a queue, approximately.

    Attributes:
        visible: can be received.
        in_flight: have been, and neither been deleted nor come back.
    """

    visible: int
    in_flight: int


@dataclass(frozen=True)
class Status:
    """How a stack is.

    Attributes:
        stack: its status, such as UPDATE_COMPLETE.
        failure: the last event of the stack that was one, or empty.
        page: address, or None while there is none.
        settings: what config.yaml says otherwise here.
        web: its instances.
        failed_launch: why Auto Scaling could not launch the newest of them, or empty.
        workers: how many in each state.
        template: default and newest version of the workers' launch template.
        queues: by what they are called.
        alarms: names of those that ring.
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
    queues: dict[str, Waiting] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    images: dict[str, str | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def status_of(operation: Operation) -> Status | None:
    """Return how the stack is, or None where there is none."""
    account, prefix = operation.account, operation.prefix
    stack = find(account, prefix)
    if stack is None:
        return None
    return Status(
        prefix=prefix,
        stack=stack.status,
        failure=last_failure(account, stack),
        page=page_of(stack),
        settings=settings_of(stack),
        web=[_web(each) for each in named(account, web_name(prefix))],
        workers=dict(Counter(each.state for each in named(account, worker_name(prefix)))),
        template=template_versions(account, stack),
        failed_launch=failed_launch(account, stack),
        queues=dict(_queues(account, stack)),
        alarms=_ringing(account, prefix),
        images={role: stored_image(operation.site, role) for role in ROLES},
    )


def shown(status: Status) -> RenderableType:
    """Return it for people."""
    rows = Table.grid(padding=(0, 2))
    for name, words in _rows(status):
        rows.add_row(Text(name, style="bold"), Text(words))
    return Group(rows)


def _rows(status: Status) -> Iterator[tuple[str, str]]:
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
        yield name, f"{count.visible:,} waiting, {count.in_flight:,} in flight"
    yield "alarms", ", ".join(status.alarms) or "none rings"
    for role, image_id in status.images.items():
        yield f"{role} image", image_id or "none yet: `fleetsight bake`"
    if status.settings:
        yield "config", ", ".join(f"{key}={value}" for key, value in status.settings.items())


def _web(machine: Machine) -> dict[str, str]:
    return {
        "id": machine.instance_id,
        "state": machine.state,
        "type": machine.instance_type,
        "image": machine.image_id,
        "address": machine.address,
        "since": f"{machine.launched_at:%Y-%m-%d %H:%M} UTC",
    }


def _queues(account: Account, stack: Stack) -> Iterator[tuple[str, Waiting]]:
    for called, output in QUEUES.items():
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
        yield called, Waiting(visible, int(counts["ApproximateNumberOfMessagesNotVisible"]))


def _ringing(account: Account, prefix: str) -> list[str]:
    pages = account.cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=f"{prefix}-")
    return [each["AlarmName"] for page in pages for each in page["MetricAlarms"] if each["StateValue"] == "ALARM"]
