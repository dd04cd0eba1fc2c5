"""What a state holds of each service: buckets, objects, queues, messages, tables, items and instances.

A resource is recorded as JSON of its own form, not as moto's objects, so that a later version of moto can restore it.
`DESCRIBED` has the resources of each service that change seldom: the recorder compares them after each call.
"""

import base64
import json
import logging
import marshal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from localcloud.clock import utc_now
from localcloud.patches import apply_patches
from localcloud.state.store import Record
from localcloud.temporary import TemporaryDatabase, body_of

log = logging.getLogger(__name__)

Key = tuple[str, ...]
"""The kind of a resource and its name, from the outermost part inwards."""

_BYTES: Final = "$bytes"


def key_bytes(key: Iterable[str]) -> bytes:
    """Return a key as it is in the store."""
    return _to_json(list(key)).encode()


def value_bytes(value: Any) -> bytes:
    """Return a value as it is in the store: JSON, with bytes in Base64."""
    return _to_json(value).encode()


def value_of(content: bytes) -> Any:
    """Return a value of the store."""
    return _from_json(content.decode())


def _bytes_to_json(value: bytes) -> dict[str, str]:
    return {_BYTES: base64.b64encode(value).decode()}


_to_json: Final = json.JSONEncoder(separators=(",", ":"), default=_bytes_to_json).encode


def _bytes_of_json(value: dict[str, Any]) -> Any:
    text = value.get(_BYTES)
    return base64.b64decode(text) if len(value) == 1 and type(text) is str else value


_from_json: Final = json.JSONDecoder(object_hook=_bytes_of_json).decode


def fields_of(thing: Any) -> dict[str, Any]:
    """Return the attributes of one of moto's objects that are plain values, and its times."""
    fields, times = {}, {}
    for name, value in vars(thing).items():
        if value is None or type(value) in {str, int, float, bool}:
            fields[name] = value
        elif isinstance(value, datetime):
            times[name] = value.isoformat()
    return {"fields": fields, "times": times}


def set_fields(thing: Any, state: Mapping[str, Any]) -> None:
    """Set the attributes that `fields_of` returned."""
    for name, value in state["fields"].items():
        setattr(thing, name, value)
    for name, text in state["times"].items():
        setattr(thing, name, datetime.fromisoformat(text))


def backends_of(module: str, name: str) -> Iterator[tuple[str, str, Any]]:
    """Yield account, region or partition, and backend of a service; nothing if no call has used the service."""
    if module not in sys.modules:
        return
    for account, regions in list(getattr(sys.modules[module], name).items()):
        for region, backend in list(regions.items()):
            yield account, region, backend


def _buckets() -> Iterator[tuple[Key, Any]]:
    for account, partition, backend in backends_of("moto.s3.models", "s3_backends"):
        for bucket in list(backend.buckets.values()):
            yield (
                ("bucket", account, partition, bucket.name),
                {
                    "region": bucket.region_name,
                    "created": bucket.creation_date.isoformat(),
                    "cors": [vars(rule) for rule in bucket.cors],
                    "tags": backend.tagger.list_tags_for_resource(bucket.arn)["Tags"],
                },
            )


def restore_bucket(key: Key, value: Any) -> None:
    """Create a bucket."""
    from moto.s3.models import CorsRule, s3_backends

    account, partition, name = key
    backend = s3_backends[account][partition]
    bucket = backend.create_bucket(name, value["region"])
    bucket.creation_date = datetime.fromisoformat(value["created"])
    for rule in value["cors"]:
        restored = CorsRule([], [])
        vars(restored).update(rule)
        bucket.cors.append(restored)
    if value["tags"]:
        backend.tagger.tag_resource(bucket.arn, value["tags"])


def object_record(backend: Any, key: Key) -> Record:
    """Return the record of an object, which removes it if it does not exist."""
    *_, bucket_name, name = key
    bucket = backend.buckets.get(bucket_name)
    stored = bucket.keys.get(name) if bucket is not None else None
    if stored is None:
        return Record(key_bytes(key), None)
    described = fields_of(stored) | {
        "metadata": dict(stored.metadata),
        "tags": stored.tags,
    }
    return Record(key_bytes(key), value_bytes(described), body_of(stored._content))


def restore_object(key: Key, value: Any, body: bytes) -> None:
    """Put an object into its bucket."""
    from moto.s3.models import FakeKey, s3_backends

    from localcloud.s3.stored_keys import describe

    account, partition, bucket_name, name = key
    backend = s3_backends[account][partition]
    bucket = backend.buckets[bucket_name]
    stored = FakeKey(name, body, account, value["fields"]["region_name"], bucket_name=bucket_name)
    set_fields(stored, value)
    describe(stored, bucket, value["metadata"], value["tags"])
    bucket.keys.setlist(name, [stored])


_QUEUE_FACTS: Final = frozenset(
    {
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesDelayed",
        "ApproximateNumberOfMessagesNotVisible",
        "CreatedTimestamp",
        "LastModifiedTimestamp",
        "QueueArn",
    }
)
"""Attributes that no call sets."""


def _queues() -> Iterator[tuple[Key, Any]]:
    for account, region, backend in backends_of("moto.sqs.models", "sqs_backends"):
        for queue in list(backend.queues.values()):
            attributes = {name: value for name, value in queue.attributes.items() if name not in _QUEUE_FACTS}
            yield (
                ("queue", account, region, queue.name),
                {"attributes": attributes, "tags": queue.tags, "created": queue.created_timestamp},
            )


def restore_queues(queues: Mapping[Key, Any]) -> None:
    """Create queues, then name their dead-letter queues, which must exist."""
    from moto.sqs.models import sqs_backends

    for (account, region, name), value in queues.items():
        attributes = {key: each for key, each in value["attributes"].items() if key != "RedrivePolicy"}
        queue = sqs_backends[account][region].create_queue(name, value["tags"], **attributes)
        queue.created_timestamp = value["created"]
    for (account, region, name), value in queues.items():
        if (policy := value["attributes"].get("RedrivePolicy")) is not None:
            sqs_backends[account][region].queues[name]._setup_dlq(policy)


def _tables() -> Iterator[tuple[Key, Any]]:
    for account, region, backend in backends_of("moto.dynamodb.models", "dynamodb_backends"):
        for table in list(backend.tables.values()):
            yield (
                ("table", account, region, table.name),
                {
                    "settings": table.created_with,
                    "created": table.created_at.isoformat(),
                    "ttl": table.ttl,
                    "tags": table.tags,
                },
            )


def restore_table(key: Key, value: Any) -> None:
    """Create a table."""
    from moto.dynamodb.models import dynamodb_backends

    account, region, name = key
    table = dynamodb_backends[account][region].create_table(name, **value["settings"])
    table.created_at, table.ttl, table.tags = datetime.fromisoformat(value["created"]), value["ttl"], value["tags"]


def item_keys(table: Any, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that an item has in its key, from its attributes in DynamoDB's JSON."""
    return tuple(value_bytes(_canonical(attributes[name])).decode() for name in table.table_key_attrs)


def _canonical(attribute: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the same value for all spellings of a number, such as 1 and 1.0."""
    return {"N": str(Decimal(attribute["N"]).normalize())} if "N" in attribute else attribute


def key_attributes(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the key of each item of a table, in DynamoDB's JSON."""
    for partition in table.items.values():
        for item in partition.values() if table.has_range_key else [partition]:
            yield {name: attribute_json(item.attrs[name]) for name in table.table_key_attrs}


def item_record(table: Any, key: Key, attributes: Mapping[str, Any]) -> Record:
    """Return the record of an item, which removes it if it does not exist."""
    from moto.dynamodb.models.dynamo_type import DynamoType

    found = table.items.get(DynamoType(attributes[table.hash_key_attr]))
    if found is not None and table.has_range_key:
        found = found.get(DynamoType(attributes[table.range_key_attr]))
    if found is None:
        return Record(key_bytes(key), None)
    return Record(key_bytes(key), value_bytes({name: attribute_json(value) for name, value in found.attrs.items()}))


def attribute_json(value: Any) -> dict[str, Any]:
    """Return a value in DynamoDB's JSON; bytes stay bytes."""
    content = value.value
    if value.type == "M":
        content = {name: attribute_json(member) for name, member in content.items()}
    elif value.type == "L":
        content = [attribute_json(member) for member in content]
    return {value.type: content}


def restore_item(key: Key, value: Any) -> None:
    """Put an item into its table."""
    from moto.dynamodb.models import dynamodb_backends

    account, region, table, *_ = key
    dynamodb_backends[account][region].tables[table].put_item(value, overwrite=True)


DESCRIBED_AFTER_END: Final = timedelta(hours=1)
"""How long an instance is recorded after its launch once it has ended, as long as EC2 describes it."""


def _instances() -> Iterator[tuple[Key, Any]]:
    for account, region, backend in backends_of("moto.ec2.models", "ec2_backends"):
        for reservation in list(backend.reservations.values()):
            for instance in list(reservation.instances):
                launched = instance.launch_time
                if (
                    instance.state == "terminated"
                    and utc_now().replace(tzinfo=launched.tzinfo) - launched > DESCRIBED_AFTER_END
                ):
                    continue
                yield (
                    ("instance", account, region, instance.id),
                    {
                        "image": instance.image_id,
                        "type": instance.instance_type,
                        "launched": launched.isoformat(),
                        "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
                    },
                )


def restore_instance(key: Key, value: Any) -> None:
    """Create an instance that has been terminated, since its machine has ended: so no client waits to see it."""
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.instances import InstanceBackend, InstanceState, StateReason

    account, region, instance_id = key
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


DESCRIBED: Final[Mapping[str, Callable[[], Iterator[tuple[Key, Any]]]]] = {
    "s3": _buckets,
    "sqs": _queues,
    "dynamodb": _tables,
    "ec2": _instances,
}
"""By service, a function that yields each resource that changes seldom, with its key."""

_RESTORED: Final[tuple[tuple[str, str, Callable[[Key, Any], None]], ...]] = (
    ("bucket", "s3", restore_bucket),
    ("table", "dynamodb", restore_table),
    ("item", "dynamodb", restore_item),
    ("instance", "ec2", restore_instance),
)
"""The kinds with one function for each resource, in the order in which they are restored, with moto's service."""


_OWNERS: Final[Mapping[str, str]] = {
    "object": "bucket",
    "item": "table",
    "message": "queue",
    "delivery": "queue",
    "duplicate": "queue",
}
"""The kind of the resource that each kind belongs to; its key begins with the three parts of that resource's key."""


def restore(records_of: Callable[[str], Iterable[Record]]) -> None:
    """Create everything that the records of a store describe, in the backends of this process.

    `records_of` returns those of a kind, which are created one after the other: all of a state may not fit in memory.
    """
    owners: dict[str, set[Key]] = {kind: set() for kind in _OWNERS.values()}

    def found(kind: str) -> Iterator[tuple[Key, Any, bytes]]:
        """Yield the key, the value and the body of each record that has an owner."""
        for record in records_of(kind):
            key = tuple(json.loads(record.key)[1:])
            if kind in _OWNERS and key[:3] not in owners[_OWNERS[kind]]:
                # A client used it before its creation was acknowledged, which then was not: it does not exist.
                owner = _OWNERS[kind]
                log.warning("the %s %s is not restored: its %s was never acknowledged", kind, key, owner)
                continue
            if kind in owners:
                owners[kind].add(key)
            yield key, value_of(record.value or b""), bytes(record.body)

    for kind, service, create in _RESTORED:
        for key, value, _ in found(kind):
            apply_patches(service)
            create(key, value)
    for key, value, body in found("object"):
        restore_object(key, value, body)
    if queues := {key: value for key, value, _ in found("queue")}:
        apply_patches("sqs")
        restore_queues(queues)
        _restore_messages(queues, found)


def _restore_messages(queues: Iterable[Key], found: Callable[[str], Iterable[tuple[Key, Any, bytes]]]) -> None:
    """Add the messages of queues. A temporary database sorts them: memory holds one after the other."""
    from moto.sqs.models import sqs_backends

    from localcloud.sqs.queue_record import RestoredMessage

    duplicates: dict[Key, dict[str, Any]] = {queue: {} for queue in queues}
    for (*queue, name), duplicate, _ in found("duplicate"):
        duplicates[tuple(queue)][name] = duplicate
    deliveries = {key: value for key, value, _ in found("delivery")}
    messages = TemporaryDatabase()
    messages.execute("BEGIN")
    messages.execute("CREATE TABLE messages (queue BLOB, sequence INTEGER, state BLOB)")
    insert = "INSERT INTO messages VALUES (?, ?, ?)"
    for (*queue, message_id), sent, _ in found("message"):
        state = {"message_id": message_id} | sent | deliveries.get((*queue, message_id), {})
        messages.execute(insert, key_bytes(queue), sent["sequence"], marshal.dumps(state))
    ordered = "SELECT state FROM messages WHERE queue = ? ORDER BY sequence"
    for account, region, name in queues:
        states = messages.rows(ordered, key_bytes((account, region, name)))
        restored: Iterator[RestoredMessage[Any]] = (
            RestoredMessage(**marshal.loads(state))  # noqa: S302  # nosec B302 (this process has written it)
            for (state,) in states
        )
        sqs_backends[account][region].queues[name].store.restore(restored, duplicates[account, region, name])
