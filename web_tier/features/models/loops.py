"""The loop of the controller that adds the model of the configuration to the catalogue."""

from core.model_catalog import CatalogStore
from web_tier.controller.leader import Loop
from web_tier.controller.loops import FeatureContext
from web_tier.features.models.configured_model import ConfiguredModelRecorder


def loops(context: FeatureContext) -> tuple[Loop, ...]:
    """Return the loop of the recorder."""
    services = context.services
    recorder = ConfiguredModelRecorder(
        services.config.worker,
        CatalogStore(services.store.table),
        services.bucket_named(services.config.names.model_bucket),
        services.bucket_named,
        context.fleet_config,
        context.tenure,
    )
    return (Loop("configured_model", recorder, "10 s", "bundle", "published bundles, catalogue", "old model stays"),)
