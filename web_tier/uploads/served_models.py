"""Models in the web tier: the facts of bundles, the model that a new job gets, and changes of the catalogue."""

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from core.bundle_facts import BundleFacts, facts_in, read_manifest
from core.bundle_manifest import BundleError, Manifest
from core.messages import RequestedModel
from core.model_catalog import (
    CONFIGURATION,
    MAX_EDITOR_CHARACTERS,
    CatalogRefusedError,
    CatalogStore,
    JobModel,
    ModelCatalog,
    ModelVersion,
    free_name,
    model_name,
    with_model,
)
from core.published_bundles import publish, published_place
from core.sandbox.bundle_program import check_network
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.recent_dict import RecentDict
from services.s3 import Bucket, is_refusal

FRESH_SECONDS: Final = 5.0
"""Maximum age of the bundle's facts: a bundle that is built again in its place is known after so long."""

PUBLISHED_FRESH_SECONDS: Final = 300.0
"""The same for published bundles, of which only statements that affect no result can change."""

MAX_WAIT_SECONDS: Final = 5.0
"""Maximum time for which a thread waits for what another thread reads, since S3 may be slow."""

MAX_READERS: Final = 32
"""Published bundles of which a process keeps the facts: those that were used last."""

RECENT_SECONDS: Final = 1.0
"""Age of the catalogue at which it is read again, for pages and for single images."""

_log = logging.getLogger(__name__)


class Refresh:
    """Has something read again once it is too old: by one thread, while the others wait for it.

    They do not use what is too old: in a process that had no requests for a day, it would be of yesterday. After a
    failure they do not wait: a service that does not answer may take long each time.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock, self.read_at = clock, float("-inf")
        self._reading, self._has_failed = threading.Lock(), False

    def run(self, max_age: float, read: Callable[[], bool]) -> None:
        """Call `read`, which returns whether it could read, if nothing was read for `max_age` seconds."""
        if self.clock.monotonic() - self.read_at < max_age:
            return
        if not self._reading.acquire(timeout=0 if self._has_failed else MAX_WAIT_SECONDS):
            return
        try:
            if self.clock.monotonic() - self.read_at >= max_age:  # another thread may have read it meanwhile
                self._has_failed = not read()
                self.read_at = self.clock.monotonic()
        finally:
            self._reading.release()


@dataclass
class BundleReader:
    """Facts of the bundle at `place`, for all threads of a process, read again now and then.

    Attributes:
        place: a folder or zip, or a location in S3.
        get: returns an object of S3, by bucket and key.
        sha256: pins the bundle; None trusts every one.
        fresh_seconds: maximum age of the facts; after a failure they are read again after `FRESH_SECONDS`.
    """

    place: Path
    get: Callable[[str, str], bytes]
    sha256: str | None = None
    clock: Clock = CLOCK
    fresh_seconds: float = FRESH_SECONDS
    _facts: BundleFacts = field(default_factory=BundleFacts, init=False)
    _manifest_digest: bytes = field(default=b"", init=False)
    """SHA-256 of the ``bundle.json`` that states the facts: one with 1,000 labels is parsed once, not every time."""
    _problem: str | None = field(default=None, init=False)
    _refresh: Refresh = field(init=False)

    def __post_init__(self) -> None:
        """Read nothing yet."""
        self._refresh = Refresh(self.clock)

    def facts(self) -> BundleFacts:
        """Return what is known of the bundle; nothing when it cannot be read from here, which is logged once."""
        self._refresh.run(self.fresh_seconds if self._problem is None else FRESH_SECONDS, self._read)
        return self._facts

    def _read(self) -> bool:
        try:
            manifest, problem = read_manifest(self.place, self.get, self.sha256), None
            if (digest := hashlib.sha256(manifest).digest()) != self._manifest_digest:
                self._facts, self._manifest_digest = facts_in(manifest, str(self.place)), digest
        except (BundleError, NotFoundError, BotoCoreError, ClientError) as error:
            self._facts, self._manifest_digest, problem = BundleFacts(), b"", str(error)
        if problem != self._problem and problem is not None:
            _log.warning("classes have numbers, not names: %s", problem)
        self._problem = problem
        return problem is None


class ServedModels:
    """The models of a web process, for all its threads.

    Args:
        model_bucket: name of the bucket with the published bundles.
    """

    def __init__(
        self,
        configured: BundleReader,
        store: Callable[[], CatalogStore],
        model_bucket: str,
        bucket_named: Callable[[str], Bucket],
        *,
        clock: Clock = CLOCK,
    ) -> None:
        self.configured = configured
        self._store, self._model_bucket, self._bucket_named = store, model_bucket, bucket_named
        self._refresh, self._clock = Refresh(clock), clock
        self._lock = threading.Lock()
        self._readers = RecentDict[str, BundleReader](MAX_READERS)
        self._recent: ModelCatalog | None = None

    def catalog(self) -> ModelCatalog | None:
        """Return the catalogue; without a stored one, that of the configured bundle; None if that cannot be read."""
        self._recent = found = self._store().find() or self._configured_catalog()
        self._refresh.read_at = self._refresh.clock.monotonic()
        return found

    def recent_catalog(self) -> ModelCatalog | None:
        """Return the catalogue as it was a moment ago; while the table does not answer, as it was read last."""
        self._refresh.run(RECENT_SECONDS, self._read_recent)
        return self._recent or self._configured_catalog()

    def _read_recent(self) -> bool:
        try:
            self.catalog()
        except (BotoCoreError, ClientError) as error:
            _log.warning("the models could not be read: %s", error)
            return False
        return True

    def model_for_job(self, name: str | None) -> JobModel | None:
        """Return the model of a new job; None if the web tier cannot read the only bundle.

        Raises:
            UnknownModelError: there is no model called `name`.
        """
        catalog = self.catalog()
        if catalog is None and name is not None:
            raise CatalogRefusedError("the web tier cannot read any model just now: leave out the model's name")
        return None if catalog is None else catalog.model_for_job(name)

    def default_model(self) -> JobModel | None:
        """Return the model of new jobs by the recent catalogue; None if the web tier cannot read the only bundle."""
        catalog = self.recent_catalog()
        return None if catalog is None else catalog.model_for_job(None)

    def facts(self, model: JobModel | RequestedModel | None) -> BundleFacts:
        """Return what is known of a job's model; nothing if its bundle cannot be read or is another one."""
        own = self.configured.facts()
        if model is None or model.bundle == own.digest:
            return own
        found = self._reader(model.place).facts()
        return found if found.digest == model.bundle else BundleFacts(digest=model.bundle)

    def add(self, place: str, name: str | None, added_by: str) -> tuple[ModelVersion, ModelCatalog]:
        """Publish the bundle at `place` and add it as `name`, by default as it calls itself; return both.

        Raises:
            CatalogRefusedError: the bundle cannot be read, or the catalogue does not take it; the message says why.
            botocore.exceptions.BotoCoreError, ClientError: S3 cannot be reached, or refuses only for a time.
        """
        version = self._published(place, name, added_by)

        def change(before: ModelCatalog) -> ModelCatalog:
            unique = version if name else version.model_copy(update={"name": free_name(before, version)})
            return with_model(before, unique)

        catalog = self.change(change)
        return catalog.named(version.digest), catalog

    def change(self, change: Callable[[ModelCatalog], ModelCatalog]) -> ModelCatalog:
        """Store a change of the catalogue, and return the new one. Errors of `change` pass through.

        Raises:
            CatalogRefusedError: it could not be stored; the message says why.
        """
        self._recent = changed = self._store().change(change, self._first)
        self._refresh.read_at = self._refresh.clock.monotonic()
        return changed

    def _published(self, place: str, name: str | None, added_by: str) -> ModelVersion:
        try:
            models = self._bucket_named(self._model_bucket)
            facts = publish(Path(place), self._bucket_named, models, check=check_network)
        except (BundleError, ParamValidationError) as error:
            raise CatalogRefusedError(str(error)) from error
        except ClientError as error:
            if not is_refusal(error):  # the same bundle may be added in a moment
                raise
            raise CatalogRefusedError(str(error)) from error
        return _version(facts, self._model_bucket, name, self._clock.utc_now(), added_by)

    def _configured_catalog(self) -> ModelCatalog | None:
        facts = self.configured.facts()
        if facts.digest is None:
            return None
        # The controller publishes the bundle there.
        return ModelCatalog.only(configured_version(facts, self._model_bucket, self._clock.utc_now()))

    def _first(self) -> ModelCatalog:
        found = self._configured_catalog()
        if found is None:
            raise CatalogRefusedError(
                f"the web tier cannot read the configured bundle {self.configured.place}: see its log"
            )
        return found

    def _reader(self, place: str) -> BundleReader:
        with self._lock:
            reader = self._readers.get(place)
            if reader is None:
                reader = BundleReader(Path(place), self.configured.get, fresh_seconds=PUBLISHED_FRESH_SECONDS)
            self._readers[place] = reader  # the latest one that was used
            return reader


def configured_version(facts: BundleFacts | Manifest, bucket: str, at: datetime) -> ModelVersion:
    """Return the version of the configured bundle, which the controller publishes in the model bucket `bucket`."""
    return _version(facts, bucket, None, at, CONFIGURATION)


def _version(
    facts: BundleFacts | Manifest, bucket: str, name: str | None, at: datetime, added_by: str
) -> ModelVersion:
    digest = facts.digest or ""
    return ModelVersion(
        name=name or model_name(facts.name),
        digest=digest,
        place=published_place(bucket, digest),
        added_at=at,
        added_by=added_by[:MAX_EDITOR_CHARACTERS],
    )
