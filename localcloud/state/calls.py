"""The resources of a state that change seldom, and the middleware that makes what a call has changed durable.

Objects, items and messages are rows, which the code that changes them writes. Buckets, tables and instances are
compared after each call, and written as JSON if they have changed; `restore` creates them at a start. The JSON is of
its own form, not of moto's objects, so that a later version of moto can restore it.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl

from localcloud.clock import utc_now
from localcloud.dispatch import INLINE, ErrorReason, error_response, operation_of, service_of
from localcloud.page_guard import WsgiApp
from localcloud.patches import apply_patches
from localcloud.s3.contents import JoinedContent
from localcloud.store import data

Name = tuple[str, str, str]
"""The account of a resource, its region or partition, and its name."""

_S3_PARAMETERS: Final = frozenset({"cors", "delete", "partNumber", "tagging", "uploadId", "uploads", "x-id"})
"""Query parameters of S3 calls with effects that a state holds."""

_NOT_KEPT: Final = frozenset({"RestoreTableToPointInTime", "UpdateContinuousBackups", "UpdateTable"})
"""Calls of DynamoDB with effects that a state does not hold, so they are refused."""

_DESCRIBE: Final = (
    "UPDATE resources SET value = ? WHERE kind = ? AND account = ? AND region = ? AND name = ? RETURNING number"
)


def _backends_of(module: str, name: str) -> Iterator[tuple[str, str, Any]]:
    """Yield account, region or partition, and backend of a service; nothing if no call has used the service."""
    if module not in sys.modules:
        return
    for account, regions in list(getattr(sys.modules[module], name).items()):
        for region, backend in list(regions.items()):
            yield account, region, backend


def _buckets() -> Iterator[tuple[Name, Any]]:
    for account, partition, backend in _backends_of("moto.s3.models", "s3_backends"):
        for bucket in list(backend.buckets.values()):
            yield (
                (account, partition, bucket.name),
                {
                    "region": bucket.region_name,
                    "created": bucket.creation_date.isoformat(),
                    "cors": [vars(rule) for rule in bucket.cors],
                    "tags": backend.tagger.list_tags_for_resource(bucket.arn)["Tags"],
                },
            )


def _restore_bucket(account: str, partition: str, name: str, value: Any) -> None:
    from moto.s3.models import CorsRule, s3_backends

    backend = s3_backends[account][partition]
    bucket = backend.create_bucket(name, value["region"])
    bucket.creation_date = datetime.fromisoformat(value["created"])
    for rule in value["cors"]:
        restored = CorsRule([], [])
        vars(restored).update(rule)
        bucket.cors.append(restored)
    if value["tags"]:
        backend.tagger.tag_resource(bucket.arn, value["tags"])


def _tables() -> Iterator[tuple[Name, Any]]:
    for account, region, backend in _backends_of("moto.dynamodb.models", "dynamodb_backends"):
        for table in list(backend.tables.values()):
            if not hasattr(table, "created_with"):
                continue  # it is being created
            yield (
                (account, region, table.name),
                {
                    "settings": table.created_with,
                    "created": table.created_at.isoformat(),
                    "ttl": table.ttl,
                    "tags": table.tags,
                },
            )


def _restore_table(account: str, region: str, name: str, value: Any) -> None:
    from moto.dynamodb.models import dynamodb_backends

    table = dynamodb_backends[account][region].create_table(name, **value["settings"])
    table.created_at, table.ttl, table.tags = datetime.fromisoformat(value["created"]), value["ttl"], value["tags"]


DESCRIBED_AFTER_END: Final = timedelta(hours=1)
"""How long an instance is kept after its launch once it has ended, as long as EC2 describes it."""


def _instances() -> Iterator[tuple[Name, Any]]:
    for account, region, backend in _backends_of("moto.ec2.models", "ec2_backends"):
        for reservation in list(backend.reservations.values()):
            for instance in list(reservation.instances):
                launched = instance.launch_time
                if (
                    instance.state == "terminated"
                    and utc_now().replace(tzinfo=launched.tzinfo) - launched > DESCRIBED_AFTER_END
                ):
                    continue
                yield (
                    (account, region, instance.id),
                    {
                        "image": instance.image_id,
                        "type": instance.instance_type,
                        "launched": launched.isoformat(),
                        "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
                    },
                )


def _restore_instance(account: str, region: str, instance_id: str, value: Any) -> None:
    """Create an instance that has been terminated, since its machine has ended: so no client waits to see it."""
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.instances import InstanceBackend, InstanceState, StateReason

    backend = ec2_backends[account][region]
    launch = InstanceBackend.run_instances.__wrapped__  # moto's own, which boots nothing
    options = {"instance_type": value["type"], "is_instance_type_default": False, "region_name": region}
    [instance] = launch(backend, value["image"], 1, None, [], **options).instances
    instance.id = instance_id
    instance.add_tags(value["tags"])
    instance.launch_time = datetime.fromisoformat(value["launched"])
    instance._state = InstanceState("terminated", 48)
    instance._reason = ""
    instance.state_reason = StateReason("Server.InternalError: the local cloud was restarted", "Server.InternalError")


_Kind = tuple[str, Callable[[], Iterator[tuple[Name, Any]]], Callable[[str, str, str, Any], None]]

_KINDS: Final[Mapping[str, _Kind]] = {
    "s3": ("bucket", _buckets, _restore_bucket),
    "dynamodb": ("table", _tables, _restore_table),
    "ec2": ("instance", _instances, _restore_instance),
}
"""By service: the kind of its resources, what yields each with its name, and what creates one again."""


def _described(service: str) -> dict[Name, str]:
    return {name: json.dumps(value, separators=(",", ":")) for name, value in _KINDS[service][1]()}


def restore() -> None:
    """Create the resources of the store in the backends of this process; what they hold is read when asked for."""
    apply_patches("core")
    for service, (kind, _, create) in _KINDS.items():
        found = data().read("SELECT account, region, name, value FROM resources WHERE kind = ? ORDER BY number", kind)
        for account, region, name, value in found:
            apply_patches(service)
            create(account, region, name, json.loads(value))


class DurableCalls:
    """WSGI middleware that answers a call when its effect is durable.

    The main thread of the server waits itself, for many calls at once: see `http_worker`.
    """

    def __init__(self, aws: WsgiApp) -> None:
        self._aws = aws
        self._known = {service: _described(service) for service in _KINDS}
        found = data().read("SELECT number, kind, account, region, name FROM resources")
        self._numbers: dict[tuple[str, ...], int] = {(*names,): number for number, *names in found}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        if INLINE in environ:
            return self._aws(environ, start_response)
        service = service_of(environ) or "s3"  # presigned addresses and forms have no header
        if (what := _refused(service, environ)) is not None:
            message = f"{what} is not available with --state: its effect would end with the local cloud"
            return error_response(environ, service, ErrorReason.NOT_KEPT, message).send(start_response)
        try:
            chunks = self._aws(environ, start_response)
            if isinstance(chunks, JoinedContent):
                return chunks  # it is read as it is sent
            try:
                return list(chunks)
            finally:
                if hasattr(chunks, "close"):
                    chunks.close()
        finally:
            self._compare(service)
            data().commit()

    def _compare(self, service: str) -> None:
        """Write the resources of a service that have changed since the last comparison."""
        if service not in self._known:
            return
        with data().lock:
            kind, known, present = _KINDS[service][0], self._known[service], _described(service)
            for name, value in present.items():
                if known.get(name) != value:
                    if kind == "instance":  # others have a row since their creation
                        data().resource_number(kind, *name)
                    for (number,) in data().write(_DESCRIBE, value, kind, *name).fetchall():
                        self._numbers[kind, *name] = number
            for name in known.keys() - present.keys():
                # By its number: another of its name may have been created meanwhile.
                if (number := self._numbers.pop((kind, *name), None)) is not None:
                    data().drop_resource(number)
            self._known[service] = present


def _refused(service: str, environ: dict[str, Any]) -> str | None:
    """Return what a call asks for if a state does not hold its effect, else None."""
    if service != "s3":
        operation = operation_of(service, environ)
        return operation if service == "dynamodb" and operation in _NOT_KEPT else None
    if environ["REQUEST_METHOD"] in {"GET", "HEAD", "OPTIONS"}:
        return None
    names = [name for name, _ in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)]
    unknown = [name for name in names if name not in _S3_PARAMETERS and not name.startswith("X-Amz-")]
    return f"the S3 call with ?{unknown[0]}" if unknown else None
