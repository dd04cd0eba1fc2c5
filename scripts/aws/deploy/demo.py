"""The models of `up --demo`, as `run.sh` offers them: that for photos to new jobs, that of drawn signs by name."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.bundle import DEMO_BUNDLE
from core.bundle_facts import MAX_MANIFEST_BYTES
from core.config import EngineName
from core.model_catalog import CatalogRefusedError, CatalogStore
from scripts.aws.context import AwsContext, explain_error
from scripts.aws.deploy.stack import StackDescription
from scripts.model.built_once import PHOTOS, photos_once
from services.clients import Clients, new_session
from services.endpoint import Endpoint
from services.s3 import Bucket
from services.table import Table
from web_tier.uploads.served_models import BundleReader, ServedModels

if TYPE_CHECKING:
    from rich.console import RenderableType


def demo_bundles(engine: EngineName, report: "Callable[[RenderableType], None]") -> tuple[Path, ...]:
    """Return the bundles of the demo, the one to bake first; that for photos is built if it does not exist yet.

    Raises:
        ModelNotBuiltError: it could not be built.
    """
    photos, why = None, f"{PHOTOS} has no network for the engine torch"
    if engine != "torch":
        photos, why = photos_once(report, threading.Event()), f"{PHOTOS} is not installed"
    if photos is None:
        remedy = "" if engine == "torch" else ". To offer both: ./scripts/setup.sh photos, then this command again"
        report(f"The demo model serves alone, since {why}{remedy}.")
        return (DEMO_BUNDLE,)
    return photos, DEMO_BUNDLE


def offer_bundles(context: AwsContext, stack: StackDescription, bundles: Sequence[Path]) -> None:
    """Publish these bundles, and offer them to jobs by name; a failure is reported, since the stack works without.

    New jobs get the model of the workers' image. Before the controller has recorded it, that is the first bundle.
    """
    account = context.account
    session = new_session()
    session.set_config_variable("profile", account.profile)
    url = account.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")  # which boto3 follows, too
    clients = Clients(Endpoint(account.region_name, url), session)

    def bucket_named(name: str) -> Bucket:
        return Bucket.named(clients, name)

    models = ServedModels(
        BundleReader(bundles[0], lambda bucket, key: bucket_named(bucket).get(key, MAX_MANIFEST_BYTES)),
        lambda: CatalogStore(Table(account.dynamodb, stack.outputs["JobTableName"])),
        stack.outputs["ModelBucketName"],
        bucket_named,
    )
    try:
        names = [models.add(str(bundle), None, "")[0].name for bundle in bundles]
        catalog = models.catalog()
    except (CatalogRefusedError, BotoCoreError, ClientError) as error:
        context.report(f"Jobs cannot name the demo's models: {explain_error(error)}; repeat the command.")
        return
    default = catalog.default_version.name if catalog else names[0]
    others = " and ".join(name for name in names if name != default)
    context.report(f"Models: {default} for new jobs{others and f', {others} by name'}.")
