"""Packs: images of one job that were accepted together and have one item.

A lone image is a pack of one. The id of an image names its pack and its place there, so what has the images of a job
by their ids reads packs, and the first and the last of them may have further images.

A small pack has its result soon, and a large one costs fewer calls. So the first packs of a job are small, as are its
last ones, which many workers share (`PackSizes`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from tarfile import USTAR_FORMAT, TarInfo
from typing import TYPE_CHECKING, Final, Self

from pydantic import TypeAdapter

from core.ids import ImageRef, image_id_at, place_of
from core.jobs.items import PACK, moment_in, partition, requested_model_attributes, requested_model_in, stated
from core.jobs.models import ImageRecord
from core.jobs.pack_objects import TAR_BLOCK, member_name
from core.messages import RequestedModel, SourceObjects
from services.batches import in_batches
from services.table import Item

if TYPE_CHECKING:  # a worker has no use for it
    from core.config import Config

SOURCE: Final = "source"
"""Attribute with the objects of a user that have the images of a pack."""

FIRST_SHARE: Final = 4
"""A pack has at most this part of the images that its job has had, so that the first results are not late."""

MIN_LAST_SHARE, MAX_LAST_SHARE = 4, 16
"""A pack has at most this part of the images that its sender still has, so that the last results are not late: twice
the number of workers, which share them, within these limits."""

WORK_SECONDS: Final = 2.0
"""Maximum work of one worker for a pack."""

MAX_UNMEASURED: Final = 8
"""Maximum images of a pack while the speed of a worker is not known."""

_MODELS: Final = TypeAdapter(list[tuple[RequestedModel | None, list[int]]])


@dataclass(frozen=True, slots=True)
class Pack:
    """Images of one job, by their places.

    Attributes:
        names, sizes, extensions: of each image: its owner's name for it, its bytes, and its format.
        model: of the first image, and of all but those in `models`.
        models: of images that were retried with another one, by place.
        attempts: number of the last request by place, of images that were retried.
        retried_at: when the last of these was.
        source: the objects of a user that have the images, as in `ImageRecord`.
    """

    job_id: str
    pack_id: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    extensions: tuple[str, ...]
    accepted_at: datetime
    owner: str = ""
    model: RequestedModel | None = None
    models: Mapping[int, RequestedModel | None] = field(default_factory=dict)
    attempts: Mapping[int, int] = field(default_factory=dict)
    retried_at: datetime | None = None
    source: SourceObjects | None = None

    @classmethod
    def of(cls, images: Sequence[ImageRecord]) -> Self:
        """Return the pack of these images, which are all of it."""
        first, *_ = images = sorted(images, key=lambda image: image.ref.image_id)
        if [place_of(image.ref.image_id) for image in images] != [*range(len(images))]:
            raise ValueError(f"the images of pack {first.pack_id!r} do not have the places from 0 on")
        return cls(
            first.ref.job_id,
            first.ref.image_id,
            names=tuple(image.filename for image in images),
            sizes=tuple(image.size for image in images),
            extensions=tuple(image.extension for image in images),
            accepted_at=first.accepted_at,
            owner=first.owner,
            model=first.model,
            models={place: image.model for place, image in enumerate(images) if image.model != first.model},
            attempts={place: image.attempt for place, image in enumerate(images) if image.attempt},
            retried_at=max((image.retried_at for image in images if image.retried_at), default=None),
            source=first.source,
        )

    def images(self) -> list[ImageRecord]:
        """Return the images in the order of their places."""
        return [self._image(place) for place in range(len(self.names))]

    def _image(self, place: int) -> ImageRecord:
        ref, attempt = ImageRef(self.job_id, image_id_at(self.pack_id, place)), self.attempts.get(place, 0)
        name, extension, retried_at = self.names[place], self.extensions[place], self.retried_at if attempt else None
        model = self.models.get(place, self.model)
        return ImageRecord(
            ref, name, extension, self.sizes, self.accepted_at, retried_at, attempt, self.owner, model, self.source
        )


@dataclass(frozen=True, slots=True)
class PackSizes:
    """Decides how many images a pack gets.

    Attributes:
        max_images: of any pack.
        image_seconds: returns the measured time that one worker takes for an image; None or 0 if it is not known yet.
        max_workers: of the fleet.
    """

    max_images: int = 1
    image_seconds: Callable[[], float | None] = lambda: None
    max_workers: int = MAX_LAST_SHARE

    @classmethod
    def of(cls, config: "Config", image_seconds: Callable[[], float | None]) -> Self:
        """Return the sizes of a system with this configuration."""
        return cls(config.max_pack_images, image_seconds, config.fleet.max_workers)

    def next_size(self, so_far: int, left: int | None) -> int:
        """Return the maximum images of the next pack.

        `so_far` is a lower bound of the images that the job has had, `left` those that the sender still has, or None.
        """
        size = self._by_shares(so_far, left)
        return 1 if size <= 1 else min(size, self._most())

    def count(self, images: int) -> int:
        """Return how many packs the images of a job have that are sent one after another."""
        packs, so_far, most = 0, 0, self._most()
        while (left := images - so_far) > 0:
            size = max(1, min(most, self._by_shares(so_far, left)))
            alike = max(1, left // most - self._last_share) if size == most else 1
            packs, so_far = packs + alike, so_far + alike * size
        return packs

    def _by_shares(self, so_far: int, left: int | None) -> int:
        size = min(self.max_images, so_far // FIRST_SHARE)
        return size if left is None else min(size, left // self._last_share)

    @property
    def _last_share(self) -> int:
        return max(MIN_LAST_SHARE, min(MAX_LAST_SHARE, 2 * self.max_workers))

    def _most(self) -> int:
        seconds = self.image_seconds()
        return max(1, min(self.max_images, int(WORK_SECONDS / seconds) if seconds else MAX_UNMEASURED))


def by_pack(images: Iterable[ImageRecord]) -> list[list[ImageRecord]]:
    """Return images in a list for each of their packs."""
    found = dict[tuple[str, str], list[ImageRecord]]()
    for image in images:
        found.setdefault((image.ref.job_id, image.pack_id), []).append(image)
    return list(found.values())


def pack_batches(images: Iterable[ImageRecord], size: int) -> Iterator[list[ImageRecord]]:
    """Yield images in batches of `size` packs."""
    for packs in in_batches(by_pack(images), size):
        yield [image for pack in packs for image in pack]


def pack_item(pack: Pack) -> Item:
    """Return the item of a pack."""
    attempts = " ".join(f"{place}:{attempt}" for place, attempt in sorted(pack.attempts.items()))
    places = dict[RequestedModel | None, list[int]]()
    for place, model in pack.models.items():
        places.setdefault(model, []).append(place)
    models = _MODELS.dump_json([*places.items()]).decode() if places else ""
    return {
        "pk": partition(pack.job_id),
        "sk": f"{PACK}{pack.pack_id}",
        "at": pack.accepted_at.isoformat(),
        "names": "\n".join(pack.names),
        "sizes": " ".join(map(str, pack.sizes)),
        "extensions": " ".join(pack.extensions),
        **stated({"owner": pack.owner, "attempts": attempts, "retried_at": pack.retried_at if attempts else None}),
        **stated({"models": models, SOURCE: _source_text(pack)}),
        **requested_model_attributes(pack.model),
    }


def pack_in(item: Item) -> Pack:
    """Return the pack of an item."""
    attempts = (each.split(":") for each in str(item.get("attempts", "")).split())
    models = _MODELS.validate_json(str(item["models"])) if "models" in item else []
    return Pack(
        job_id=str(item["pk"]).partition("#")[2],
        pack_id=str(item["sk"]).removeprefix(PACK),
        names=tuple(str(item["names"]).split("\n")),
        sizes=tuple(map(int, str(item["sizes"]).split())),
        extensions=tuple(str(item["extensions"]).split()),
        accepted_at=datetime.fromisoformat(str(item["at"])),
        owner=str(item.get("owner", "")),
        model=requested_model_in(item),
        models={place: model for model, places in models for place in places},
        attempts={int(place): int(attempt) for place, attempt in attempts},
        retried_at=moment_in(item, "retried_at"),
        source=_source_in(item),
    )


def _source_text(pack: Pack) -> str:
    """Return the objects of a pack as one attribute, without the keys that are the names of their images."""
    if pack.source is None:
        return ""
    if pack.source.is_shard:
        return pack.source.to_json()
    objects = tuple(
        ("" if key == name else key, etag) for name, (key, etag) in zip(pack.names, pack.source.objects, strict=True)
    )
    return pack.source.model_copy(update={"objects": objects}).to_json()


def _source_in(item: Item) -> SourceObjects | None:
    if SOURCE not in item:
        return None
    stored, names = SourceObjects.from_json(str(item[SOURCE])), str(item["names"]).split("\n")
    if stored.is_shard:
        return stored
    objects = tuple((key or name, etag) for name, (key, etag) in zip(names, stored.objects, strict=True))
    return stored.model_copy(update={"objects": objects})


def images_in(item: Item) -> dict[str, ImageRecord]:
    """Return the images of an item by their ids."""
    return {image.ref.image_id: image for image in pack_in(item).images()}


def pack_object(images: Iterable[tuple[str, bytes]], count: int) -> bytes | bytearray:
    """Return the object of a pack of `count` images, each with its extension; the same images give the same bytes.

    An image is asked for when those before it are in the object. So they need not be in memory twice.
    """
    tar = bytearray()
    for place, (extension, data) in enumerate(images):
        if count == 1:
            return data
        tar += _header(member_name(place, extension), len(data))
        tar += data
        tar += bytes(-len(data) % TAR_BLOCK)
    tar += bytes(2 * TAR_BLOCK)
    return tar


def _header(name: str, size: int) -> bytes:
    info = TarInfo(name)
    info.size = size
    return info.tobuf(USTAR_FORMAT)
