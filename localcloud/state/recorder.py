"""Records what calls change, and answers them when the disk has it.

Objects, items and messages are recorded by the code that changes them; resources that change seldom are compared
after each call that stock moto answers. A record has the present state of what it names, so the last record of a key
counts, whichever call wrote it.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from localcloud.dispatch import INLINE, ErrorReason, error_response, operation_of, service_of
from localcloud.page_guard import WsgiApp
from localcloud.patches import apply_patches
from localcloud.state import resources
from localcloud.state.store import Record, Store
from localcloud.temporary import database

log = logging.getLogger(__name__)

NOT_WRITTEN: Final = 5
"""Exit status of a process that cannot write its state."""

CHANGE_SECONDS: Final = 60.0
"""Longest wait in seconds of a commit for the records of another call."""

_ITEM_WRITES: Final = frozenset(
    {"put_item", "update_item", "delete_item", "batch_write_item", "transact_write_items"}
)

_S3_PARAMETERS: Final = frozenset({"cors", "delete", "partNumber", "tagging", "uploadId", "uploads", "x-id"})
"""Query parameters of S3 calls with effects that a state holds."""

_NOT_RECORDED: Final[Mapping[str, frozenset[str]]] = {
    "dynamodb": frozenset(
        {
            *("BatchExecuteStatement", "CreateBackup", "CreateGlobalTable", "DeleteBackup", "DeleteResourcePolicy"),
            *("EnableKinesisStreamingDestination", "ExecuteStatement", "ExecuteTransaction", "ImportTable"),
            *("ExportTableToPointInTime", "PutResourcePolicy", "RestoreTableFromBackup", "RestoreTableToPointInTime"),
            *("UpdateContinuousBackups", "UpdateTable"),
        }
    )
}
"""Calls with effects that a state does not hold, so they are refused."""


class Recorder:
    """Records the changes of this process in a store; without one every method returns at once."""

    def __init__(self) -> None:
        self.store: Store | None = None
        self._thread = threading.local()
        self._objects, self._comparing = threading.Lock(), threading.Lock()
        self._changing: set[threading.Event] = set()
        """One of each call that may have changed objects, set when it has added their records."""
        self._known: dict[str, dict[bytes, bytes]] = {}
        """By service, the resources that change seldom, as they were recorded."""

    @property
    def is_on(self) -> bool:
        """Whether changes are recorded."""
        return self.store is not None

    def start(self, store: Store) -> None:
        """Restore what the store has, then record what changes."""
        apply_patches("core")
        database().on_failure = end_process
        self.store = store  # before any queue is created; nothing below makes a call that is recorded
        resources.restore(store.records)
        for service in resources.DESCRIBED:
            self._known[service] = self._described(service)

    def commit(self) -> None:
        """Return when everything that calls could see so far is durable; end this process if that is impossible.

        After a failed write only reading shows what the disk has, which the next process does.
        """
        if self.store is None:
            return
        # Other calls see an object before its record is added; what they write may depend on it.
        try:
            self._wait_for_changes()
            self.store.commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, what was recorded is lost for this process
            end_process(error)

    def _wait_for_changes(self) -> None:
        for changing in list(self._changing):
            if not changing.wait(CHANGE_SECONDS):
                raise TimeoutError(f"a call has changed objects for {CHANGE_SECONDS:g} s")

    def object_changes(self, backend: Any, bucket: str, name: str) -> None:
        """Remember that the present call is about to change an object; `end_call` records it, complete."""
        if self.store is None:
            return
        if getattr(self._thread, "changing", None) is None:
            self._thread.objects, self._thread.changing = {}, threading.Event()
            self._changing.add(self._thread.changing)
        self._thread.objects["object", backend.account_id, backend.region_name, bucket, name] = backend

    def end_call(self) -> None:
        """Record the objects that the present call has changed."""
        changing = getattr(self._thread, "changing", None)
        if self.store is None or changing is None:
            return
        changed, self._thread.objects, self._thread.changing = self._thread.objects, {}, None
        try:
            with self._objects:  # a record must not be older than one that was added before it
                self.store.append([resources.object_record(backend, key) for key, backend in changed.items()])
        finally:
            self._changing.discard(changing)
            changing.set()

    def items_changed(self, operation: str, handler: Any) -> None:
        """Record the items that a call of DynamoDB names; the caller holds the locks of their tables."""
        if self.store is None or operation not in _ITEM_WRITES:
            return
        backend, records = handler.dynamodb_backend, list[Record]()
        for table_name, attributes in _written(handler.body):
            table = backend.tables.get(table_name.rpartition("/")[2])
            if table is not None and all(name in attributes for name in table.table_key_attrs):
                name = (backend.account_id, backend.region_name, table.name)
                key = ("item", *name, *resources.item_keys(table, attributes))
                records.append(resources.item_record(table, key, attributes))
        self.store.append(records)

    def table_deleted(self, table: Any) -> None:
        """Record that a table has no items any more; the caller holds its lock."""
        if self.store is None:
            return
        name = (table.account_id, table.region_name, table.name)
        self.store.append(
            Record(resources.key_bytes(("item", *name, *resources.item_keys(table, attributes))), None)
            for attributes in resources.key_attributes(table)
        )

    def queue_recorder(self, queue: Any) -> Callable[[str, str, Any], None]:
        """Return the function that records a change of a queue: kind, name and value, or None if it is removed.

        The queue calls it while it holds its lock.
        """

        def record(kind: str, name: str, value: Any) -> None:
            if self.store is None:
                return
            key = resources.key_bytes((kind, queue.account_id, queue.region, queue.name, name))
            self.store.append([Record(key, None if value is None else resources.value_bytes(value))])

        return record

    def compare(self, service: str) -> None:
        """Record the resources of a service that have changed since the last comparison."""
        if self.store is None or service not in self._known:
            return
        with self._comparing:
            known, present = self._known[service], self._described(service)
            changed = [Record(key, value) for key, value in present.items() if known.get(key) != value]
            self.store.append([*changed, *(Record(key, None) for key in known.keys() - present.keys())])
            self._known[service] = present

    @staticmethod
    def _described(service: str) -> dict[bytes, bytes]:
        described = resources.DESCRIBED[service]()
        return {resources.key_bytes(key): resources.value_bytes(value) for key, value in described}


def end_process(error: Exception) -> None:
    """End this process, since the disk of the state is full or fails."""
    log.critical("the state cannot be written (%s), so no call is answered: free space on its disk", error)
    os._exit(NOT_WRITTEN)


def _written(body: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Yield the table and the attributes with the key of each item that a call writes."""
    if "RequestItems" in body:
        batches = body["RequestItems"].items()
        writes = [(table, write) for table, requests in batches for each in requests for write in each.values()]
    elif "TransactItems" in body:
        writes = [(write["TableName"], write) for item in body["TransactItems"] for write in item.values()]
    else:
        writes = [(body["TableName"], body)]
    for table, write in writes:
        yield table, write.get("Item") or write.get("Key") or {}


recorder = Recorder()
"""The recorder of this process."""


class RecordedCalls:
    """WSGI middleware that records what a call changes, and answers when it is durable.

    The main thread of the server waits itself, for many calls at once: see `http_worker`.
    """

    def __init__(self, aws: WsgiApp, recorded: Recorder) -> None:
        self._aws, self._recorder = aws, recorded

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        if INLINE in environ:
            try:
                return self._aws(environ, start_response)
            finally:
                self._recorder.end_call()
        service = _service(environ)
        if (what := _refused(service, environ)) is not None:
            message = f"{what} is not available with --state: its effect would end with the local cloud"
            return error_response(environ, service, ErrorReason.NOT_KEPT, message).send(start_response)
        try:
            chunks = self._aws(environ, start_response)
            try:
                return list(chunks)
            finally:
                if hasattr(chunks, "close"):
                    chunks.close()
        finally:
            self._recorder.end_call()
            self._recorder.compare(service)
            self._recorder.commit()


def _service(environ: Mapping[str, Any]) -> str:
    return service_of(dict(environ)) or "s3"  # presigned addresses and forms have no header


def _refused(service: str, environ: dict[str, Any]) -> str | None:
    """Return what a call asks for if a state does not hold its effect, else None."""
    if service != "s3":
        operation = operation_of(service, environ)
        return operation if operation in _NOT_RECORDED.get(service, ()) else None
    if environ["REQUEST_METHOD"] in {"GET", "HEAD", "OPTIONS"}:
        return None
    names = [name for name, _ in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)]
    unknown = [name for name in names if name not in _S3_PARAMETERS and not name.startswith("X-Amz-")]
    return f"the S3 call with ?{unknown[0]}" if unknown else None
