"""The catalogue of models: the bundles that jobs may be classified with, and which one a new job gets.

| pk       | sk        | content                          | written by |
| -------- | --------- | -------------------------------- | ---------- |
| `MODELS` | `CATALOG` | edition, `ModelCatalog` as JSON  | both       |

A job gets its model when it is created, and keeps it: every request of its images names the bundle's digest and
place. So another default changes only which model later jobs get. A change of the catalogue is a pure function of the
catalogue before; the store writes it only if no other change came in between.

Without an item the bundle of the configuration (`worker.bundle`) is the only version.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Final, Literal, Self

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import AwareDatetime, Field, model_validator

from core.label_sets import label_set
from core.messages import PLACE_PATTERN, RequestedModel, Sha256, WireModel
from services.errors import FleetsightError
from services.table import Item, Table

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""The name of a model, by which jobs and commands choose it: shorter than a digest, so that none looks like one."""

MAX_VERSIONS: Final = 20
"""Versions in the catalogue: removing one keeps its jobs working, so more need not be offered at a time."""

MAX_EDITOR_CHARACTERS: Final = 200
"""Characters of the user or file that added a version."""

CONFIGURATION: Final = "worker.bundle"
"""Stands for a user in versions that the configuration added."""

_CHANGE_TRIES: Final = 10
"""Tries of a change while other processes change the catalogue, too."""

_PK, _SK = "MODELS", "CATALOG"
_NAME = re.compile(NAME_PATTERN)


class CatalogRefusedError(FleetsightError):
    """Raised when a change of the catalogue is not possible; the message says what to do."""


class UnknownModelError(FleetsightError):
    """Raised when the catalogue has no model with a name; the message lists the known names."""


@dataclass(frozen=True, slots=True)
class JobModel:
    """The model of a job: the bundle that all its images are classified with.

    Attributes:
        name: in the catalogue when the job was created.
        digest, only: as in `RequestedModel`.
        place: where each worker can load the bundle from.
    """

    name: str
    digest: str
    place: str
    only: str | None = None

    @property
    def bundle(self) -> str:
        """The digest of the bundle."""
        return self.requested.bundle

    @property
    def requested(self) -> RequestedModel:
        """The model as requests name it."""
        return RequestedModel(digest=self.digest, place=self.place, only=self.only)

    def restricted(self, labels: Sequence[str], chosen: Collection[str]) -> "JobModel":
        """Return the model with only the `chosen` ones of its bundle's labels."""
        only = label_set(self.digest, labels, chosen)
        return replace(self, digest=sha256(only.encode()).hexdigest(), only=only)


class ModelVersion(WireModel):
    """A bundle that jobs may be classified with.

    Attributes:
        name: unique in the catalogue.
        digest: of the bundle, as results state it.
        place: where each worker can load it from.
        added_by: the operator, or `CONFIGURATION`; empty without sign-in.
    """

    name: str = Field(pattern=NAME_PATTERN)
    digest: Sha256
    place: str = Field(pattern=PLACE_PATTERN)
    added_at: AwareDatetime
    added_by: str = Field(default="", max_length=MAX_EDITOR_CHARACTERS)

    @property
    def for_job(self) -> JobModel:
        """The model of a job that is created with this version."""
        return JobModel(self.name, self.digest, self.place)


class ModelCatalog(WireModel):
    """The versions, and which of them new jobs get that name none.

    Attributes:
        versions: those that jobs may name, in the order in which they were added.
        default: digest of the version that new jobs get.
        previous: digest of the default before, to which a roll-back returns; None if there is none.
        configured: digest of the bundle that the configuration named last.
        edition: number of changes that were stored.
    """

    version: Literal[1] = 1
    versions: Annotated[tuple[ModelVersion, ...], Field(min_length=1, max_length=MAX_VERSIONS)]
    default: Sha256
    previous: Sha256 | None = None
    configured: Sha256
    edition: int = Field(default=0, ge=0)

    @classmethod
    def only(cls, version: ModelVersion) -> Self:
        """Return the catalogue with one version, which the configuration names."""
        return cls(versions=(version,), default=version.digest, configured=version.digest)

    @model_validator(mode="after")
    def _refers_to_its_versions(self) -> Self:
        digests = [each.digest for each in self.versions]
        if len(set(digests)) < len(digests) or len({each.name for each in self.versions}) < len(digests):
            raise ValueError("two versions have the same digest or name")
        if not {self.default, self.previous or self.default} <= set(digests):
            raise ValueError("the default or the previous default is no version")
        return self

    def find(self, name: str) -> ModelVersion | None:
        """Return the version called `name`, or with `name` as its digest, or None."""
        return next((each for each in self.versions if name in {each.name, each.digest}), None)

    def named(self, name: str) -> ModelVersion:
        """Return the version called `name`, or with `name` as its digest.

        Raises:
            UnknownModelError: there is none.
        """
        found = self.find(name)
        if found is None:
            known = ", ".join(each.name for each in self.versions)
            raise UnknownModelError(f"there is no model {name[:80]!r}: choose one of {known}")
        return found

    @property
    def default_version(self) -> ModelVersion:
        """The version that new jobs get."""
        return self.named(self.default)

    def model_for_job(self, name: str | None) -> JobModel:
        """Return the model of a new job: the one called `name`, by default the one that new jobs get.

        Raises:
            UnknownModelError: there is no model called `name`.
        """
        return self.named(self.default if name is None else name).for_job

    def changed(self, **fields: object) -> Self:
        """Return this catalogue with other values in some fields."""
        return self.model_validate({**dict(self), **fields})


def with_model(catalog: ModelCatalog, version: ModelVersion) -> ModelCatalog:
    """Return the catalogue with `version` added, or unchanged if it has this bundle by this name.

    Raises:
        CatalogRefusedError: the bundle has another name, another bundle has the name, or the catalogue is full.
    """
    known = catalog.find(version.digest)
    if known is not None and known.name == version.name:
        return catalog
    if known is not None:
        raise CatalogRefusedError(f"this bundle is the model {known.name!r} already, and a model has one name")
    if any(each.name == version.name for each in catalog.versions):
        raise CatalogRefusedError(f"another bundle is called {version.name!r} already: give this one another name")
    if len(catalog.versions) == MAX_VERSIONS:
        raise CatalogRefusedError(f"there are {MAX_VERSIONS} models, which is the most: remove one first")
    return catalog.changed(versions=(*catalog.versions, version))


def free_name(catalog: ModelCatalog, version: ModelVersion) -> str:
    """Return the name that the bundle has, or its own name, with a part of its digest if another bundle has that."""
    if (known := catalog.find(version.digest)) is not None:
        return known.name
    if all(each.name != version.name for each in catalog.versions):
        return version.name
    return f"{version.name[:50]}-{version.digest[:12]}"


def model_name(text: str | None) -> str:
    """Return the name for a bundle that calls itself `text`, which may have any characters."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text or "").lstrip("._-")[:63]
    return name if _NAME.fullmatch(name) else "model"


@dataclass(frozen=True)
class CatalogStore:
    """Reads and writes the catalogue. botocore's errors pass through."""

    table: Table

    def find(self) -> ModelCatalog | None:
        """Return the stored catalogue, or None before the first write."""
        item = self.table.get(_PK, _SK)
        return None if item is None else ModelCatalog.from_json(str(item["body"]))

    def change(
        self, change: Callable[[ModelCatalog], ModelCatalog], first: Callable[[], ModelCatalog]
    ) -> ModelCatalog:
        """Store what `change` makes of the stored catalogue, or of `first` if none is stored, and return it.

        If other processes change the catalogue meanwhile, `change` is called again with what they have stored, which
        may contain this change already: the reply to its write may be lost. Errors of both functions pass through,
        and then nothing is changed. After an error of botocore the outcome is unknown.

        Raises:
            CatalogRefusedError: other processes changed the catalogue each time before it was stored.
        """
        stored = self.find()
        for _ in range(_CHANGE_TRIES):
            before = stored or first()
            changed = change(before)
            if changed == stored:
                return stored
            changed = changed.model_copy(update={"edition": before.edition + 1})
            failure: Exception | None = None
            try:
                if self._put(changed):
                    return changed
            except (BotoCoreError, ClientError) as error:
                failure = error
            # The reply to a write that succeeded may be lost; the condition refuses botocore's repetition of it.
            stored = self.find()
            if stored == changed:
                return stored
            if failure is not None:
                raise failure
        raise CatalogRefusedError("the models are being changed by others just now: look at them, and try again")

    def _put(self, catalog: ModelCatalog) -> bool:
        """Store the catalogue if the stored one has the edition before its own; return whether the reply says so."""
        before = catalog.edition - 1
        item: Item = {"pk": _PK, "sk": _SK, "edition": catalog.edition, "body": catalog.to_json()}
        if before:
            return self.table.put_if(item, "#edition = :before", {"before": before})
        return self.table.put_if(item, "attribute_not_exists( #pk )")
