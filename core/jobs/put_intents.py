"""Put intents: what is about to be put into the input bucket, stored before the first put.

A process may die between an image's object and its record. Then nothing else refers to the object: its job may keep
images for ever, and may have millions. So there is an item first. It names the images of a group of files, or of a
presigned upload. The web tier deletes that of a group once each image is recorded or its object deleted. The
controller deletes the objects of intents that stay (`web_tier/controller/orphans.py`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from core.ids import FIRST_ID, ImageRef, new_id
from core.jobs.items import stated
from services.table import LAST, Item, Table

SHARDS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Last characters of ids: each has its own partition, since a partition takes 1,000 writes/s."""


@dataclass(frozen=True, slots=True)
class PutIntent:
    """Images of one job that may have objects without a record.

    Attributes:
        intent_id: an id of its own, or that of the presigned upload.
        key: the `Idempotency-Key` of their request, if any.
        is_upload: whether they belong to a presigned upload: their forms may be used until they expire.
        renewed: changes with each use.
        is_closed: whether their objects are being deleted: nothing may be accepted any more.
    """

    intent_id: str
    job_id: str
    image_ids: tuple[str, ...]
    key: str = ""
    is_upload: bool = False
    renewed: str = ""
    is_closed: bool = False

    @property
    def refs(self) -> list[ImageRef]:
        """The images."""
        return [ImageRef(self.job_id, image_id) for image_id in self.image_ids]


@dataclass(frozen=True)
class PutIntents:
    """The put intents in the job table."""

    table: Table

    def declare(self, intent: PutIntent) -> bool:
        """Store an intent, or renew it; return False if it is closed."""
        if intent.is_upload:
            return self.table.put_if(_item(intent), "attribute_not_exists( #closed )")
        self.table.put_all([_item(intent)])  # its id is new
        return True

    def renew(self, intent_id: str) -> bool:
        """Renew an intent, so that its objects stay for a while; return False if it is closed or does not exist."""
        is_open = "attribute_exists( #pk ) AND attribute_not_exists( #closed )"
        return self.table.set(*_key(intent_id), {"renewed": new_id()}, is_open)

    def exists(self, intent_id: str) -> bool:
        """Return whether there is such an intent."""
        return self.table.get(*_key(intent_id)) is not None

    def close(self, intent: PutIntent) -> bool:
        """Close an intent for good; return False if it was renewed since it was read."""
        item = {**_item(intent), "renewed": intent.renewed, "closed": 1}
        return self.table.put_if(item, "#renewed = :renewed", {"renewed": intent.renewed})

    def remove(self, intent_ids: Collection[str]) -> None:
        """Delete intents whose images are all recorded, or have no object."""
        self.table.delete_all([_key(intent_id) for intent_id in intent_ids])

    def find_all(self) -> Iterator[PutIntent]:
        """Yield all intents."""
        for shard in SHARDS:
            for item in self.table.query(f"PUTS#{shard}", FIRST_ID, LAST):
                yield PutIntent(
                    str(item["sk"]),
                    str(item["job_id"]),
                    tuple(str(item["images"]).split()),
                    str(item.get("key", "")),
                    "upload" in item,
                    str(item["renewed"]),
                    "closed" in item,
                )


def _key(intent_id: str) -> tuple[str, str]:
    return f"PUTS#{intent_id[-1]}", intent_id


def _item(intent: PutIntent) -> Item:
    pk, sk = _key(intent.intent_id)
    return {
        "pk": pk,
        "sk": sk,
        "job_id": intent.job_id,
        "images": " ".join(intent.image_ids),
        "renewed": new_id(),
        **stated({"key": intent.key, "upload": int(intent.is_upload)}),
    }
