"""The model that `run.sh` serves with: a bundle by path or name, or the model for photos, which is built once."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app_tier.bundle import Bundle, load_bundle
from app_tier.bundle_s3 import in_s3
from core.bundle_facts import MANIFEST_NAME
from core.bundle_manifest import BundleError
from core.config import DEMO_BUNDLE, Config
from scripts.demo_model import DEMO_NAME
from scripts.home import MODELS_FOLDER
from scripts.model.built_once import PHOTOS, built_once, photos_once
from scripts.run.system import ROOT, StartError, System


def with_photos(
    system: System, say: Callable[[str], None], stop: threading.Event
) -> tuple[System, Bundle, Bundle | None]:
    """Return a system with the model for photos, its bundle, and that of the demo, which it is to offer beside it.

    A system with another bundle than that of config.yaml stays as it is, also with ``--model demo``, which is an
    absolute path; and so does one if neither the model is built nor the optional package with its weights installed.

    Raises:
        StartError: the configured bundle is not valid.
        ModelNotBuiltError: that for photos could not be built.
    """
    bundle = checked_bundle(system.config)
    photos = photos_once(say, stop) if system.config.worker.bundle == DEMO_BUNDLE else None
    if photos is None:
        return system, bundle, None
    served = replace(system, overrides={**system.overrides, **_setting(photos)})
    return served, checked_bundle(served.config), bundle


def model_setting(model: str, say: Callable[[str], None], stop: threading.Event) -> dict[str, str]:
    """Return the setting that serves `model`.

    Args:
        model: ``demo``, ``photos``, the name of a bundle in the folder of models, or the path of a bundle. A folder
            of images does not hide a name. The bundle of ``photos`` is built if it does not exist yet.
        say: shows a sentence.
        stop: ends the build.

    Raises:
        StartError: there is no such model.
        ModelNotBuiltError: its bundle could not be built.
    """
    bundle = ROOT / DEMO_BUNDLE if model == DEMO_NAME else Path(model)
    if not bundle.is_file() and not (bundle / MANIFEST_NAME).exists():
        built = sorted(path.parent.name for path in MODELS_FOLDER.glob(f"*/{MANIFEST_NAME}"))
        if model == PHOTOS:
            bundle = built_once(say, stop)
        elif model in built:
            bundle = MODELS_FOLDER / model
        elif not bundle.exists():
            names = ", ".join(dict.fromkeys((DEMO_NAME, PHOTOS, *built)))
            raise StartError(
                f"--model {model}: no bundle has this path or name; there are {names}, and "
                "./scripts/fleetsight model build makes others"
            )
    return _setting(bundle)


def _setting(bundle: Path) -> dict[str, str]:
    # The environment's values are read as YAML, of which JSON is a part.
    return {"FLEETSIGHT__WORKER__BUNDLE": json.dumps(str(bundle.absolute()))}


def checked_bundle(config: Config) -> Bundle:
    """Return the configured bundle; with an invalid one, workers would start and fail again and again.

    Raises:
        StartError: it is missing, not valid, or in S3.
    """
    bundle = config.worker.bundle
    try:
        if place := in_s3(bundle):
            raise StartError(
                f"worker.bundle: {place} cannot be here, where buckets begin empty: name a folder or zip"
            )
        return load_bundle(ROOT / bundle)
    except BundleError as error:
        raise StartError(f"worker.bundle: {error}") from error
