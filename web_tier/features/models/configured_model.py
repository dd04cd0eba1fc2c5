"""The configured model: the bundle of `worker.bundle` is published, and recorded in the catalogue of models.

The configuration may name another bundle while the system runs, or after a restart with another machine image; a
bundle may be built again in its place. Each becomes the model of new jobs. One that operators choose stays until
then. Jobs that exist keep their model: its bundle is published.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from core.bundle_facts import MAX_MANIFEST_BYTES, read_manifest
from core.bundle_manifest import BundleError
from core.config import WorkerSettings
from core.model_catalog import CatalogStore, ModelCatalog
from core.published_bundles import publish
from services.clock import utc_now
from services.errors import NotFoundError
from services.lease import Tenure
from services.s3 import Bucket
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.reporting import FleetEvent
from web_tier.features.models.catalog import with_configured
from web_tier.uploads.served_models import configured_version

CHECK_SECONDS: Final = 10.0
"""Time between two looks at the configured bundle."""

_log = logging.getLogger(__name__)


@dataclass
class ConfiguredModelRecorder:
    """Records the configured bundle.

    Attributes:
        worker: the workers' settings at the start of the process.
        fleet_config: has the settings once they have changed; shows another default as an event.
    """

    worker: WorkerSettings
    store: CatalogStore
    models: Bucket
    bucket_named: Callable[[str], Bucket]
    fleet_config: FleetConfigWatcher
    tenure: Tenure
    _recorded: bytes | None = field(default=None, init=False)
    _problem: str | None = field(default=None, init=False)

    def tick(self) -> float:
        """Record the bundle if this process has not recorded it yet; return the seconds until the next look."""
        worker = self.fleet_config.worker or self.worker
        try:
            manifest = read_manifest(
                worker.bundle,
                lambda bucket, key: self.bucket_named(bucket).get(key, MAX_MANIFEST_BYTES),
                worker.bundle_sha256,
            )
            seen = sha256(manifest).digest()
            if seen != self._recorded and self.tenure.active():
                self._record(worker)
                self._recorded = seen
            problem = None
        except (BundleError, NotFoundError) as error:
            problem = str(error)
        if problem is not None and problem != self._problem:
            _log.warning("the configured bundle is not offered to jobs: %s", problem)
        self._problem = problem
        return CHECK_SECONDS

    def _record(self, worker: WorkerSettings) -> None:
        # Published first: each job with the model has a place to load it from.
        facts = publish(worker.bundle, self.bucket_named, self.models, worker.bundle_sha256)
        version = configured_version(facts, self.models.name, utc_now())
        before = self.store.find()
        if before is not None and before.configured == version.digest:
            return

        def change(catalog: ModelCatalog) -> ModelCatalog:
            is_known = catalog.configured == version.digest
            return catalog if is_known else with_configured(catalog, version)

        after = self.store.change(change, lambda: ModelCatalog.only(version))
        if before is not None and before.default != after.default:
            name = after.default_version.name
            _log.warning("new jobs get the model of worker.bundle", extra={"model": name, "digest": after.default})
            self.fleet_config.add_event(FleetEvent(f"worker.bundle has changed: new jobs get the model {name}"))
